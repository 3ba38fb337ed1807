"""Models as plain data: a mapping for `uns`, or a folder of config.json, model.safetensors and a card; strict, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from histocell._core.errors import listing
from histocell._core.outputs import PARTIAL, file_digest, make_folder, partial_folder
from histocell.models import checks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histocell._core.types import JSON, Arrays

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_HISTORY, _FILES = "history.", "files"
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
    there = mapping if isinstance(mapping, Mapping) else {}
    if absent := [key for key in ("config", "weights") if key not in there]:
        msg = f"not a histocell model: {listing(absent)} missing; it has: {listing(there)}"
        raise ValueError(msg)
    text = np.asarray(mapping["config"])
    if text.size != 1 or not isinstance(text.item(), str | bytes):
        msg = f"its config must be a text, not {type(mapping['config']).__name__}"
        raise ValueError(msg)
    return _checked(checks.parse(text.item(), "config"), _arrays(mapping, "weights"), _arrays(mapping, "history"))


def _arrays(mapping: Mapping[str, Any], key: str) -> Arrays:
    arrays = mapping.get(key, {})
    if not isinstance(arrays, Mapping):
        msg = f"its {key} must be a mapping of arrays, not {type(arrays).__name__}"
        raise ValueError(msg)
    return {str(name): np.asarray(array) for name, array in arrays.items()}


def write(state: State, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a model into a folder; see `histocell.models.base.Model.save`."""
    from safetensors.numpy import save_file

    folder = make_folder(Path(folder))
    _check_free(folder, overwrite=overwrite)
    history = {_HISTORY + name: np.ascontiguousarray(array) for name, array in state.history.items()}
    with partial_folder(folder) as partial:
        save_file(state.weights | history, partial / WEIGHTS)
        (partial / CARD).write_text(_card(state.config), encoding="utf-8")
        digests = {name: file_digest(partial / name) for name in (WEIGHTS, CARD)}
        config = json.dumps(_with_arrays(state) | {_FILES: digests}, ensure_ascii=False, indent=1)
        (partial / CONFIG).write_text(config, encoding="utf-8")
        # Whole files change places. The config says which weights are its own, so that a kill in between is noticed;
        # the card goes first and comes last, so that it is never taken for one that the user changed.
        (folder / CARD).unlink(missing_ok=True)
        for name in (CONFIG, WEIGHTS, CARD):
            (partial / name).replace(folder / name)


def _check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything, unless it is a model that may be replaced."""
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(PARTIAL))
    if not there:
        return
    config = _saved_config(folder)
    if config is None:
        msg = (
            f"{folder} holds other files ({listing(there, 5)}), and none of them is the {CONFIG} of a model; "
            "a model is saved into a folder of its own"
        )
        raise FileExistsError(msg)
    if not overwrite:
        msg = f"{folder} holds a model already; overwrite=True replaces it"
        raise FileExistsError(msg)
    files = {name: folder / name for name in (CONFIG, WEIGHTS, CARD) if (folder / name).exists()}
    changed = [name for name, path in files.items() if path.is_symlink() or not path.is_file()]
    if CARD in files and CARD not in changed and not _is_own_card(files[CARD], config):
        changed.append(CARD)
    if changed:
        msg = f"{listing(changed)} in {folder} was changed since histocell wrote it; move it away, or choose another folder"
        raise FileExistsError(msg)


def _saved_config(folder: Path) -> JSON | None:
    """The config of the model that a folder holds, `None` where it holds none."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) and {"format", "histocell", "model"} <= config.keys() else None


def _is_own_card(card: Path, config: JSON) -> bool:
    digests = config.get(_FILES)
    return isinstance(digests, dict) and digests.get(CARD) == file_digest(card)


def read(folder: Path) -> State:
    """Read the model of a folder; see `histocell.models.load`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            there = listing(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
            msg = f"no model in {folder}: {name} not found ({there}); Model.save(folder) writes one"
            raise FileNotFoundError(msg)
    config = checks.parse((folder / CONFIG).read_bytes(), CONFIG)
    digest = config.get(_FILES, {})
    if isinstance(digest, dict) and digest.get(WEIGHTS) not in {None, file_digest(folder / WEIGHTS)}:
        msg = (
            f"{WEIGHTS} is not the file that was saved with {CONFIG}: it is truncated, was changed, or comes from "
            "another model; copy both again, or save the model again"
        )
        raise ValueError(msg)
    try:
        arrays = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError, TypeError, LookupError, OverflowError) as error:
        msg = f"{WEIGHTS} is truncated or no safetensors file ({error})"
        raise ValueError(msg) from error
    history = pop_prefix(arrays, _HISTORY)
    return _checked(config, arrays, history)


@contextmanager
def naming(origin: str) -> Iterator[None]:
    """One error for whatever is wrong with a model, which says where it came from."""
    try:
        yield
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        msg = f"the model in {origin} cannot be read: {error}"
        raise ValueError(msg) from error


def pop_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """Take out the arrays whose names begin with `prefix`, and drop it from the names."""
    return {key.removeprefix(prefix): arrays.pop(key) for key in list(arrays) if key.startswith(prefix)}


def _with_arrays(state: State) -> JSON:
    """The config with what it is read by: the format, and type and shape of each array."""
    return {
        "format": checks.FORMAT,
        "histocell": version("histocell"),
        **state.config,
        "arrays": checks.describe(state.weights),
    }


def _checked(config: JSON, weights: Arrays, history: Arrays) -> State:
    """The state, if config and arrays are such as a model has."""
    checks.check_arrays(config, weights)
    checks.check_config(config)
    checks.check_numbers(history, "history")
    return State(config, weights, history)


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
