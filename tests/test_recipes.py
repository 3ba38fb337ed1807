"""The recipes of docs/architecture.md, run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from histocell.encoders import registry as encoders
from histocell.models import registry as models

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
RECIPES = dict(re.findall(r"^## (Add .*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.M))


@pytest.fixture
def _registries(monkeypatch):
    """A recipe may add to the registries of the test alone."""
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    known = dict(encoders._registry())
    yield
    encoders._registry().clear()
    encoders._registry().update(known)


def test_there_are_five():
    assert list(RECIPES) == [f"Add {thing}" for thing in ("an encoder", "a model", "a task", "a reader", "a plot")]


@pytest.mark.usefixtures("_registries")
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe, trial = re.findall(r"```python\n(.*?)```", RECIPES[name], flags=re.DOTALL)
    assert len([line for line in recipe.splitlines() if line.strip()]) < 20
    namespace: dict[str, object] = {"__name__": "recipe"}
    for block in (recipe, trial):
        exec(compile(block, f"{PAGE.name}, {name}", "exec"), namespace)
    plt.close("all")
