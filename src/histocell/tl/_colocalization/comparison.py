"""Two co-localization maps side by side: truth and prediction, or two groups of patients."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, missing_key, warn
from histocell._core.rng import as_rng
from histocell.kernels import null as null_models
from histocell.tables.access import get_table, row_labels
from histocell.tl._colocalization.colocalization import ALTERNATIVES, KEY, adjust
from histocell.tl._colocalization.replicates import by_patient, quantile, random_effects, upper_tail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.kernels.null import Alternative
    from histocell.tables.access import Data

RUN = 'Run hc.tl.colocalization(data, "predicted_abundance") first.'
LEAST_TYPES = 3  # a correlation of two numbers is 1


def _result(data: Data, key: str, table_key: str | None) -> Mapping[str, Any]:
    table = get_table(data, table_key)
    if key not in table.uns:
        raise missing_key("uns", key, table.uns.keys(), RUN)
    return table.uns[key]


def compare_colocalization(
    truth: Any,
    prediction: Any,
    *,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    rng: SeedLike | RNGLike | None = None,
    key: str = KEY,
    table_key: str | None = None,
) -> pd.DataFrame:
    """How alike two maps of R are, row by row: for each cell type, its partners in one map against those in the other.

    Parameters
    ----------
    truth, prediction
        A result of :func:`colocalization` (``adata.uns["colocalization"]``), data that holds one in ``uns[key]``, or a
        square data frame of R. Cell types are matched by name. R is the mean over patients of the mean over sections.
    n_bootstrap
        Number of resamples of the patients.
    confidence
        Level of the intervals.
    rng
        Seed or generator of the bootstrap.
    key
        Slot of the result, where data is given.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    Columns ``measure`` (``cosine`` and ``pearson``: row-wise, averaged over cell types; ``pooled_pearson``: over all
    pairs), ``diagonal``, ``value``, ``low``, ``high``, ``n_types``, ``n_patients``. Without the diagonal is the honest
    figure; with it, set to 1 in both maps as papers do, maps look more alike. With one patient there is no interval.

    Raises
    ------
    ValueError
        If the maps share fewer than three cell types, or their patients differ.

    References
    ----------
    Zhao et al., Hist2Cell (2024): row-wise comparison of maps with a unit diagonal.
    """
    maps, names, patients = zip(*(_patient_maps(each, key, table_key) for each in (truth, prediction)), strict=True)
    shared = [name for name in names[0] if name in set(names[1])]
    if len(shared) < LEAST_TYPES:
        msg = f"the maps share {len(shared)} cell types; truth has {listing(names[0])}; prediction has {listing(names[1])}"
        raise ValueError(msg)
    if left_out := sorted(set(names[0]) ^ set(names[1])):
        warn(f"compared without {listing(left_out)}, which only one of the maps has")
    common = [patient for patient in patients[0] if patient in set(patients[1])]
    if len(patients[0]) > 1 or len(patients[1]) > 1:
        if set(patients[0]) != set(patients[1]):
            msg = f"the maps are of different patients: {listing(patients[0])} and {listing(patients[1])}"
            raise ValueError(msg)
    else:
        common = patients[0]
    both = []
    for own, name, patient in zip(maps, names, patients, strict=True):
        places = [name.index(each) for each in shared]
        order = [patient.index(each) for each in common] if len(common) > 1 else [0]
        both.append(own[order][:, places][:, :, places])
    generator = as_rng(rng)
    n = len(common)
    draws = [generator.integers(n, size=n) for _ in range(n_bootstrap)] if n > 1 else []
    value = _similarity(*(_mean(each) for each in both))
    boot = [_similarity(*(_mean(each[draw]) for each in both)) for draw in draws]
    rows = []
    for (measure, diagonal), figure in value.items():
        low, high = np.nan, np.nan
        if boot:
            edges = [(1 - confidence) / 2, (1 + confidence) / 2]
            low, high = np.nanquantile([each[measure, diagonal] for each in boot], edges)
        rows.append((measure, diagonal, figure, low, high, len(shared), n))
    return pd.DataFrame(rows, columns=["measure", "diagonal", "value", "low", "high", "n_types", "n_patients"])


def _patient_maps(source: Any, key: str, table_key: str | None) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """R of each patient, shape ``(patients, k, k)``, with the names of types and patients."""
    if isinstance(source, pd.DataFrame):
        if source.shape[0] != source.shape[1] or list(source.index) != list(source.columns):
            msg = f"a map must be square with the same names on both sides; this data frame is {source.shape}"
            raise ValueError(msg)
        return source.to_numpy(dtype=np.float64)[None], [str(name) for name in source.columns], ["all"]
    result = source if hasattr(source, "keys") and "sections" in source else _result(source, key, table_key)
    sections = result["sections"]
    patients = np.asarray(sections["patients"], dtype=object).astype(str)
    distinct = list(dict.fromkeys(patients))
    r = np.asarray(sections["R"])
    return np.stack([_mean(r[patients == one]) for one in distinct]), [str(name) for name in result["names"]], distinct


def _mean(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of what is defined."""
    known = np.isfinite(maps)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, maps, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _similarity(truth: NDArray[np.float64], prediction: NDArray[np.float64]) -> dict[tuple[str, bool], float]:
    """Cosine and Pearson over rows, and over all pairs, with a unit diagonal and without."""
    off = ~np.eye(len(truth), dtype=bool)
    out = {}
    for diagonal in (False, True):
        a, b = (np.where(off, each, 1.0) if diagonal else each for each in (truth, prediction))
        known = np.isfinite(a) & np.isfinite(b) & (off | diagonal)
        rows = [_cosine_pearson(x[use], y[use]) for x, y, use in zip(a, b, known, strict=True)]
        with np.errstate(invalid="ignore"):
            out["cosine", diagonal], out["pearson", diagonal] = (_mean(np.array(rows))).tolist()
        out["pooled_pearson", diagonal] = _cosine_pearson(a[known], b[known])[1]
    return out


