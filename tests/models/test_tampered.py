"""Models that were damaged or changed by hand: one error that says where and what, and never a wrong prediction."""

from __future__ import annotations

import copy
import json
import random
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from histocell.models import MLP, Hist2Cell, Mean, Places, Ridge, SpatialMLP, load
from histocell.models.files import CONFIG, WEIGHTS
from histocell.models.fingerprint import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from histocell.models.base import Model

    type Arrays = dict[str, np.ndarray]

TINY = {"hidden": (8, 4), "max_epochs": 2, "n_members": 2}


def fitted(name: str, X: np.ndarray, groups: np.ndarray) -> Model:
    Y = X[:, :3] + 20
    models = {
        "mean": Mean(),
        "ridge": Ridge(alphas=(0.1, 1.0)),
        "mlp": MLP(**TINY),
        "spatial_mlp": SpatialMLP(width=4, **TINY),
        "hist2cell": Hist2Cell(width=8, max_epochs=2, n_members=2),
    }
    model = models[name].fit(X, Y, groups=groups, places=PLACES, rng=0)
    model.targets = ["a", "b", "c"]
    model.features = [{"key": "X_toy", "dim": 8, "encoder": "toy", "size_um": 112.0}]
    model.facts |= {"task": "abundance", "standardize_by": None}
    model.baselines["mean"] = Mean(interval=None).fit(X, Y, groups=groups)
    hashes = np.arange(len(X), dtype=np.uint64)[:, None]
    model.fingerprint = Fingerprint.of(hashes, np.zeros(len(hashes), dtype=bool))
    return model


X = np.random.default_rng(0).normal(size=(90, 8))
GROUPS = np.repeat(["g0", "g1", "g2"], 30)
PLACES = Places.of(np.tile(100.0 * np.argwhere(np.ones((5, 6))), (3, 1)), GROUPS)
NAMES = ["mean", "ridge", "mlp", "spatial_mlp", "hist2cell"]
FIVE = PLACES.rows(np.arange(5))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with the models."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        fitted(name, X, GROUPS).save(folder / name)
    return folder


@pytest.fixture(params=NAMES)
def folder(request, saved, tmp_path) -> Path:
    return shutil.copytree(saved / request.param, tmp_path / "model")


@pytest.fixture
def ridge(saved, tmp_path) -> Path:
    return shutil.copytree(saved / "ridge", tmp_path / "model")


@pytest.fixture
def mlp(saved, tmp_path) -> Path:
    return shutil.copytree(saved / "mlp", tmp_path / "model")


def tamper(folder: Path, change: Callable[[dict[str, Any], Arrays], object]) -> None:
    """Change a model by hand, with all else as it should be for it: the list of arrays, and no checksum."""
    config, arrays = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    arrays = {name: array.copy() for name, array in arrays.items()}
    before = {name: array.shape for name, array in arrays.items()}
    config.pop("files", None)
    change(config, arrays)
    for name, array in arrays.items():
        if before.get(name) != array.shape:
            config["arrays"][name] = [array.dtype.name, *array.shape]
    for name in set(before) - set(arrays):
        del config["arrays"][name]
    (folder / CONFIG).write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / WEIGHTS)


def test_hand_made_changes_go_through(folder):
    """A change that makes sense is none of our business."""
    before = load(folder)
    tamper(folder, lambda config, arrays: config["targets"].reverse())
    assert load(folder).targets == before.targets[::-1]
    np.testing.assert_array_equal(load(folder).predict(X, places=PLACES), before.predict(X, places=PLACES))


def test_settings(mlp, user_sees):
    with user_sees("Models", "a model with an unknown target_transform", ValueError, match="target_transform must be"):
        tamper(mlp, lambda config, _: config["config"].update(target_transform="log7"))
        load(mlp)


def test_shares(mlp, user_sees):
    tamper(mlp, lambda config, _: config["config"].update(ridge_share=50))
    with user_sees("Models", "a model whose ridge_share is 50", ValueError, match="at least 0 and at most 1, not 50"):
        load(mlp)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(folder, value):
    name = next(name for name, array in load(folder).weights.items() if array.size and not name.startswith("input"))
    tamper(folder, lambda _, arrays: arrays[name].reshape(-1).__setitem__(0, value))
    with pytest.raises(ValueError, match=f"model.*NaN or infinite values: .*{name}"):
        load(folder)


def test_nan_weights(ridge, user_sees):
    tamper(ridge, lambda _, arrays: arrays["coefficients"].__setitem__((0, 0), np.nan))
    with user_sees("Models", "a model with NaN among its weights", ValueError, match="NaN or infinite"):
        load(ridge)


