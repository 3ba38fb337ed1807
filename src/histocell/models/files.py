"""Models as plain data: a mapping for `uns`, or a folder of config.json, model.safetensors and a card; strict, no pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.errors import listing
from histocell.models.fingerprint import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    type Arrays = dict[str, np.ndarray]
    type JSON = dict[str, Any]  # what json.loads gives

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_HISTORY = "history."
_ROWS = "rows."
_BASELINE = "baseline_{}."


@dataclass
class State:
    """Everything that a fitted model is made of; the attributes are those of `histocell.models.base.Model`."""

    model: str
    config: JSON
    features: list[JSON]
    targets: list[str]
    facts: JSON
    weights: Arrays
    history: Arrays = field(default_factory=dict)
    fingerprint: Fingerprint | None = None
    baselines: dict[str, State] = field(default_factory=dict)


def to_dict(state: State) -> JSON:
    """The form that `uns` holds: ``{"config": json, "weights": {name: array}, "history": {name: array}}``."""
    config, weights = _to_config_weights(state)
    return {"config": json.dumps(config, ensure_ascii=False), "weights": weights, "history": dict(state.history)}


def from_dict(mapping: Mapping[str, Any]) -> State:
    """The state of `to_dict`, also after a round trip through h5ad or zarr."""
    if absent := [key for key in ("config", "weights") if key not in mapping]:
        msg = f"not a histocell model: {listing(absent)} missing; it has: {listing(mapping)}"
        raise ValueError(msg)
    config = json.loads(str(np.asarray(mapping["config"]).item()))
    return _from_config_weights(config, mapping["weights"], mapping.get("history", {}))


def write(state: State, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a model into a folder; see `histocell.models.base.Model.save`."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    if not overwrite and (folder / CONFIG).exists():
        msg = f"{folder} holds a model already; overwrite=True replaces it"
        raise FileExistsError(msg)
    config, weights = _to_config_weights(state)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    arrays = weights | {_HISTORY + name: np.ascontiguousarray(array) for name, array in state.history.items()}
    save_file(arrays, folder / WEIGHTS)
    (folder / CARD).write_text(_card(state), encoding="utf-8")
    # Last, so that a folder with a config is a whole model even if the process was killed.
    (folder / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")


def read(folder: str | Path) -> State:
    """Read the model of a folder; see `histocell.models.load`."""
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            there = listing(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
            msg = f"no model in {folder}: {name} not found ({there}); Model.save(folder) writes one"
            raise FileNotFoundError(msg)
    arrays = _read_arrays(folder / WEIGHTS)
    history = _pop(arrays, _HISTORY)
    return _from_config_weights(json.loads((folder / CONFIG).read_text(encoding="utf-8")), arrays, history)


def _to_config_weights(state: State) -> tuple[JSON, Arrays]:
    """Config as JSON knows it, and all arrays, those of the baselines under ``baseline_<name>.``."""
    weights = {name: np.ascontiguousarray(array) for name, array in state.weights.items()}
    if state.fingerprint is not None:
        weights |= {_ROWS + name: hashes for name, hashes in state.fingerprint._asdict().items()}
    baselines = {}
    for name, baseline in state.baselines.items():
        baselines[name], arrays = _to_config_weights(baseline)
        weights |= {_BASELINE.format(name) + key: array for key, array in arrays.items()}
    config = {
        "format": FORMAT,
        "histocell": version("histocell"),
        "model": state.model,
        "config": state.config,
        "features": state.features,
        "targets": list(state.targets),
        "facts": state.facts,
        "arrays": {name: [array.dtype.name, *array.shape] for name, array in weights.items()},
        "baselines": baselines,
    }
    return config, weights


def _from_config_weights(config: JSON, weights: Mapping[str, Any], history: Mapping[str, Any]) -> State:
    """The state of `_to_config_weights`, whose arrays must be exactly those that the config lists."""
    if config.get("format") != FORMAT:
        msg = (
            f"this model has format {config.get('format')!r}, this histocell reads format {FORMAT}; "
            "use the version of histocell that wrote it, or fit again"
        )
        raise ValueError(msg)
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    _check_arrays(config["arrays"], arrays)
    baselines = {
        name: _from_config_weights(baseline, _pop(arrays, _BASELINE.format(name)), {})
        for name, baseline in config["baselines"].items()
    }
    rows = _pop(arrays, _ROWS)
    return State(
        model=config["model"],
        config=config["config"],
        features=list(config["features"]),
        targets=list(config["targets"]),
        facts=dict(config["facts"]),
        weights=arrays,
        history={name: np.asarray(array) for name, array in history.items()},
        fingerprint=Fingerprint(**rows) if rows else None,
        baselines=baselines,
    )


def _pop(arrays: Arrays, prefix: str) -> Arrays:
    """Take out the arrays whose names begin with `prefix`, and drop it from the names."""
    return {key.removeprefix(prefix): arrays.pop(key) for key in list(arrays) if key.startswith(prefix)}


def _read_arrays(path: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        msg = f"{path} cannot be read ({error}); it is truncated or no safetensors file: copy or fit it again"
        raise ValueError(msg) from error


def _check_arrays(listed: Mapping[str, list[Any]], arrays: Arrays) -> None:
    found = {name: [array.dtype.name, *array.shape] for name, array in arrays.items()}
    wrong = [
        f"{name}: {found.get(name, 'missing')}, not {list(what)}"
        for name, what in listed.items()
        if found.get(name) != list(what)
    ]
    wrong += [f"{name}: not in the config" for name in found if name not in listed]
    if wrong:
        msg = f"the weights are not those of this model: {listing(wrong, 5)}"
        raise ValueError(msg)


def _card(state: State) -> str:
    """A model card: what goes in, what comes out, what it may be used for."""
    features = [f"* `{f['key']}`: " + ", ".join(f"{k} {v}" for k, v in f.items() if k != "key") for f in state.features]
    return "\n".join(
        [
            f"# {state.model}: {state.facts.get('task', 'regression')}",
            "",
            f"Fitted with histocell {version('histocell')}. Load with `histocell.models.load(folder)`.",
            "",
            "## Input",
            *(features or ["* an array of features; their origin was not recorded"]),
            "",
            "## Output",
            f"{len(state.targets) or 'unnamed'} targets: {', '.join(state.targets)}",
            "",
            "## Training",
            *(f"* {name}: {value}" for name, value in state.facts.items()),
            "",
            "## Settings",
            *(f"* {name}: {value}" for name, value in state.config.items()),
            "",
            "## Licence and limits",
            "A model trained on the output of an encoder is bound by the licence of that encoder; several pathology",
            "encoders allow no commercial use. Research use only, not a medical device. Predictions hold for tissue, stain",
            "and scanner like those of the training sections; evaluate on patients of your own first.",
            "",
        ]
    )
