"""Groups of patients compared by what their slides hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from histocell._core.arguments import check_share
from histocell._core.errors import MissingKeyError, listing, warn
from histocell.tl._slide_summary.summarize import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

_FEWEST = 2  # patients of a group that have a spread
_SAME = 1e-9  # spread of a feature, of its mean, that is rounding


def compare_slides(
    summary: pd.DataFrame,
    groups: Mapping[str, str] | pd.Series,
    *,
    first: str | None = None,
    second: str | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compare two groups of patients, feature by feature; the patient is the replicate.

    Slides of a patient are averaged. Means of the groups are compared by Welch's t test.

    Parameters
    ----------
    summary
        Table of `summarize_slides`.
    groups
        Group of each patient, such as its response. Patients without one are left out.
    first, second
        The groups that are compared, needed where there are not just two: the difference is that of the first less the second.
    confidence
        Level of the interval of the difference.

    Returns
    -------
    Data frame by feature: ``feature``, ``difference``, ``low``, ``high``, ``mean_first``, ``mean_second``, ``effect`` (Hedges' g),
    ``p``, ``p_adj`` (Benjamini and Hochberg over features), ``n_first``, ``n_second``; the least p first. NaN where a group has fewer than two
    patients with the feature, or it does not vary in one.

    Raises
    ------
    KeyError
        When a group is not there.
    ValueError
        When there are not two groups, one has fewer than two patients, or the table is none of `summarize_slides`.

    References
    ----------
    Welch, Biometrika 34 (1947). Hedges, J Educ Stat 6 (1981). Benjamini and Hochberg, JRSS B 57 (1995).

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(4, size_px=600, rng=0)
    >>> table = hc.tl.summarize_slides(sdata, key="cell_abundance", table_key="table", n_bootstrap=0)
    >>> tests = hc.tl.compare_slides(
    ...     table, {"P1": "yes", "P2": "yes", "P3": "no", "P4": "no"}, first="yes", second="no"
    ... )
    >>> tests[["n_first", "n_second"]].iloc[0].tolist()
    [2, 2]
    """
    check_share(confidence, "confidence", ends="()")
    if not isinstance(summary, pd.DataFrame) or not set(COLUMNS) <= set(summary.columns):
        msg = f"summary must be a table of hc.tl.summarize_slides, with the columns {listing(COLUMNS)}"
        raise ValueError(msg)
    known = {str(patient): str(group) for patient, group in dict(groups).items() if not pd.isna(group)}
    wide = summary.pivot_table(
        index="patient", columns="feature", values="value", aggfunc="mean", dropna=False, observed=True
    )
    wide.index = wide.index.astype(str)
    if unknown := sorted(set(wide.index) - set(known)):
        warn(f"{len(unknown)} of {len(wide)} patients have no group and are left out: {listing(unknown, 5)}")
    wide = wide[wide.index.isin(known)]
    labels = wide.index.map(known)
    one, two = _names(labels, first, second)
    a, b = (wide[labels == name] for name in (one, two))
    for name, each in ((one, a), (two, b)):
        if len(each) < _FEWEST:
            msg = f"group {name!r} has {len(each)} patient{'' if len(each) == 1 else 's'}; a comparison needs two or more in each"
            raise ValueError(msg)
    out = pd.DataFrame([_test(str(name), a[name].dropna(), b[name].dropna(), confidence) for name in wide.columns])
    tested = out["p"].notna()
    out["p_adj"] = np.nan
    if tested.any():
        out.loc[tested, "p_adj"] = stats.false_discovery_control(out.loc[tested, "p"])
    out.insert(len(out.columns) - 3, "p_adj", out.pop("p_adj"))
    return out.sort_values("p", kind="stable").reset_index(drop=True)


def _names(labels: pd.Index, first: str | None, second: str | None) -> tuple[str, str]:
    there = sorted(set(labels))
    if first is None and second is None:
        if len(there) != 2:
            msg = f"there are {len(there)} groups ({listing(there)}); name two of them by first= and second="
            raise ValueError(msg)
        return there[0], there[1]
    chosen = [first, second]
    if None in chosen:
        others = [name for name in there if name not in chosen]
        if len(others) != 1:
            msg = f"name both groups by first= and second=: there are {listing(there)}"
            raise ValueError(msg)
        chosen[chosen.index(None)] = others[0]
    if absent := [str(name) for name in chosen if name not in there]:
        msg = f"no patient is of the group {listing(absent)}; there are {listing(there)}"
        raise MissingKeyError(msg)
    return str(chosen[0]), str(chosen[1])


def _test(name: str, a: pd.Series, b: pd.Series, confidence: float) -> dict[str, object]:
    means = [float(each.mean()) if len(each) else np.nan for each in (a, b)]
    row = {
        "feature": name,
        "difference": means[0] - means[1],
        "low": np.nan,
        "high": np.nan,
        "mean_first": means[0],
        "mean_second": means[1],
    }
    row |= {"effect": np.nan, "p": np.nan, "n_first": len(a), "n_second": len(b)}
    enough = min(len(a), len(b)) >= _FEWEST
    if not enough or min(float(np.ptp(each)) / max(abs(float(each.mean())), 1e-12) for each in (a, b)) < _SAME:
        return row
    result = stats.ttest_ind(a, b, equal_var=False)
    interval = result.confidence_interval(confidence)
    n = len(a) + len(b)
    pooled = np.sqrt(((len(a) - 1) * a.var() + (len(b) - 1) * b.var()) / (n - 2))
    row |= {"low": float(interval.low), "high": float(interval.high), "p": float(result.pvalue)}
    return row | {"effect": float((means[0] - means[1]) / pooled * (1 - 3 / (4 * n - 9)))}
