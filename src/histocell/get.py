"""Copies of slots as data frames, indexed by the names of the rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import missing_key
from histocell.tables.access import get_obsm, get_table, is_spatialdata
from histocell.tables.nuclei import table_of_nuclei
from histocell.tables.placed_nuclei import table_with
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from histocell.tables.access import Data

__all__ = [
    "abundance",
    "alignment",
    "cell_types",
    "coefficients",
    "colocalization",
    "embedding",
    "nuclei",
    "provenance",
    "scores",
]

_RUN = {
    keys.ABUNDANCE: "Run hc.pp.deconvolve(data, reference) or hc.pp.import_abundance(data, table) first: a table with one column per cell type.",
    keys.PREDICTED: (
        'Run hc.tl.fit_abundance(data) and hc.tl.predict_abundance(data) first; key="cell_abundance" takes what was measured.'
    ),
    keys.EVALUATION: "Run hc.tl.evaluate_abundance(data) first.",
    keys.MODEL: "Run hc.tl.fit_abundance(data) first.",
    keys.EXPRESSION_MODEL: "Run hc.tl.fit_expression(data) first.",
    keys.EXPRESSION_EVALUATION: "Run hc.tl.evaluate_expression(data) first.",
    keys.CELL_TYPE_MODEL: "Run hc.tl.fit_cell_types(data, genes, image) first.",
    keys.CELL_TYPE_EVALUATION: "Run hc.tl.evaluate_cell_types(data) first.",
    keys.ALIGNMENT: "Run hc.pp.check_alignment(data) first.",
    keys.PATCHES: "Run hc.pp.patches(data) first.",
    keys.MEASUREMENTS: "Run hc.pp.measure_nuclei(data) first.",
}

_PAIRWISE = ("R", "expected", "R_first", "R_second", "z", "p", "p_adj", "n_eff", "low", "high", "n_patients")


def embedding(data: Data, key: str, *, table_key: str | None = None) -> pd.DataFrame:
    """An embedding as a data frame.

    Parameters
    ----------
    data
        Reads ``obsm[key]``, shape ``(n, features)``.
    key
        The slot, for example ``"X_morphology"``; its encoder's name does as well.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    One row per spot, one column per feature, with the names that the encoder gave them or their numbers.

    Raises
    ------
    KeyError
        If the slot is not there.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.patches(sdata, size_um=56)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> len(hc.get.embedding(sdata, "morphology")) == sdata["table"].n_obs
    True
    """
    table = get_table(data, table_key)
    if key not in table.obsm and f"X_{key}" in table.obsm:
        key = f"X_{key}"
    encoder = key.removeprefix("X_")
    values = get_obsm(table, key, f'Run hc.pp.embed_image(data, "{encoder}") first.')
    names = keys.read_provenance(table, key).get("feature_names")
    return _frame(values, table.obs_names, names)


def abundance(data: Data, key: str = keys.PREDICTED, *, table_key: str | None = None) -> pd.DataFrame:
    """Cell abundances as a data frame.

    Parameters
    ----------
    data
        Reads ``obsm[key]``, shape ``(n, cell types)``.
    key
        The slot: ``"predicted_abundance"``, its ``_lower`` and ``_upper``, or ``"cell_abundance"``.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    One row per spot, one column per cell type.

    Raises
    ------
    KeyError
        If the slot is not there.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.get.abundance(sdata, "cell_abundance").columns[0]
    'tumour'
    """
    table = get_table(data, table_key)
    values = get_obsm(table, key, _RUN.get(key, _interval_hint(key)))
    return _frame(values, table.obs_names, keys.read_provenance(table, key).get("cell_types"))


def alignment(data: Data, key: str = keys.ALIGNMENT, *, table_key: str | None = None) -> pd.DataFrame:
    """Whether nuclei lie on their image, one row per section.

    Parameters
    ----------
    data
        Reads ``uns[key]``.
    key
        The slot that :func:`histocell.pp.check_alignment` wrote.
    table_key
        The table of a SpatialData where several have the slot.

    Returns
    -------
    ``section``, ``verdict``, ``says``, ``effect``, ``p`` and what else :class:`histocell.pp.AlignmentResult` lists.

    Raises
    ------
    KeyError
        If the slot is not there.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=800)
    >>> hc.pp.check_alignment(sdata)
    >>> hc.get.alignment(sdata).loc[0, "verdict"]
    'fits'
    """
    table = table_with(data, key, _RUN[keys.ALIGNMENT], table_key)
    return pd.DataFrame(table.uns[key]["sections"]).copy()


def nuclei(data: Data, key: str = keys.MEASUREMENTS, *, table_key: str | None = None) -> pd.DataFrame:
    """Nuclei with their places, measurements and types as a data frame.

    Parameters
    ----------
    data
        Reads ``obsm[key]``, the places, ``obs["cell_type"]`` and ``obs["predicted_cell_type"]`` where they are there.
    key
        The slot with the measurements.
    table_key
        The table of the nuclei; by default the one of a SpatialData that holds `key`.

    Returns
    -------
    One row per nucleus: ``section``, ``x_um`` and ``y_um`` of its centre from the corner of its image, the measurements, the
    types.

    Raises
    ------
    KeyError
        If there is no such table or slot.
    ValueError
        If the resolution of an image is unknown.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.measure_nuclei(sdata, "cells")
    >>> hc.get.nuclei(sdata).columns[:4].tolist()
    ['section', 'x_um', 'y_um', 'area_um2']
    """
    if is_spatialdata(data):
        table_key = table_of_nuclei(data, table_key, key)
    sections = Sections(data, table_key=table_key)
    table = sections.table
    values = _frame(get_obsm(table, key, _RUN[keys.MEASUREMENTS]), table.obs_names, None)
    xy = np.full((table.n_obs, 2), np.nan)
    for region in sections.regions(need_image=False):
        if region.mpp is None:
            msg = f"the resolution of {region.name!r} is unknown: its rows have no obs[{keys.MPP!r}], its image does not say it"
            raise ValueError(msg)
        xy[region.rows] = region.centers * region.mpp
    places = pd.DataFrame(
        {"section": sections.labels.astype(str), "x_um": xy[:, 0], "y_um": xy[:, 1]}, index=table.obs_names
    )
    types = [name for name in (keys.CELL_TYPE, keys.PREDICTED_TYPE) if name in table.obs]
    return pd.concat([places, values, *(pd.Series(table.obs[name]) for name in types)], axis=1)


def scores(data: Data, key: str = keys.EVALUATION, *, table_key: str | None = None) -> pd.DataFrame:
    """The scores of a prediction.

    Parameters
    ----------
    data
        Reads ``uns[key]``.
    key
        The slot that the evaluation wrote.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    A tidy table: model, group, cell_type, metric, value, low, high, interval (what low and high are), n_spots, n_undefined, n_training,
    n_overlapping.

    Raises
    ------
    KeyError
        If the slot is not there.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.get.scores(sdata).query("metric == 'cc'")  # doctest: +SKIP
    """
    table = get_table(data, table_key)
    if key not in table.uns:
        others = [name for name in table.uns if name.endswith("_evaluation")]
        there = f'; hc.get.scores(data, "{others[0]}") gives those that are there.' if others else "."
        raise missing_key("uns", key, table.uns, _RUN.get(key, _RUN[keys.EVALUATION]).removesuffix(".") + there)
    return pd.DataFrame(table.uns[key]).copy()


def provenance(data: Data, slot: str, *, table_key: str | None = None) -> dict[str, Any]:
    """How a slot came about.

    Parameters
    ----------
    data
        Reads ``uns["histocell"][slot]``.
    slot
        Name of the slot, for example ``"X_morphology"``.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    What was recorded when the slot was written: the version, and for an embedding the encoder, its revision,
    ``size_um``, ``mpp`` and so on.

    Raises
    ------
    KeyError
        If nothing is recorded for the slot.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.patches(sdata, size_um=56)
    >>> hc.get.provenance(sdata, "patches")["size_um"]
    56.0
    """
    table = get_table(data, table_key)
    recorded = table.uns.get(keys.PROVENANCE, {})
    if slot in recorded:
        return keys.read_provenance(table, slot)
    for whole in recorded:  # the intervals and baselines of a prediction were written with it
        if any(name.rpartition("/")[2] == slot for name in keys.read_provenance(table, whole).get("slots") or ()):
            return keys.read_provenance(table, whole)
    there = any(slot in container for container in (table.obs, table.obsm, table.uns))
    hint = (
        (
            'It is there, but without its provenance: histocell did not write it, or a concatenation without uns_merge="same" dropped it.'
        )
        if there
        else _RUN.get(slot, "")
    )
    container = f'uns["{keys.PROVENANCE}"]'
    raise missing_key(container, slot, recorded, hint)


def cell_types(data: Data, key: str = keys.PREDICTED_TYPE, *, table_key: str | None = None) -> pd.DataFrame:
    """Probabilities of cell types as a data frame.

    Parameters
    ----------
    data
        Reads ``obsm[key + "_probability"]``, shape ``(n, types)``.
    key
        Column of the prediction, such as ``"predicted_cell_type"`` or ``"predicted_cell_type_logistic"``.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    One row per cell, one column per type.

    Raises
    ------
    KeyError
        If the slot is not there.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.get.cell_types(sdata).idxmax(axis=1)  # doctest: +SKIP
    """
    table = get_table(data, table_key)
    slot = key + keys.PROBABILITY
    hint = "Run hc.tl.fit_cell_types(data, genes, image) and hc.tl.predict_cell_types(data) first."
    return _frame(get_obsm(table, slot, hint), table.obs_names, None)


def coefficients(data: Data, key: str = keys.SLIDE_MODEL, *, table_key: str | None = None) -> pd.DataFrame:
    """Coefficients of the composition of slides, one row per column of it.

    Parameters
    ----------
    data
        Table of slides; reads ``uns[key]``.
    key
        Slot of the model of `histocell.tl.fit_slides`: ``"composition"``, or another that it was fitted beside.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    For each class, or for ``risk``, what one standard deviation of the column adds to the logit or to the logarithm of the
    hazard, all other columns being equal; ``mean`` and ``sd`` of the column in the training slides, 0 where it is not
    used. Coefficients are shrunk by a penalty, and columns that tell the same share theirs: they are no tests.

    Raises
    ------
    KeyError
        If there is no model, or none of the composition.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> import histocell as hc
    >>> slides = hc.io.slide_table(hc.datasets.synthetic_slides(20, n_tiles=40))
    >>> lymphocytes = 0.5 * (slides.obs["label"] == "positive") + np.random.default_rng(0).uniform(size=20)
    >>> slides.obsm["composition"] = lymphocytes.to_frame("share of lymphocytes")
    >>> slides.obs["split"] = "train"
    >>> hc.tl.fit_slides(slides, model="composition")
    >>> bool(hc.get.coefficients(slides).loc["share of lymphocytes", "positive"] > 0)
    True
    """
    from histocell.models.registry import load

    hint = "Run hc.tl.fit_slides(slides, tiles) on slides with a composition: hc.io.slide_table(tiles, summary=...)."
    table = get_table(data, table_key)
    if key not in table.uns:
        raise missing_key("uns", key, table.uns, hint)
    model = load(table, model_key=key)
    found = model if model.name == keys.COMPOSITION else model.baselines.get(keys.COMPOSITION)
    if found is None:
        container = f'uns["{key}"]'
        raise missing_key(container, keys.COMPOSITION, [model.name, *model.baselines], hint)
    weights, names = found.weights, found.features[0].get("columns")
    scale = weights["input_scale"]
    out = pd.DataFrame(weights["coefficients"].T, index=names, columns=list(found.targets))
    sd = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    return out.assign(mean=np.where(scale > 0, weights["input_mean"], 0.0), sd=sd)


def colocalization(
    data: Data, key: str = "colocalization", *, section: str | None = None, table_key: str | None = None
) -> pd.DataFrame:
    """Co-localization as a data frame, one row per ordered pair of cell types.

    Parameters
    ----------
    data
        Reads ``uns[key]``.
    key
        The slot; also one of ``hc.tl.colocalization_difference``.
    section
        One section alone: its R, expected, n_eff and scale. By default all of them combined.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    Columns ``x``, ``y`` (the lagged one), ``R``, ``expected`` (R under the null), ``z``, ``p``, ``p_adj``, ``n_eff``, ``low``, ``high``, ``n_patients``; the
    strongest pairs first. A type with itself is not a pair, its R (Moran's I) is in ``uns[key]["R"]``. ``low`` and ``high`` are
    a confidence interval for R: over patients, or where ``n_patients`` is 1 of this tissue alone. Of a difference of
    two groups, ``R_treated`` and ``R_control`` (named as the groups are) stand beside ``R``, the first less the second, and the
    interval is for the difference of Fisher's z.

    Raises
    ------
    KeyError
        If the slot or the section is not there.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600, spot_pitch_um=50, spot_diameter_um=50)
    >>> hc.tl.colocalization(sdata, "cell_abundance")
    >>> hc.get.colocalization(sdata).columns[:3].tolist()
    ['x', 'y', 'R']
    """
    table = get_table(data, table_key)
    if key not in table.uns:
        raise missing_key("uns", key, table.uns.keys(), "Run hc.tl.colocalization(data) first.")
    result = table.uns[key]
    names = np.asarray(result["names"], dtype=object).astype(str)
    columns = [name for name in _PAIRWISE if name in result]
    arrays = {name: np.asarray(result[name]) for name in columns}
    if section is not None:
        sections = [str(name) for name in result.get("sections", {}).get("names", ())]
        if section not in sections:
            container = f'uns["{key}"]: section'
            raise missing_key(container, section, sections)
        row = sections.index(section)
        arrays = {name: np.asarray(result["sections"][name])[row] for name in ("R", "expected", "n_eff", "scale")}
    x, y = np.nonzero(~np.eye(len(names), dtype=bool))
    if "R_first" in arrays:
        params = json.loads(str(result["params"]))
        arrays = {f"R_{params[name[2:]]}" if name in {"R_first", "R_second"} else name: a for name, a in arrays.items()}
    frame = pd.DataFrame({"x": names[x], "y": names[y], **{name: values[x, y] for name, values in arrays.items()}})
    return frame.sort_values("R", ascending=False, key=np.abs, kind="stable", ignore_index=True)


def _interval_hint(key: str) -> str:
    if key.endswith(("_lower", "_upper")):
        return "Intervals are written by hc.tl.predict_abundance with a model that was fitted with interval=0.9."
    return _RUN[keys.PREDICTED]


def _frame(values: object, index: pd.Index, names: list[str] | None) -> pd.DataFrame:
    """A copy as a data frame; arrays get `names` where there is one for each column."""
    if isinstance(values, pd.DataFrame):
        return values.copy()
    array = np.array(values.toarray() if hasattr(values, "toarray") else values)
    array = array.reshape(len(array), -1)
    fits = names is not None and len(names) == array.shape[1]
    return pd.DataFrame(array, index=index, columns=names if fits else [str(i) for i in range(array.shape[1])])


def __dir__() -> list[str]:
    return sorted(__all__)
