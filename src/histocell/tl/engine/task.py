"""Fit and predict, for any task that maps embeddings to a table of targets; the verbs of a task are thin over this."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell._core.rng import as_rng
from histocell._core.settings import logger
from histocell.models.base import Model, load, model_class
from histocell.tables.access import coordinates, get_obsm, get_table, is_spatialdata, row_labels
from histocell.tl.engine import features as _features

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike

TRAIN, VAL, TEST = "train", "val", "test"
LOWER, UPPER = "_lower", "_upper"
# Fitted on the same rows beside a model, the simplest first.
BASELINES = {"mean": (), "ridge": ("mean",), "mlp": ("mean", "ridge")}
_BLOCKS = 8
_NO_GUARANTEE = "scores and the coverage of intervals in other patients are not guaranteed"


@dataclass(frozen=True)
class Task:
    """What tells one task from another.

    Attributes
    ----------
    name
        Name of the task, as in ``fit_<name>``.
    target_hint
        What to run when the target is missing.
    """

    name: str
    target_hint: str = ""


@dataclass(frozen=True)
class Rows:
    """Rows that a model may see.

    Attributes
    ----------
    index
        Positions in the table.
    validation
        Which of them only stop the training, boolean.
    groups
        Group of each, whole groups being held out for every choice.
    group_key
        Where the groups come from, for the record.
    """

    index: NDArray[np.intp]
    validation: NDArray[np.bool_]
    groups: NDArray[Any]
    group_key: str


def fit(
    task: Task,
    table: AnnData,
    features: str | Sequence[str] | None,
    *,
    model: str | Model,
    config: Mapping[str, Any],
    target: str,
    split_key: str,
    group_key: str | None,
    standardize_by: str | None,
    rng: SeedLike | RNGLike | None,
    device: str | None,
) -> Model:
    """Fit a model and its baselines on the training rows of a table; the model knows its features and targets."""
    names = _features.embedding_keys(table, features)
    truth = target_frame(table, target, task.target_hint)
    _, renamed = keys.safe_names(getattr(table.obsm[target], "columns", []))
    X = _features.feature_matrix(table, names, standardize_by)
    fitted = make_model(model, config)
    rows = training_rows(
        table, split_key=split_key, group_key=group_key, known=np.isfinite(truth.to_numpy()).all(axis=1)
    )
    fit_arrays(fitted, X[rows.index], truth.iloc[rows.index], rows=rows, rng=rng, device=device)
    for each in (fitted, *fitted.baselines.values()):
        each.features = _features.describe(table, names)
        each.targets = [str(name) for name in truth.columns]
        each.facts |= {
            "task": task.name,
            "target": target,
            "standardize_by": standardize_by,
            "group_key": rows.group_key,
            "original_names": renamed,
            "groups": [str(name) for name in np.unique(rows.groups[~rows.validation])],
        }
    return fitted


def fit_arrays(
    model: Model, X: NDArray[Any], Y: pd.DataFrame, *, rows: Rows, rng: SeedLike | RNGLike | None, device: str | None
) -> None:
    """Fit a model and, on the same rows, the baselines that belong beside it."""
    generator = as_rng(rng)
    validation = rows.validation if rows.validation.any() else None
    values = Y.to_numpy(dtype=np.float64)
    model.fit(X, values, groups=rows.groups, validation=validation, rng=generator, device=device)
    shared = {"target_transform": model.config.target_transform, "nonnegative": model.config.nonnegative}
    usable = np.isfinite(X).all(axis=1) & np.isfinite(values).all(axis=1)
    for name in BASELINES.get(model.name, ("mean", "ridge")):
        # The mean of transformed targets is not their mean.
        own = {"nonnegative": shared["nonnegative"]} if name == "mean" else shared
        # Left-out rows and constant targets were warned of once already.
        baseline = model_class(name)(**own, interval=None)
        model.baselines[name] = _quiet_fit(baseline, X[usable], values[usable], rows, usable)


def _quiet_fit(baseline: Model, X: NDArray[Any], Y: NDArray[Any], rows: Rows, usable: NDArray[np.bool_]) -> Model:
    validation = rows.validation[usable]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return baseline.fit(X, Y, groups=rows.groups[usable], validation=validation if validation.any() else None)


def predict(table: AnnData, model: Model, *, device: str | None, baselines: bool) -> dict[str, pd.DataFrame]:
    """Predictions as data frames by suffix: ``""``, ``"_lower"``, ``"_upper"``, ``"_<baseline>"``."""
    if not model.features:
        msg = "this model was fitted on plain arrays and does not know its features; use model.predict(X)"
        raise ValueError(msg)
    _features.check_same(table, model.features)
    standardize_by = model.facts.get("standardize_by")
    if standardize_by is not None and standardize_by not in table.obs:
        hint = "The model was fitted on features standardised within its levels."
        raise missing_key("obs", standardize_by, table.obs.columns, hint)
    X = _features.feature_matrix(table, [feature["key"] for feature in model.features], standardize_by)
    outside = ~np.isfinite(X).all(axis=1)
    if outside.any():
        warn(
            f"{int(outside.sum())} of {len(X)} rows have no finite features (spots outside the image?); predicted as NaN"
        )
    predicted = model.predict(X, device=device)
    out = {"": predicted}
    if model.has_interval:
        out[LOWER], out[UPPER] = model.interval(predicted)
    if baselines:
        out |= {f"_{name}": each.predict(X) for name, each in model.baselines.items()}
    frames = {
        suffix: pd.DataFrame(values, index=table.obs_names, columns=model.targets) for suffix, values in out.items()
    }
    return frames


def write_predictions(table: AnnData, frames: Mapping[str, pd.DataFrame], key: str, model: Model) -> None:
    """Put predictions into ``obsm`` and record which model made them; leftovers of an earlier model go."""
    for suffix in (LOWER, UPPER, *(f"_{name}" for name in BASELINES)):
        if suffix not in frames and key + suffix in table.obsm and keys.read_provenance(table, key):
            del table.obsm[key + suffix]
    for suffix, frame in frames.items():
        table.obsm[key + suffix] = frame
    baselines = [name for name in model.baselines if f"_{name}" in frames]
    facts = {name: model.facts[name] for name in ("task", "target", "original_names") if model.facts.get(name)}
    facts |= {"model": model.name, "baselines": baselines}
    keys.write_provenance(table, key, **facts, interval=model.config.interval if model.has_interval else None)


def make_model(model: str | Model, config: Mapping[str, Any]) -> Model:
    """A model by name, or a copy of the unfitted settings of the model given."""
    if isinstance(model, str):
        return model_class(model)(**config)
    if not isinstance(model, Model):
        msg = f"model must be a name or a histocell model, not {type(model).__name__}"
        raise TypeError(msg)
    if config:
        msg = f"settings belong into the model when one is given: {type(model).__name__}({listing(config)})"
        raise TypeError(msg)
    return type(model)(**{field.name: getattr(model.config, field.name) for field in fields(model.config)})


def find_model(source: Any, key: str, table: AnnData, *, fit_hint: str) -> Model:
    """The model in a folder, a mapping, another AnnData or SpatialData, or, for `None`, in the table's own ``uns``."""
    if isinstance(source, Model):
        return source
    holder = table if source is None else source
    if not (is_spatialdata(holder) or hasattr(holder, "obsm")):
        return load(holder)
    uns = get_table(holder).uns
    if key not in uns:
        raise missing_key("uns", key, uns.keys(), f"{fit_hint} or give model=.")
    return load(uns[key])


