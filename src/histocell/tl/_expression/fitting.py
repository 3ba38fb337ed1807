"""The fit of a panel: genes chosen on the training rows, then the model on them, then, of many genes, the others."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell._core import keys
from histocell._core.settings import logger
from histocell.models.expression.component_ridge import ComponentRidge
from histocell.models.places import Places
from histocell.models.registry import make_model
from histocell.tables.access import coordinates, split_parts
from histocell.tables.expression import GenePanel, choose_panel, read_expression, report_empty, total_counts
from histocell.tl.engine import fit as _fit
from histocell.tl.engine import rows as _rows
from histocell.tl.engine.layout import places_for, reach_um
from histocell.tl.engine.task import Task, Values
from histocell.tl.tasks.expression import MOST_IN_FRAME, NAME, expression_task_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Floats
    from histocell.models.base import Model
    from histocell.tables.sections import Sections
    from histocell.tl.engine.fit import Dataset
    from histocell.tl.engine.rows import Rows

MOST_AT_ONCE = 2000  # genes that any model is fitted on
_BLOCK = 512  # genes that are read at once, and whose components stand for all


class Given(NamedTuple):
    """Arguments of `histocell.tl.fit_expression` of these names."""

    genes: int | str | Sequence[str] | None
    layer: str | None
    scale: str
    spot_context: bool
    flavor: str
    min_share: float
    config: dict[str, object]
    target_transform: str | None
    interval: float | None
    split_key: str
    standardize_by: str | None


def fit_panel(
    sections: Sections,
    features: str | Sequence[str] | None,
    model: str | Model,
    given: Given,
    *,
    rng: SeedLike | RNGLike | None,
    device: str | None,
) -> tuple[Model, list[str]]:
    """A fitted model, and the slots of its features."""
    table = sections.table
    parts = split_parts(table, given.split_key)
    unseen = None if parts is None else parts == keys.TEST
    counted = Task(NAME, target=lambda table, slot: _totals(table, given), metrics=(), writer=None)  # type: ignore[arg-type]
    dataset = _fit.Dataset.read(counted, table, features, _slot(given.layer), given.standardize_by, unseen=unseen)
    unfitted = dataset.views.tell(_make(model, given))
    dataset = replace(dataset, places=places_for([unfitted], sections))
    reach = max(reach_um([unfitted], dataset.places), _context_um(sections) if given.spot_context else 0.0)
    everything = np.ones(table.n_obs, dtype=bool)
    rows = _rows.training_rows(sections, everything, split_key=given.split_key, features=dataset.names, reach_um=reach)
    rows = _with_counts(rows, dataset.known)
    panel = choose_panel(
        sections,
        rows.index[~rows.validation],
        genes=given.genes,
        flavor=given.flavor,
        min_share=given.min_share,
        scale=given.scale,
        spot_context=given.spot_context,
        layer=given.layer,
    )
    keys.safe_names(panel.genes)  # warns of names that had to change
    _check_width(unfitted, panel)
    many = len(panel) > MOST_IN_FRAME
    if many and getattr(unfitted.config, "interval", None) is not None:
        logger.info("no interval: the panel has %d genes, more than %d", len(panel), MOST_IN_FRAME)
        unfitted = type(unfitted)(**asdict(unfitted.config) | {"interval": None})
    core = _core(panel) if many and isinstance(unfitted, ComponentRidge) else panel
    task = expression_task_of(core, given.layer)
    dataset = replace(dataset, truth=_read_rows(table, core, rows, given.layer, dataset.truth.weights))
    fitted = _fit.fit(task, unfitted, dataset, rows, rng=rng, device=device, baselines=core is panel)
    if reach > fitted.reach_um():
        _fit.remember(task, fitted, dataset, rows, reach_um=reach)
    if core is not panel and isinstance(fitted, ComponentRidge):
        panel = _extend(fitted, dataset, rows, core, panel, given.layer)
    fitted.facts |= {"panel": panel.to_dict(), "layer": given.layer}
    return fitted, dataset.names


def _with_counts(rows: Rows, known: Bools) -> Rows:
    """The rows that have counts."""
    keep = known[rows.index]
    report_empty(int((~keep).sum()), len(keep), "they are left out of the fit")
    if not (keep & ~rows.validation).any():
        msg = "no training row has counts"
        raise ValueError(msg)
    return replace(rows, index=rows.index[keep], validation=rows.validation[keep], groups=rows.groups[keep])


def _totals(table: AnnData, given: Given) -> Values:
    """Counts of each row, for which rows are known before there is a panel."""
    totals = total_counts(table, given.layer)
    if given.scale != "log1p_cp10k":
        return Values(totals[:, None], ["counts"])
    return Values(np.where(totals > 0, totals, np.nan)[:, None], ["counts"], {}, totals)


def _read_rows(table: AnnData, panel: GenePanel, rows: Rows, layer: str | None, weights: Floats | None) -> Values:
    """The expression of the rows that are fitted or validate; others stay unknown."""
    array = np.full((table.n_obs, len(panel)), np.nan, dtype=np.float32)
    array[rows.index] = read_expression(table, panel, layer=layer, rows=rows.index)
    names, renamed = keys.safe_names(panel.genes, quiet=True)
    return Values(array, names, renamed, weights)  # type: ignore[arg-type]


def _extend(
    model: ComponentRidge, dataset: Dataset, rows: Rows, core: GenePanel, panel: GenePanel, layer: str | None
) -> GenePanel:
    """Teach the model the other genes, block by block; returns the panel in the order of its targets."""
    used = rows.index[~rows.validation & model.has_features(dataset.X)[rows.index]]
    known = set(core.genes)
    others = [name for name in panel.genes if name not in known]

    def blocks() -> Iterator[Floats]:
        for start in range(0, len(others), _BLOCK):
            some = panel.select(others[start : start + _BLOCK])
            yield read_expression(dataset.table, some, layer=layer, rows=used).astype(np.float64)

    weights = None if dataset.truth.weights is None else dataset.truth.weights[used]
    model.extend(dataset.truth.array[used].astype(np.float64), blocks(), weights=weights)
    panel = panel.select([*core.genes, *others])
    model.targets, model.facts["original_names"] = keys.safe_names(panel.genes, quiet=True)
    return panel


def _core(panel: GenePanel) -> GenePanel:
    """The genes that vary most."""
    order = np.argsort(-np.asarray(panel.std), kind="stable")[:_BLOCK]
    return panel.select([panel.genes[index] for index in order])


def _check_width(model: Model, panel: GenePanel) -> None:
    if len(panel) > MOST_AT_ONCE and not isinstance(model, ComponentRidge):
        msg = (
            f"{model.name!r} is fitted on all genes at once, and {len(panel)} are more than {MOST_AT_ONCE}: choose "
            f'model="component_ridge", which takes any number, or fewer genes, such as genes={MOST_AT_ONCE}'
        )
        raise ValueError(msg)


def _make(model: str | Model, given: Given) -> Model:
    """The model that is to be fitted; the settings of the task stand behind those of the user."""
    settings = dict(given.config)
    if isinstance(model, str):
        settings = {
            **expression_task_of(GenePanel(["-"])).settings.get(model, {}),
            "interval": given.interval,
            **settings,
        }
    if given.target_transform is not None:
        settings["target_transform"] = given.target_transform
    return make_model(model, settings, NAME)


def _context_um(sections: Sections) -> float:
    """How far the spots lie away whose counts are averaged with those of a spot."""
    if keys.SPATIAL not in sections.table.obsm:
        return 0.0
    places = Places.of(coordinates(sections.table), sections.labels.astype(str))
    mpp = sections.mpp(required=False)
    known = mpp[np.isfinite(mpp)]
    return float(places.pitch_um * known.max()) if len(known) and np.isfinite(places.pitch_um) else 0.0


def _slot(layer: str | None) -> str:
    return "X" if layer is None else f'layers["{layer}"]'
