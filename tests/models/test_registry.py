from __future__ import annotations

import re

import pytest

import histocell as hc
from histocell.models import registry
from histocell.models.regressors.perceptron import Perceptron
from histocell.models.regressors.ridge import Mean
from histocell.tl._cell_types.task import CELL_TYPES
from histocell.tl.engine.abundance import ABUNDANCE


def test_every_model_says_what_it_is():
    table = hc.models.list_models()
    assert table.index.tolist() == list(registry.MODELS)
    known = table.drop(index="mean")
    assert (known != "").all(axis=None), known[(known == "").any(axis=1)]
    assert (table.drop(columns="reference") != "").all(axis=None)
    for task in table["tasks"].str.split(", ").explode():
        assert task in {ABUNDANCE.name, CELL_TYPES.name, "alignment", "expression", "slides"}


def test_models_of_ones_own_are_listed(monkeypatch: pytest.MonkeyPatch):
    class Mine(Mean):
        name = "mine"
        summary = "Mine."

    monkeypatch.setitem(registry.MODELS, "mine", Mine)
    assert hc.models.list_models().loc["mine", "summary"] == "Mine."


@pytest.mark.parametrize("preset", ["paper", "robust"])
def test_size_of_the_mlp(preset: str):
    config = hc.models.MLP(preset=preset).config
    net = Perceptron(1536, 30, hidden=config.hidden, layer_norm=config.layer_norm, dropout=config.dropout)
    millions = config.n_members * sum(each.numel() for each in net.parameters()) / 1e6
    stated = re.search(rf'([\d.]+) \("{preset}"\)', hc.models.list_models().loc["mlp", "cost"])
    assert stated is not None
    assert float(stated[1]) == round(millions, 1)


@pytest.mark.parametrize("name", ["hist2cell", "spatial_mlp"])
def test_size_of_models_that_see_neighbours(name: str):
    net = registry.model_class(name)()._build(1536, 30)
    stated = re.search(r"([\d.]+) million weights per net", hc.models.list_models().loc[name, "cost"])
    assert stated is not None
    assert float(stated[1]) == round(sum(each.numel() for each in net.parameters()) / 1e6, 1)


def test_a_model_of_another_task_is_an_error():
    with pytest.raises(
        ValueError, match="'knn' is a model for cell_types, not for abundance; there are: hist2cell, mean"
    ):
        registry.model_class("knn", "abundance")
    with pytest.raises(ValueError, match="unknown model 'forest'; there are: hist2cell, mean, mlp, ridge, spatial_mlp"):
        registry.model_class("forest", "abundance")
    with pytest.raises(ValueError, match="Ridge is a model for abundance, expression, not for cell_types"):
        registry.make_model(hc.models.Ridge(), {}, "cell_types")