def test_truncated_config(ridge, user_sees):
    (ridge / CONFIG).write_text((ridge / CONFIG).read_text()[:12])
    with user_sees("Models", "a model whose config.json ends early", ValueError, match="truncated"):
        load(ridge)


def test_truncated_weights(ridge, user_sees):
    (ridge / WEIGHTS).write_bytes((ridge / WEIGHTS).read_bytes()[:-7])
    with user_sees("Models", "a model whose weights end early", ValueError, match="truncated"):
        load(ridge)


def test_weights_of_another_model(ridge, tmp_path, user_sees):
    """Same names, types and shapes, other numbers: only the checksum tells."""
    other = fitted("ridge", X[::-1], GROUPS)
    other.save(tmp_path / "other")
    (ridge / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    with user_sees("Models", "a model with the weights of another one", ValueError, match="is not the file that was"):
        load(ridge)


def test_missing_keys(ridge, user_sees):
    tamper(ridge, lambda config, _: config.pop("targets"))
    with user_sees("Models", "a model whose config.json lacks a key", ValueError, match="config lacks targets"):
        load(ridge)


def test_sizes(mlp, user_sees):
    tamper(mlp, lambda config, _: config["config"].update(hidden=[16, 4]))
    with user_sees("Models", "a model whose sizes were changed", ValueError, match="do not fit together"):
        load(mlp)


def test_names_doubled(ridge, user_sees):
    tamper(ridge, lambda config, _: config.update(targets=["a", "b", "a"]))
    with user_sees("Models", "a model that names a cell type twice", ValueError, match="more than once: a"):
        load(ridge)


def test_radius(saved, tmp_path, user_sees):
    folder = shutil.copytree(saved / "spatial_mlp", tmp_path / "model")
    tamper(folder, lambda _, arrays: arrays["radius_um"].__setitem__(0, -1.0))
    given = "a model that sees neighbours whose radius is negative"
    with user_sees("Models", given, ValueError, match="radius_um must be above 0"):
        load(folder)


CHANGES: dict[str, tuple[Callable[[dict[str, Any], Arrays], object], str]] = {
    "unknown key": (lambda c, a: c.update(extra=1), "unknown keys: extra"),
    "unknown setting": (lambda c, a: c["config"].update(extra=1), "no setting extra"),
    "unknown model": (lambda c, a: c.update(model="forest"), "unknown model 'forest'"),
    "model is a list": (lambda c, a: c.update(model=["ridge"]), "model must be a text"),
    "settings are a list": (lambda c, a: c.update(config=[]), "config must be an object"),
    "negative size": (lambda c, a: c["features"][0].update(dim=-8), "dim of features 'X_toy' is -8"),
    "size is a text": (lambda c, a: c["features"][0].update(dim="8"), "dim .* must be a whole number"),
    "other size": (lambda c, a: c["features"][0].update(dim=9), "do not fit together"),
    "too few columns": (lambda c, a: c["features"][0].update(columns=["a", "b"]), "8 columns of different names"),
    "columns doubled": (lambda c, a: c["features"][0].update(columns=["a"] * 8), "8 columns of different names"),
    "feature without key": (lambda c, a: c["features"][0].pop("key"), "key of features must be a text"),
    "features are texts": (lambda c, a: c.update(features=["X_toy"]), "each of the features must be an object"),
    "targets are numbers": (lambda c, a: c.update(targets=[1, 2, 3]), "each of the targets must be a text"),
    "fewer targets": (lambda c, a: c["targets"].pop(), "do not fit together"),
    "interval of 90": (lambda c, a: c["config"].update(interval=90), "interval must be above 0 and below 1"),
    "interval is a text": (lambda c, a: c["config"].update(interval="0.9"), "interval must be a number"),
    "nonnegative is a text": (lambda c, a: c["config"].update(nonnegative="no"), "nonnegative must be True or False"),
    "transform without its numbers": (
        lambda c, a: c["config"].update(target_transform="log1p" if "target_mean" in a else "standard"),
        None,
    ),
    "baseline of its own kind": (lambda c, a: c["baselines"]["mean"].update(model=7), "baseline 'mean': model must"),
    "baseline is null": (lambda c, a: c["baselines"].update(mean=None), "baseline 'mean' must be an object"),
    "baseline without weights": (lambda c, a: a.pop("baseline_mean.mean"), "do not fit together"),
    "weight is missing": (lambda c, a: a.pop("input_scale"), "do not fit together"),
    "one scale for all": (lambda c, a: a.update(input_scale=a["input_scale"][:1]), "do not fit together"),
    "scale turned": (lambda c, a: a.update(input_scale=a["input_scale"][None]), "do not fit together"),
    "interval without an end": (lambda c, a: a.pop("interval_high"), "do not fit together"),
    "rows of the fit in part": (lambda c, a: a.pop("rows.train"), "the rows of the fit"),
    "standardized by a number": (lambda c, a: c["facts"].update(standardize_by=5), "standardize_by in facts"),
    "arrays are a list": (lambda c, a: c.update(arrays=[]), "arrays must be an object"),
    "format of the future": (lambda c, a: c.update(format=99), "format 99"),
    "format is a list": (lambda c, a: c.update(format=[2]), r"format \[2\]"),
    "files are a number": (lambda c, a: c.update(files=5), "files must be an object"),
}


@pytest.mark.parametrize(("change", "match"), CHANGES.values(), ids=CHANGES)
def test_changes(folder, change, match):
    tamper(folder, change)
    if match is None:  # a ridge or a mean in other units is a model, too, if all numbers are there
        match = "do not fit together"
        if json.loads((folder / CONFIG).read_text())["config"]["target_transform"] == "log1p":
            return
    with pytest.raises(ValueError, match=match) as error:
        load(folder)
    assert str(error.value).startswith(f"the model in {folder} cannot be read: ")
    assert len(str(error.value)) < 700


def test_in_uns():
    from anndata import AnnData

    state = fitted("ridge", X, GROUPS).to_dict()
    changes = {
        "config": [
            5,
            "",
            "[]",
            "{",
            None,
            b"\xff",
            np.array(["a", "b"]),
            state["config"].replace('"ridge"', '"forest"'),
        ],
        "weights": [5, [], {}, {**state["weights"], "intercept": np.array(["a", "b", "c"])}],
        "history": [5, {"alphas": np.array(["x"])}],
    }
    for key, values in changes.items():
        for value in values:
            table = AnnData(np.ones((2, 1)), uns={"abundance_model": state | {key: value}})
            with pytest.raises(ValueError, match=r'^the model in uns\["abundance_model"\] cannot be read: '):
                load(table)
    for value in (5, "x", {}, {"config": "{}"}):
        with pytest.raises(ValueError, match="not a histocell model"):
            load(AnnData(np.ones((2, 1)), uns={"abundance_model": value}))


JUNK = [None, True, -1, 0, 10**30, 1e308, float("nan"), "", "standard", "é" * 50, [], [[]], [-1, 2], {}, {"key": []}]


def places(value: object) -> list[tuple]:
    """Paths of everything in a JSON object."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return [(key, *rest) for key, each in inner for rest in [(), *places(each)]]
    return []


def mutate_json(config: dict[str, Any], rng: random.Random) -> str:
    *path, last = rng.choice(places(config))
    inner: Any = config
    for key in path:
        inner = inner[key]
    action = rng.choice(["junk", "remove", "double"])
    if action == "junk":
        inner[last] = rng.choice(JUNK)
    elif action == "remove":
        del inner[last]
    elif isinstance(inner, list):
        inner.append(copy.deepcopy(inner[last]))
    else:
        inner[f"{last}2"] = copy.deepcopy(inner[last])
    return json.dumps(config)


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return rng.choice(
        [
            content[:start],
            content[:start] + bytes([content[start] ^ (1 << rng.randrange(8))]) + content[start + 1 :],
            content[:start] + rng.randbytes(8) + content[start + 8 :],
            content[start:],
            content + rng.randbytes(16),
            (10**12).to_bytes(8, "little") + content[8:],
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_mutations(folder, seed):
    """A model is read as it was saved, or it is one error that names the folder; what is read predicts."""
    rng = random.Random(seed)
    config, weights = (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()
    expected = load(folder).predict(X[:5], places=FIVE)
    header = 8 + int.from_bytes(weights[:8], "little")
    refused = 0
    for _ in range(60):
        new_config, new_weights = config, weights
        kind = rng.choice(["json", "config", "weights", "header"])
        if kind == "json":
            parsed = json.loads(config)
            if rng.random() < 0.5:
                parsed.pop("files", None)
            new_config = mutate_json(parsed, rng).encode()
        elif kind == "config":
            new_config = mutate_bytes(config, rng)
        elif kind == "weights":
            new_weights = mutate_bytes(weights, rng)
        else:  # without a checksum, the header alone must be enough
            parsed = json.loads(config)
            parsed.pop("files", None)
            new_config = json.dumps(parsed).encode()
            new_weights = mutate_bytes(weights[:header], rng) + weights[header:]
        (folder / CONFIG).write_bytes(new_config)
        (folder / WEIGHTS).write_bytes(new_weights)
        try:
            model = load(folder)
        except ValueError as error:
            refused += 1
            if not str(error).startswith(f"the model in {folder} cannot be read: "):
                raise
            continue
        found = model.predict(X[:5], places=FIVE)
        assert found.shape == expected.shape
        if kind == "weights":
            np.testing.assert_array_equal(found, expected)
    assert refused > 20
