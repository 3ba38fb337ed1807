"""Setup of the examples in the docstrings, which run with the tests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

import histocell
from histocell.encoders import registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

mpl.use("Agg")
histocell.settings.progress = False


@pytest.fixture(autouse=True)
def _example(doctest_namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """`hc` is there, logs are quiet, files go to a temporary folder, and neither figures nor encoders stay."""
    doctest_namespace["hc"] = histocell
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._registry()))
    logging.disable(logging.INFO)  # other packages write theirs to stdout
    yield
    logging.disable(logging.NOTSET)
    plt.close("all")
