from __future__ import annotations

import json

import numpy as np
import pytest

from histocell.models import MLP, Mean, Ridge, load
from histocell.models.files import CONFIG, WEIGHTS

TINY = {"hidden": (8,) * 6, "max_epochs": 2, "n_members": 2}


@pytest.fixture(params=["mean", "ridge", "mlp"])
def fitted(request, cohort):
    model = {"mean": Mean(), "ridge": Ridge(alphas=(0.1, 1.0)), "mlp": MLP(**TINY)}[request.param]
    model.fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
    model.targets = ["T-cells CD4+", "Plasma Cells", "α_β"]
    model.features = [{"key": "X_toy", "dim": 8, "encoder": "toy"}]
    model.baselines["mean"] = Mean(interval=None).fit(cohort.X, cohort.Y, groups=cohort.groups)
    return model


def assert_same_model(found, model, X):
    np.testing.assert_array_equal(found.predict(X), model.predict(X))
    for mine, theirs in zip(found.interval(found.predict(X)), model.interval(model.predict(X)), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(found.baselines["mean"].predict(X), model.baselines["mean"].predict(X))
    assert (found.targets, found.features, found.facts) == (model.targets, model.features, model.facts)
    assert found.config == model.config
    assert set(found.history) == set(model.history)


def test_folder(fitted, cohort, tmp_path):
    fitted.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", CONFIG, WEIGHTS]
    assert_same_model(load(tmp_path / "model"), fitted, cohort.X)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "T-cells CD4+" in card
    assert "encoder toy" in card
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fitted.save(tmp_path / "model")
    fitted.save(tmp_path / "model", overwrite=True)


def test_mapping(fitted, cohort):
    state = fitted.to_dict()
    assert isinstance(state["config"], str)
    assert not any("/" in name for name in state["weights"])
    assert_same_model(load(state), fitted, cohort.X)


def test_sources(fitted, cohort):
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    table = AnnData(np.ones((2, 1)), uns={"abundance_model": fitted.to_dict()})
    assert_same_model(load(table), fitted, cohort.X)
    table.uns["mine"] = table.uns.pop("abundance_model")
    assert_same_model(load(table, model_key="mine"), fitted, cohort.X)
    with pytest.raises(KeyError, match=r'uns\["abundance_model"\] not found; available: mine'):
        load(table)
    with pytest.raises(KeyError, match=r"Fit a model first, hc\.tl\.fit_cell_types\(data\)"):
        load(table, model_key="cell_type_model")
    sdata = SpatialData(tables={"first": TableModel.parse(table), "second": TableModel.parse(AnnData(np.ones((2, 1))))})
    assert_same_model(load(sdata, model_key="mine"), fitted, cohort.X)
    assert_same_model(load(sdata, model_key="mine", table_key="first"), fitted, cohort.X)
    with pytest.raises(KeyError, match="not found"):
        load(sdata, model_key="mine", table_key="second")
    with pytest.raises(KeyError, match="third"):
        load(sdata, table_key="third")
    sdata["second"].uns["mine"] = fitted.to_dict()
    with pytest.raises(ValueError, match="first, second; choose one with table_key="):
        load(sdata, model_key="mine")
    with pytest.raises(TypeError, match="not DataFrame"):
        load(pd.DataFrame())


def test_first_format(fitted, cohort):
    state = fitted.to_dict()
    config = json.loads(state["config"]) | {"format": 1}
    config["baselines"]["mean"] |= {"format": 1, "arrays": {}}
    assert_same_model(load(state | {"config": json.dumps(config)}), fitted, cohort.X)


class TestStrict:
    @pytest.fixture
    def state(self, fitted):
        return fitted.to_dict()

    def test_missing_extra_and_reshaped_arrays(self, state):
        name = next(iter(state["weights"]))
        for change in (
            {k: v for k, v in state["weights"].items() if k != name},
            state["weights"] | {"stranger": np.ones(2)},
            state["weights"] | {name: state["weights"][name][:-1]},
            state["weights"] | {name: state["weights"][name].astype(np.float16)},
        ):
            with pytest.raises(ValueError, match="not those of this model"):
                load(state | {"weights": change})

    def test_newer_format(self, state):
        config = json.loads(state["config"]) | {"format": 99}
        with pytest.raises(ValueError, match="format 99"):
            load(state | {"config": json.dumps(config)})

    def test_not_a_model(self, tmp_path):
        with pytest.raises(ValueError, match="not a histocell model: config, weights missing"):
            load({"a": 1})
        with pytest.raises(FileNotFoundError, match="no such folder"):
            load(tmp_path / "nothing")
        with pytest.raises(FileNotFoundError, match=r"config.json not found \(none\)"):
            load(tmp_path)

    def test_truncated(self, fitted, tmp_path):
        fitted.save(tmp_path / "m")
        path = tmp_path / "m" / WEIGHTS
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(ValueError, match="truncated"):
            load(tmp_path / "m")