def _cosine_pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """NaN where there are too few numbers, or they are constant."""
    if len(a) < LEAST_TYPES:
        return np.nan, np.nan
    out = []
    for x, y in ((a, b), (a - a.mean(), b - b.mean())):
        size = float(np.sqrt((x @ x) * (y @ y)))
        out.append(float(x @ y) / size if size > 0 else np.nan)
    return out[0], out[1]


def colocalization_difference(
    data: Data,
    by: str,
    *,
    groups: tuple[str, str] | None = None,
    alternative: Alternative = "two-sided",
    confidence: float = 0.95,
    key: str = KEY,
    key_added: str = "colocalization_difference",
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, Any] | None:
    """Which pairs sit together more in one group of patients than in another.

    The patient is the replicate: patients of each group are combined by random effects on Fisher's z, and the means are
    compared by Welch's t test.

    Parameters
    ----------
    data
        Reads ``uns[key]`` of :func:`colocalization` and ``obs[by]``; writes ``uns[key_added]``.
    by
        Column of obs, constant within each section.
    groups
        The two groups, ``(first, second)``: the difference is first minus second. Needed if there are not just two.
    alternative
        ``"two-sided"``, ``"greater"`` or ``"less"``.
    confidence
        Level of the interval, which is for the difference of Fisher's z.
    key
        Slot of the result.
    key_added
        Slot to write.
    table_key
        The table of a SpatialData that has several.
    inplace
        Whether to write, or to return what would have been written.

    Returns
    -------
    Nothing; or with ``inplace=False`` the result: ``R`` (difference of the groups' R), ``R_first``, ``R_second``, ``z``
    (Welch's t), ``p``, ``p_adj``, ``low``, ``high``, each ``(k, k)``; ``names``; ``params``.

    Raises
    ------
    KeyError
        If a slot or a group is not there.
    ValueError
        If a group has fewer than two patients, a patient is in both, or there are not two groups.
    """
    if alternative not in ALTERNATIVES:
        msg = f"alternative must be one of {', '.join(ALTERNATIVES)}, not {alternative!r}"
        raise ValueError(msg)
    table = get_table(data, table_key)
    result = _result(data, key, table_key)
    sections = result["sections"]
    patients = np.asarray(sections["patients"], dtype=object).astype(str)
    library_key = json.loads(str(result["params"]))["library_key"]
    if library_key is None:
        msg = f'uns["{key}"] holds one section; a difference needs at least two patients in each group'
        raise ValueError(msg)
    membership = _groups_of_sections(table, by, library_key, [str(name) for name in sections["names"]])
    first, second = _two_groups(membership, groups, by)
    parts = []
    for group in (first, second):
        rows = np.flatnonzero(membership == group)
        if len(np.unique(patients[rows])) < 2:
            msg = f"group {group!r} of obs[{by!r}] has fewer than two patients: there is no spread to compare with"
            raise ValueError(msg)
        r, scale, n_eff = (np.asarray(sections[name])[rows] for name in ("R", "scale", "n_eff"))
        estimate, variance, scale, _ = by_patient(r, scale, n_eff, patients[rows])
        parts.append((*random_effects(estimate, variance), _mean(scale)))
    if shared := sorted(set(patients[membership == first]) & set(patients[membership == second])):
        msg = f"patients in both groups: {listing(shared)}; Welch's test takes them for different people"
        raise ValueError(msg)
    (mean_a, error_a, df_a, scale_a), (mean_b, error_b, df_b, scale_b) = parts
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.hypot(error_a, error_b)
        df = error**4 / (error_a**4 / df_a + error_b**4 / df_b)
        statistic = (mean_a - mean_b) / error
    few = ~(np.isfinite(df_a) & np.isfinite(df_b))  # the pair is defined in one patient of a group only
    statistic[few], df[few] = np.nan, np.nan
    p = null_models.combine_tails(upper_tail(statistic, df), upper_tail(-statistic, df), alternative)
    p = np.where(np.isfinite(statistic), p, np.nan)
    half = np.where(few, np.nan, quantile((1 + confidence) / 2, df) * error)
    r_first, r_second = np.tanh(mean_a) * scale_a, np.tanh(mean_b) * scale_b
    params = {
        "by": by,
        "first": first,
        "second": second,
        "key": key,
        "alternative": alternative,
        "confidence": confidence,
    }
    out = {
        "R": r_first - r_second,
        "R_first": r_first,
        "R_second": r_second,
        "z": statistic,
        "p": p,
        "p_adj": adjust(p, symmetric=bool(np.allclose(r_first, r_first.T, equal_nan=True, atol=1e-12))),
        "low": mean_a - mean_b - half,
        "high": mean_a - mean_b + half,
        "names": np.asarray(result["names"], dtype=object),
        "params": json.dumps(params),
    }
    if not inplace:
        return out
    table.uns[key_added] = out
    keys.write_provenance(table, key_added, **params)
    return None


def _groups_of_sections(table: AnnData, by: str, library_key: str, sections: list[str]) -> NDArray[Any]:
    """The group of each section."""
    labels, values = row_labels(table, by), row_labels(table, library_key)
    out = []
    for name in sections:
        found = np.unique(labels[values == name])
        if len(found) != 1:
            msg = f"section {name!r} is in {len(found)} groups of obs[{by!r}], not in one: {listing(found)}"
            raise ValueError(msg)
        out.append(str(found[0]))
    return np.array(out)


def _two_groups(membership: NDArray[Any], groups: tuple[str, str] | None, by: str) -> tuple[str, str]:
    available = sorted(set(membership))
    if groups is None:
        if len(available) != 2:
            msg = f"obs[{by!r}] has {len(available)} groups ({listing(available)}); choose two with groups="
            raise ValueError(msg)
        return available[0], available[1]
    first, second = (str(group) for group in groups)
    if absent := [group for group in (first, second) if group not in available]:
        msg = f"group {listing(absent)} not found in obs[{by!r}]; available: {listing(available)}"
        raise KeyError(msg)
    return first, second