def target_frame(table: AnnData, target: str, hint: str) -> pd.DataFrame:
    """The targets as a data frame whose names can be written."""
    value = get_obsm(table, target, hint)
    if not isinstance(value, pd.DataFrame):
        array = np.asarray(value)
        value = pd.DataFrame(array, index=table.obs_names, columns=[f"{target}_{i}" for i in range(array.shape[1])])
    if value.shape[1] == 0 or not all(np.issubdtype(dtype, np.number) for dtype in value.dtypes):
        msg = f'obsm["{target}"] must hold numbers, one column per target; it has {listing(value.dtypes)}'
        raise ValueError(msg)
    return value.set_axis(keys.safe_names(value.columns, quiet=True)[0], axis=1)


def training_rows(table: AnnData, *, split_key: str, group_key: str | None, known: NDArray[np.bool_]) -> Rows:
    """Rows to fit on and rows to stop on, by ``obs[split_key]``; without it every row whose target is known."""
    if split_key in table.obs:
        split = table.obs[split_key].astype(object).to_numpy()
        train, val = split == TRAIN, split == VAL
        if not train.any():
            counts = ", ".join(f"{name}: {n}" for name, n in table.obs[split_key].value_counts(dropna=False).items())
            msg = f'obs["{split_key}"] has no row "{TRAIN}" ({counts}); run hc.pp.split(data) again'
            raise ValueError(msg)
    else:
        warn(f'no obs["{split_key}"]: all {int(known.sum())} rows with a target are training rows; see hc.pp.split')
        train, val = known.copy(), np.zeros(table.n_obs, dtype=bool)
    unknown = int((~known & (train | val)).sum())
    if unknown:
        warn(f"{unknown} training or validation rows have a target that is not finite; left out")
    train, val = train & known, val & known
    if not train.any():
        msg = "no training row has a finite target"
        raise ValueError(msg)
    index = np.flatnonzero(train | val)
    groups, used = held_out_groups(table, index, train[index], group_key)
    logger.info("%d training and %d validation rows, groups by %s", train.sum(), val.sum(), used)
    return Rows(index, val[index], groups, used)


def held_out_groups(
    table: AnnData, index: NDArray[np.intp], train: NDArray[np.bool_], group_key: str | None
) -> tuple[NDArray[Any], str]:
    """Groups of rows that are held out together: by patient, else by section, else blocks of the one section."""
    for key in [group_key] if group_key is not None else [keys.PATIENT, keys.SECTION]:
        if group_key is None and key not in table.obs:
            continue
        labels = row_labels(table, key)[index]
        if len(np.unique(labels[train])) > 1:
            if group_key is None and key != keys.PATIENT and keys.PATIENT in table.obs:
                warn(f"all training rows come from one patient: {_NO_GUARANTEE}")
            return labels, key
    warn(f"the training rows are one group, so settings and intervals are chosen on blocks of it: {_NO_GUARANTEE}")
    if keys.SPATIAL not in table.obsm:
        return np.arange(len(index)) * _BLOCKS // len(index), "blocks of rows"
    return spatial_blocks(coordinates(table)[index], _BLOCKS), "spatial blocks"


def spatial_blocks(xy: NDArray[np.float64], n_blocks: int) -> NDArray[np.intp]:
    """Compact blocks of equal size: the points halved along their longer side again and again."""
    labels = np.zeros(len(xy), dtype=np.intp)
    parts = [np.arange(len(xy))]
    while len(parts) < n_blocks and max(map(len, parts)) > 1:
        halves = []
        for part in parts:
            axis = np.ptp(xy[part], axis=0).argmax() if len(part) else 0
            order = part[np.argsort(xy[part, axis], kind="stable")]
            halves += [order[: len(order) // 2], order[len(order) // 2 :]]
        parts = halves
    for index, part in enumerate(parts):
        labels[part] = index
    return labels
