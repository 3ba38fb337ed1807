"""Bars in notebooks: seen while something runs, and nothing of them in the file that is saved."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from histocell._core.settings import progress_bar, settings

CELLS = [
    "import time\nimport histocell as hc\nfrom histocell._core.settings import progress_bar\nhc.settings.progress = True",
    'for _ in progress_bar(range(5), desc="slow"):\n    time.sleep(0.6)\n"done"',
    """
try:
    with progress_bar(total=5, desc="outer") as outer:
        for _ in progress_bar(range(4), desc="inner"):
            time.sleep(0.8)
            outer.update()
        raise ValueError
except ValueError:
    print("caught")
""",
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_executed_notebook_holds_no_bar():
    nbformat, nbconvert = pytest.importorskip("nbformat"), pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbconvert.preprocessors.ExecutePreprocessor(timeout=300).preprocess(notebook, {})
    nbformat.validate(notebook)
    texts = [(output.get("text"), output.get("data")) for cell in notebook.cells for output in cell.outputs]
    assert [text for text, _ in texts if text] == ["caught\n"]
    shown = [data["text/plain"] for _, data in texts if data]
    assert [text for text in shown if text] == ["'done'"]
    assert "widgets" not in notebook.metadata
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    assert "slow:" not in page.replace('desc="slow"', "")
    assert "%|" not in page


def test_bar_is_seen_while_something_runs(monkeypatch):
    import IPython.display

    shown: list[dict[str, str]] = []
    handle = SimpleNamespace(update=lambda content, raw: shown.append(content))
    monkeypatch.setattr(IPython.display, "display", lambda content, raw, display_id: shown.append(content) or handle)
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(settings, "progress", True)
    for _ in progress_bar(range(6), desc="slow", unit="tile"):
        time.sleep(0.5)
    assert any("slow: " in content["text/plain"] and "tile/s" in content["text/plain"] for content in shown)
    assert shown[-1] == {"text/plain": ""}


def test_bar_of_a_terminal_is_cleared(monkeypatch, capsys):
    monkeypatch.setattr(settings, "progress", True)
    for _ in progress_bar(range(6), desc="slow"):
        time.sleep(0.5)
    written = capsys.readouterr().err
    assert "slow: " in written
    assert written.rpartition("\r")[0].rpartition("\r")[2].strip() == ""
