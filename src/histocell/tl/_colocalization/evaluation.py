"""Agreement of a predicted co-localization map with the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from histocell._core.arguments import check_count, check_share
from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng
from histocell.metrics import nan_mean, pearson
from histocell.tl._colocalization.result import KEY, ColocalizationResult, read_result
from histocell.tl.engine.intervals import LEAST_GROUPS, NONE, name_interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.tables.access import Data

    type Floats = NDArray[np.float64]
    type Maps = ColocalizationResult | Data | pd.DataFrame | Mapping[str, object]

LEAST_TYPES = 3  # a correlation of two numbers is 1


@dataclass(frozen=True)
class PatientMaps:
    """R of each patient, shape ``(patients, k, k)``, with the names of cell types and patients."""

    r: Floats
    names: list[str]
    patients: list[str]

    def select(self, names: list[str], patients: list[str]) -> Floats:
        """R of these cell types in these patients; of the only patient, whatever it is called."""
        types = [self.names.index(name) for name in names]
        rows = [self.patients.index(patient) for patient in patients] if len(self.patients) > 1 else [0]
        return self.r[np.ix_(rows, types, types)]


def evaluate_colocalization(
    truth: Maps,
    prediction: Maps,
    *,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    rng: SeedLike | RNGLike | None = 0,
    key: str = KEY,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Score a predicted map of R against the true one, row by row: the partners of each cell type in both.

    Parameters
    ----------
    truth, prediction
        A result of :func:`colocalization` (returned, or ``adata.uns["colocalization"]``), data that holds one in
        ``uns[key]``, or a square data frame of R. Cell types are matched by name. R is the mean over patients of the mean over sections.
    n_bootstrap
        Number of resamples of the patients.
    confidence
        Level of the intervals, which there are of five patients or more.
    rng
        Seed or generator of the bootstrap; `None` for other draws each time.
    key
        Slot of the result, where data is given.
    table_key
        The table of a SpatialData that has several.

    Returns
    -------
    Columns ``measure`` (``cosine`` and ``pearson``: row-wise, averaged over cell types; ``pooled_pearson``: over all
    pairs), ``diagonal``, ``value``, ``low``, ``high``, ``interval``, ``n_types``, ``n_patients``. Without the diagonal is
    the honest figure; with it, set to 1 in both maps as papers do, maps look more alike. ``interval`` says what ``low`` and
    ``high`` are: ``95 % over 6 patients``, a bootstrap; ``range of 2 patients``, the least and the greatest score of fewer than
    five, each by itself (maps of single patients are noisier than their mean, whose score may lie above); with one
    patient ``none``.

    Raises
    ------
    ValueError
        If the maps share fewer than three cell types, or their patients differ.

    References
    ----------
    Zhao et al., Hist2Cell (2024): row-wise comparison of maps with a unit diagonal.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> truth = hc.tl.colocalization(sdata, "cell_abundance", inplace=False)
    >>> scores = hc.tl.evaluate_colocalization(truth, truth)
    >>> scores.loc[scores["measure"] == "pearson", "value"].round(2).tolist()
    [1.0, 1.0]
    """
    check_count(n_bootstrap, "n_bootstrap")
    check_share(confidence, "confidence", ends="()")
    first, second = (_patient_maps(each, key, table_key) for each in (truth, prediction))
    shared = [name for name in first.names if name in set(second.names)]
    if len(shared) < LEAST_TYPES:
        msg = (
            f"the maps share {len(shared)} cell types; truth has {listing(first.names)}; "
            f"prediction has {listing(second.names)}"
        )
        raise ValueError(msg)
    if left_out := sorted(set(first.names) ^ set(second.names)):
        warn(f"compared without {listing(left_out)}, which only one of the maps has")
    n = len(first.patients)
    if max(n, len(second.patients)) > 1 and set(first.patients) != set(second.patients):
        msg = f"the maps are of different patients: {listing(first.patients)} and {listing(second.patients)}"
        raise ValueError(msg)
    maps = [each.select(shared, first.patients) for each in (first, second)]
    generator = as_rng(rng)
    few = n < LEAST_GROUPS
    draws = [[one] for one in range(n)] if few else [generator.integers(n, size=n) for _ in range(n_bootstrap)]
    drawn = [_similarity(*(nan_mean(each[draw]) for each in maps)) for draw in draws]
    rows = []
    for (measure, diagonal), value in _similarity(*(nan_mean(each) for each in maps)).items():
        scores = np.array([each[measure, diagonal] for each in drawn])
        low, high, interval = _interval(scores[np.isfinite(scores)], None if few else n, confidence)
        rows.append((measure, diagonal, value, low, high, interval, len(shared), n))
    return pd.DataFrame(
        rows, columns=["measure", "diagonal", "value", "low", "high", "interval", "n_types", "n_patients"]
    )


def _interval(scores: Floats, n_patients: int | None, confidence: float) -> tuple[float, float, str]:
    """Bounds and their name, from scores of resampled patients or, where their number is `None`, of each by itself."""
    name = name_interval(len(scores) if n_patients is None else n_patients, "patients", confidence)
    if name == NONE or not len(scores):
        return np.nan, np.nan, NONE
    edges = [0, 1] if n_patients is None else [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(scores, edges)
    return float(low), float(high), name


def _patient_maps(source: Maps, key: str, table_key: str | None) -> PatientMaps:
    if isinstance(source, pd.DataFrame):
        if source.shape[0] != source.shape[1] or list(source.index) != list(source.columns):
            msg = f"a map must be square with the same names on both sides; this data frame is {source.shape}"
            raise ValueError(msg)
        return PatientMaps(source.to_numpy(dtype=np.float64)[None], [str(name) for name in source.columns], ["all"])
    result = read_result(source, key, table_key)
    sections = cast("Mapping[str, np.ndarray]", result["sections"])
    patients = np.asarray(sections["patients"], dtype=object).astype(str)
    distinct = list(dict.fromkeys(patients))
    r = np.stack([nan_mean(np.asarray(sections["R"])[patients == one]) for one in distinct])
    return PatientMaps(r, [str(name) for name in cast("np.ndarray", result["names"])], distinct)


def _similarity(truth: Floats, prediction: Floats) -> dict[tuple[str, bool], float]:
    """Cosine and Pearson over rows, and over all pairs, with a unit diagonal and without."""
    off = ~np.eye(len(truth), dtype=bool)
    out = {}
    for diagonal in (False, True):
        a, b = (np.where(off, each, 1.0 if diagonal else np.nan) for each in (truth, prediction))
        known = np.isfinite(a) & np.isfinite(b)
        enough = known.sum(axis=1) >= LEAST_TYPES
        out["cosine", diagonal] = float(nan_mean(_row_cosine(a, b, known)[enough]))
        out["pearson", diagonal] = float(nan_mean(pearson(a.T, b.T)[enough]))
        pooled = pearson(a[known], b[known])[0] if known.sum() >= LEAST_TYPES else np.nan
        out["pooled_pearson", diagonal] = float(pooled)
    return out


def _row_cosine(a: Floats, b: Floats, known: NDArray[np.bool_]) -> Floats:
    """Cosine of each row over what is known in both; NaN where one is 0."""
    a, b = np.where(known, a, 0), np.where(known, b, 0)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size > 0)
