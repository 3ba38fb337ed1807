from __future__ import annotations

from pathlib import Path

from histocell.nuclei.measuring.columns import MEASUREMENTS

PAGE = Path(__file__).parents[2] / "docs" / "nuclei_measurements.md"


def test_the_page_shows_every_name_with_unit_and_formula():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if line.startswith("| `")]
    assert shown == [f"| `{name}` | {unit} | {text} |" for name, (unit, text) in MEASUREMENTS.items()]
