"""Models as plain data: a mapping for `uns`, or a folder of config.json, model.safetensors and a card; strict, no pickle."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from histocell._core.errors import listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    type Arrays = dict[str, np.ndarray]
    type JSON = dict[str, Any]  # what json.loads gives

FORMAT, READABLE = 2, (1, 2)  # 2 has the rows of the fit
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_HISTORY = "history."
_LIMITS = """
## Licence and limits
A model trained on the output of an encoder is bound by the licence of that encoder; several pathology
encoders allow no commercial use. Research use only, not a medical device. Predictions hold for tissue, stain
and scanner like those of the training sections; evaluate on patients of your own first.
"""


class State(NamedTuple):
    """A fitted model as plain data.

    Attributes
    ----------
    config
        What JSON can hold: name of the model, settings, features, targets, facts, and the same of its baselines.
    weights
        Arrays of the model, and those of its baselines under ``baseline_<name>.``.
    history
        Curves of the training.
    """

    config: JSON
    weights: Arrays
    history: Arrays


def to_dict(state: State) -> JSON:
    """The form that `uns` holds: ``{"config": json, "weights": {name: array}, "history": {name: array}}``."""
    return state._asdict() | {"config": json.dumps(_with_arrays(state), ensure_ascii=False)}


def from_dict(mapping: Mapping[str, Any]) -> State:
    """The state of `to_dict`, also after a round trip through h5ad or zarr."""
    if absent := [key for key in ("config", "weights") if key not in mapping]:
        msg = f"not a histocell model: {listing(absent)} missing; it has: {listing(mapping)}"
        raise ValueError(msg)
    config = json.loads(str(np.asarray(mapping["config"]).item()))
    weights, history = (
        {name: np.asarray(array) for name, array in mapping.get(key, {}).items()} for key in ("weights", "history")
    )
    return _checked(State(config, weights, history))


def write(state: State, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a model into a folder; see `histocell.models.base.Model.save`."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    if not overwrite and (folder / CONFIG).exists():
        msg = f"{folder} holds a model already; overwrite=True replaces it"
        raise FileExistsError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    history = {_HISTORY + name: np.ascontiguousarray(array) for name, array in state.history.items()}
    save_file(state.weights | history, folder / WEIGHTS)
    (folder / CARD).write_text(_card(state.config), encoding="utf-8")
    # Last, so that a folder with a config is a whole model even if the process was killed.
    (folder / CONFIG).write_text(json.dumps(_with_arrays(state), ensure_ascii=False, indent=1), encoding="utf-8")


def read(folder: str | Path) -> State:
    """Read the model of a folder; see `histocell.models.load`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            there = listing(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
            msg = f"no model in {folder}: {name} not found ({there}); Model.save(folder) writes one"
            raise FileNotFoundError(msg)
    try:
        arrays = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        msg = (
            f"{folder / WEIGHTS} cannot be read ({error}); it is truncated or no safetensors file: copy or fit it again"
        )
        raise ValueError(msg) from error
    history = pop_prefix(arrays, _HISTORY)
    return _checked(State(json.loads((folder / CONFIG).read_text(encoding="utf-8")), arrays, history))


def pop_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """Take out the arrays whose names begin with `prefix`, and drop it from the names."""
    return {key.removeprefix(prefix): arrays.pop(key) for key in list(arrays) if key.startswith(prefix)}


def _with_arrays(state: State) -> JSON:
    """The config with what it is read by: the format, and type and shape of each array."""
    arrays = {name: [array.dtype.name, *array.shape] for name, array in state.weights.items()}
    return {"format": FORMAT, "histocell": version("histocell"), **state.config, "arrays": arrays}


def _checked(state: State) -> State:
    """The state, if its format is known and its arrays are exactly those that the config lists."""
    if state.config.get("format") not in READABLE:
        msg = (
            f"this model has format {state.config.get('format')!r}, this histocell reads formats {listing(READABLE)}; "
            "use the version of histocell that wrote it, or fit again"
        )
        raise ValueError(msg)
    listed, actual = state.config["arrays"], _with_arrays(state)["arrays"]
    wrong = [
        f"{name}: {actual.get(name, 'missing')}, not {what}"
        for name, what in listed.items()
        if actual.get(name) != what
    ]
    wrong += [f"{name}: not in the config" for name in actual if name not in listed]
    if wrong:
        msg = f"the weights are not those of this model: {listing(wrong, 5)}"
        raise ValueError(msg)
    return state


def _card(config: JSON) -> str:
    """A model card: what goes in, what comes out, what it may be used for."""
    features = [
        f"`{f['key']}`: " + ", ".join(f"{k} {v}" for k, v in f.items() if k not in ("key", "columns"))
        for f in config["features"]
    ]
    sections = {
        "Input": features or ["an array of features; their origin was not recorded"],
        "Output": [f"{len(config['targets']) or 'unnamed'} targets: {', '.join(config['targets'])}"],
        "Training": [f"{name}: {value}" for name, value in config["facts"].items()],
        "Settings": [f"{name}: {value}" for name, value in config["config"].items()],
    }
    head = (
        f"# {config['model']}: {config['facts'].get('task', 'regression')}\n\n"
        f"Fitted with histocell {version('histocell')}. Load with `histocell.models.load(folder)`.\n"
    )
    body = [f"\n## {title}\n" + "".join(f"* {line}\n" for line in lines) for title, lines in sections.items()]
    return head + "".join(body) + _LIMITS
