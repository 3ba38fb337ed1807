"""Predictions of a model of any task: made, written into a table, and read again."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.tables.sections import Sections
from histocell.tl.engine import features as _features
from histocell.tl.engine.rows import remember_training_rows
from histocell.tl.engine.task import Values
from histocell.tl.engine.views import Views

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from histocell._core.types import Floats
    from histocell.models.base import Model
    from histocell.models.files import JSON
    from histocell.models.places import Places
    from histocell.models.problem import Joined
    from histocell.models.slides.bags import Bag
    from histocell.tl.engine.task import Slots, Task


OUTSIDE = 1.5  # novelty of a section that is worth a warning; unseen patients of one cohort hardly reach it


def predict(
    task: Task,
    table: AnnData,
    model: Model,
    *,
    key: str,
    device: str | None,
    baselines: bool = True,
    places: Places | None = None,
    bags: Sequence[Bag] | None = None,
    X: np.ndarray | Joined | None = None,
) -> Slots:
    """Slots of the prediction called `key`, of what else the model says of the rows, and of its baselines.

    A warning tells of sections that are unlike those of the fit.

    `places` says where the rows lie, and `bags` are their tiles, for a model that needs them; `X` are the features where `inputs`
    has read them before.
    """
    X = inputs(task, table, model) if X is None else X
    needed: dict[str, Any] = ({"places": places} if model.needs_places else {}) | (
        {"bags": bags} if model.needs_bags else {}
    )
    outputs = model.outputs(X, device=device, **needed)
    slots: Slots = {}
    if (novelty := outputs.pop(keys.NOVELTY, None)) is not None:
        slots["obs", key + keys.NOVELTY] = pd.Series(novelty, index=table.obs_names)
        warn_of_new_sections(Sections(table), novelty, len(model.facts.get("groups", [])))
    if baselines:
        outputs |= {f"_{name}": each.predict(X, device=device) for name, each in model.baselines.items()}
    for ending, array in outputs.items():
        values = Values(array, model.targets, model.facts.get("original_names") or {})
        slots |= task.writer.slots(key + ending, values, table.obs_names)
    return slots


def write(
    table: AnnData, slots: Slots, *, key: str, model: Model, baselines: bool = True, more: JSON | None = None
) -> None:
    """Put the slots of a prediction into a table, with their provenance; leftovers of an earlier model go."""
    names = {f"{container}/{slot}": (container, slot) for container, slot in slots}
    for name in keys.read_provenance(table, key).get("slots", []):
        container, _, slot = name.partition("/")
        if name not in names and slot in getattr(table, container):
            del getattr(table, container)[slot]
    for (container, slot), value in slots.items():
        getattr(table, container)[slot] = value
    facts = {name: model.facts[name] for name in ("task", "target", "unit", "original_names") if model.facts.get(name)}
    facts |= {"model": model.name, "baselines": list(model.baselines) if baselines else [], **(more or {})}
    keys.write_provenance(table, key, **facts, interval=getattr(model.config, "interval", None), slots=list(names))
    remember_training_rows(table, key, model)


def read(task: Task, table: AnnData, key: str) -> dict[str, dict[str, Values]]:
    """The predictions called `key` and those of the baselines: by model, then by the ending of the slot."""
    task.writer.read(table, key)  # a missing prediction is an error, a missing interval or baseline is not
    recorded = keys.read_provenance(table, key)
    slots = {recorded.get("model", key): key} | {name: f"{key}_{name}" for name in recorded.get("baselines", [])}
    endings = dict.fromkeys(ending for metric in task.metrics for ending in ("", *metric.outputs))
    predictions: dict[str, dict[str, Values]] = {}
    for name, slot in slots.items():
        for ending in endings:
            with suppress(KeyError):
                predictions.setdefault(name, {})[ending] = task.writer.read(table, slot + ending)
    return {name: outputs for name, outputs in predictions.items() if outputs}


def warn_of_new_sections(sections: Sections, novelty: Floats, n_groups: int) -> None:
    """Warn of sections that are less like those of the fit than these are like each other.

    Of few groups it is known badly how different groups are, so it takes more.
    """
    most = OUTSIDE * (1 + 1 / max(n_groups, 1))
    medians = {
        name: float(np.median(known))
        for name, rows in zip(sections.names, sections.rows, strict=True)
        if len(known := novelty[rows][np.isfinite(novelty[rows])])
    }
    if far := {name: value for name, value in medians.items() if value > most}:
        those = listing(f"{name} ({value:.1f})" for name, value in sorted(far.items(), key=lambda item: -item[1]))
        warn(
            f"{len(far)} of {len(medians)} sections lie outside of what the model has seen: {those}, where 1 is the "
            "novelty of a group held out from the fit. Intervals are widened by it; check such predictions, or fit on "
            "sections like these"
        )


def inputs(task: Task, table: AnnData, model: Model) -> np.ndarray | Joined:
    """The features that a model asks for."""
    if not model.features:
        msg = "this model was fitted on plain arrays and does not know its features; use model.predict(X)"
        raise ValueError(msg)
    if (fitted := model.facts.get("task", task.name)) != task.name:
        msg = f"this model predicts {fitted}, not {task.name}; use hc.tl.predict_{fitted}"
        raise ValueError(msg)
    lacking = [feature["key"] for feature in model.features if feature["key"] not in table.obsm]
    there = [feature for feature in model.features if feature["key"] not in lacking]
    if lacking and there and model.may_lack_modality:
        warn(f"no obsm {listing(lacking)}: predicted from {listing(feature['key'] for feature in there)} alone")
    else:
        there = model.features
    _features.check_same(table, there)
    views = Views.of(model)
    if task.classes and views.column is None:
        X: np.ndarray | Joined = _features.joined_features(table, model.features)
    else:
        X = views.apply(_features.feature_matrix(table, model.features), table)
    outside = ~model.has_features(X)
    if outside.any():
        warn(
            f"{int(outside.sum())} of {len(X)} rows have no finite features (spots outside the image?); predicted as NaN"
        )
    return X
