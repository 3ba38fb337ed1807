"""Models as plain data: a mapping for `uns`, a folder of config.json, model.safetensors and a card; strict, no pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.errors import listing
from histocell.models.base import model_class

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.models.base import Model

    type Arrays = dict[str, NDArray[Any]]

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_HISTORY = "history."
_BASELINE = "baseline_{}."


def to_dict(model: Model) -> dict[str, Any]:
    """The form that `uns` holds: ``{"config": json, "weights": {name: array}, "history": {name: array}}``."""
    config, weights, history = to_config_weights(model)
    return {"config": json.dumps(config, ensure_ascii=False), "weights": weights, "history": history}


def from_dict(state: Mapping[str, Any]) -> Model:
    """The model of `to_dict`, also after a round trip through h5ad or zarr."""
    if absent := [key for key in ("config", "weights") if key not in state]:
        msg = f"not a histocell model: {listing(absent)} missing; it has: {listing(state)}"
        raise ValueError(msg)
    config = json.loads(str(np.asarray(state["config"]).item()))
    return from_config_weights(config, state["weights"], state.get("history", {}))


def to_config_weights(model: Model) -> tuple[dict[str, Any], Arrays, Arrays]:
    """Config as JSON knows it, weights and history, the baselines' weights among them under ``baseline_<name>.``."""
    model._check_fitted()
    weights = {name: np.ascontiguousarray(array) for name, array in model.weights.items()}
    baselines = {}
    for name, baseline in model.baselines.items():
        baselines[name], arrays, _ = to_config_weights(baseline)
        weights |= {_BASELINE.format(name) + key: array for key, array in arrays.items()}
    config = {
        "format": FORMAT,
        "histocell": version("histocell"),
        "model": model.name,
        "config": dataclasses.asdict(model.config),
        "features": model.features,
        "targets": list(model.targets),
        "facts": model.facts,
        "arrays": {name: [array.dtype.name, *array.shape] for name, array in weights.items()},
        "baselines": baselines,
    }
    return config, weights, dict(model.history)


def from_config_weights(config: Mapping[str, Any], weights: Mapping[str, Any], history: Mapping[str, Any]) -> Model:
    """The model of `to_config_weights`.

    Raises
    ------
    ValueError
        When the format is a newer one, or the arrays are not exactly those that the config lists.
    """
    if config.get("format") != FORMAT:
        msg = (
            f"this model has format {config.get('format')!r}, this histocell reads format {FORMAT}; "
            "use the version of histocell that wrote it, or fit again"
        )
        raise ValueError(msg)
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    _check_arrays(config["arrays"], arrays)
    model = model_class(config["model"])(**config["config"])
    model.features, model.targets = list(config["features"]), list(config["targets"])
    model.facts = dict(config["facts"])
    model.history = {name: np.asarray(array) for name, array in history.items()}
    for name, baseline in config["baselines"].items():
        prefix = _BASELINE.format(name)
        own = {key.removeprefix(prefix): arrays.pop(key) for key in list(arrays) if key.startswith(prefix)}
        model.baselines[name] = from_config_weights(baseline, own, {})
    model.weights = arrays
    return model


def save(model: Model, folder: Any, *, overwrite: bool = False) -> None:
    """Write the model into a folder; see `Model.save`."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    if not overwrite and (folder / CONFIG).exists():
        msg = f"{folder} holds a model already; overwrite=True replaces it"
        raise FileExistsError(msg)
    config, weights, history = to_config_weights(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    arrays = weights | {_HISTORY + name: np.ascontiguousarray(array) for name, array in history.items()}
    save_file(arrays, folder / WEIGHTS)
    (folder / CARD).write_text(_card(model), encoding="utf-8")
    # Last, so that a folder with a config is a whole model even if the process was killed.
    (folder / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")


def load(source: Any) -> Model:
    """Load a model from a folder or a mapping; see `histocell.models.load`."""
    if isinstance(source, Mapping):
        return from_dict(source)
    folder = Path(source)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            there = listing(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
            msg = f"no model in {folder}: {name} not found ({there}); Model.save(folder) writes one"
            raise FileNotFoundError(msg)
    arrays = _read_arrays(folder / WEIGHTS)
    history = {key.removeprefix(_HISTORY): arrays.pop(key) for key in list(arrays) if key.startswith(_HISTORY)}
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return from_config_weights(config, arrays, history)


def _read_arrays(path: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        msg = f"{path} cannot be read ({error}); it is truncated or no safetensors file: copy or fit it again"
        raise ValueError(msg) from error


def _check_arrays(listed: Mapping[str, Any], arrays: Arrays) -> None:
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


def _card(model: Model) -> str:
    """A model card: what goes in, what comes out, what it may be used for."""
    features = [f"* `{f['key']}`: " + ", ".join(f"{k} {v}" for k, v in f.items() if k != "key") for f in model.features]
    facts = [f"* {name}: {value}" for name, value in model.facts.items()]
    settings = [f"* {name}: {value}" for name, value in dataclasses.asdict(model.config).items()]
    return "\n".join(
        [
            f"# {type(model).__name__}: {model.facts.get('task', 'regression')}",
            "",
            f"Fitted with histocell {version('histocell')}. Load with `histocell.models.load(folder)`.",
            "",
            "## Input",
            *(features or ["* an array of features; their origin was not recorded"]),
            "",
            "## Output",
            f"{len(model.targets) or 'unnamed'} targets: {', '.join(model.targets)}",
            "",
            "## Training",
            *facts,
            "",
            "## Settings",
            *settings,
            "",
            "## Licence and limits",
            "A model trained on the output of an encoder is bound by the licence of that encoder; several pathology",
            "encoders allow no commercial use. Research use only, not a medical device. Predictions hold for tissue, stain",
            "and scanner like those of the training sections; evaluate on patients of your own first.",
            "",
        ]
    )
