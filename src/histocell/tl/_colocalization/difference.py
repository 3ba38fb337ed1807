"""Difference of co-localization between two groups of patients."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import numpy as np
from scipy import stats

from histocell._core import keys
from histocell._core.arguments import as_pairs, check_share
from histocell._core.errors import MissingKeyError, listing
from histocell.kernels import null as null_models
from histocell.tables.access import row_labels
from histocell.tables.sections import Sections
from histocell.tl._colocalization.options import ALTERNATIVES, check_choice
from histocell.tl._colocalization.replicates import Combined, combine
from histocell.tl._colocalization.result import KEY, read_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from histocell.kernels.null import Alternative
    from histocell.tables.access import Data


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
) -> dict[str, np.ndarray | str] | None:
    """Test which pairs are together more in one group of patients than in another.

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
    Nothing; or with ``inplace=False`` the result: ``R`` (difference of the groups' R, each less what its null expects), ``R_first``, ``R_second``, ``z``
    (Welch's t), ``p``, ``p_adj``, ``low``, ``high``, each ``(k, k)``; ``names``; ``params``.

    Raises
    ------
    KeyError
        If a slot or a group is not there.
    ValueError
        If a group has fewer than two patients, a patient is in both, or there are not two groups.

    Examples
    --------
    >>> hc.tl.colocalization_difference(adata, "response", groups=("responder", "other"))  # doctest: +SKIP
    >>> hc.get.colocalization(adata, "colocalization_difference")  # doctest: +SKIP
    """
    check_choice("alternative", alternative, ALTERNATIVES)
    check_share(confidence, "confidence", ends="()")
    result = read_result(data, key, table_key)
    stored = cast("Mapping[str, np.ndarray]", result["sections"])
    library_key = json.loads(str(result["params"]))["library_key"]
    if library_key is None:
        msg = f'uns["{key}"] holds one section; a difference needs at least two patients in each group'
        raise ValueError(msg)
    sections = Sections(data, table_key=table_key, library_key=library_key)
    labels = row_labels(sections.table, by)
    membership = np.array([sections.constant(labels, by, str(name)) for name in stored["names"]])
    first, second = _choose_groups(membership, groups, by)
    a, b = (_combine_group(stored, membership, group, by) for group in (first, second))
    patients = np.asarray(stored["patients"], dtype=object).astype(str)
    if shared := sorted(set(patients[membership == first]) & set(patients[membership == second])):
        msg = f"patients in both groups: {listing(shared)}; Welch's test takes them for different people"
        raise ValueError(msg)
    params = {
        "by": by,
        "first": first,
        "second": second,
        "key": key,
        "alternative": alternative,
        "confidence": confidence,
    }
    out: dict[str, np.ndarray | str] = {
        **_welch(a, b, alternative, confidence),
        "names": np.asarray(result["names"], dtype=object),
        "params": json.dumps(params),
    }
    if not inplace:
        return out
    sections.table.uns[key_added] = out
    keys.write_provenance(sections.table, key_added, **params)
    return None


def _combine_group(stored: Mapping[str, np.ndarray], membership: NDArray[np.str_], group: str, by: str) -> Combined:
    """The patients of one group."""
    rows = np.flatnonzero(membership == group)
    patients = np.asarray(stored["patients"], dtype=object).astype(str)[rows]
    if len(np.unique(patients)) < 2:
        msg = f"group {group!r} of obs[{by!r}] has fewer than two patients: there is no spread to compare with"
        raise ValueError(msg)
    r, scale, n_eff = (np.asarray(stored[name])[rows] for name in ("R", "scale", "n_eff"))
    expected = np.asarray(stored["expected"])[rows] if "expected" in stored else 0.0  # earlier versions tested R itself
    return combine(r - expected, scale, n_eff, patients)


def _welch(a: Combined, b: Combined, alternative: Alternative, confidence: float) -> dict[str, np.ndarray]:
    """Welch's t test of the difference of two means of Fisher's z."""
    difference, error = a.estimate - b.estimate, np.hypot(a.error, b.error)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = error**4 / (a.error**4 / a.df + b.error**4 / b.df)
        statistic = difference / error
    few = ~(np.isfinite(a.df) & np.isfinite(b.df))  # the pair is defined in one patient of a group only
    statistic[few], df[few] = np.nan, np.nan
    p = null_models.combine_tails(*null_models.t_tails(statistic, df), alternative)
    half = stats.t.ppf((1 + confidence) / 2, df) * error
    symmetric = bool(np.allclose(a.r, a.r.T, equal_nan=True, atol=1e-12))
    return {
        "R": a.r - b.r,
        "R_first": a.r,
        "R_second": b.r,
        "z": statistic,
        "p": p,
        "p_adj": null_models.false_discovery_pairs(p, symmetric=symmetric),
        "low": difference - half,
        "high": difference + half,
    }


def _choose_groups(membership: NDArray[np.str_], groups: tuple[str, str] | None, by: str) -> tuple[str, str]:
    available = sorted(set(membership))
    if groups is None:
        if len(available) != 2:
            msg = f"obs[{by!r}] has {len(available)} groups ({listing(available)}); choose two with groups="
            raise ValueError(msg)
        return available[0], available[1]
    if len(pairs := as_pairs(groups, "groups")) > 1:
        msg = f"groups must be one pair of names, (first, second), not {groups!r}"
        raise ValueError(msg)
    first, second = pairs[0]
    if absent := [group for group in (first, second) if group not in available]:
        msg = f"group {listing(absent)} not found in obs[{by!r}]; available: {listing(available)}"
        raise MissingKeyError(msg)
    return first, second
