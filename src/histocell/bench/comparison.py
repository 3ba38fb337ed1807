"""Paired comparison of models over the groups that a protocol left out."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from histocell import metrics
from histocell._core.arguments import as_names, check_count
from histocell._core.errors import MissingKeyError, listing, warn
from histocell._core.rng import as_rng
from histocell.bench.columns import RUN, read_scores
from histocell.bench.costs import COSTS
from histocell.tl.engine.evaluate import ALL, MEAN
from histocell.tl.engine.intervals import LEAST_GROUPS, over_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Floats

_EXACT = 12  # groups; all 2^12 flips of their signs are looked at
_SAME = 1e-12  # of the largest difference: sums of the same numbers in another order


def compare(
    scores: pd.DataFrame,
    reference: str | tuple[str, str] | None = None,
    *,
    metric: str | Sequence[str] | None = None,
    cell_type: str | Sequence[str] = MEAN,
    n_bootstrap: int = 1000,
    n_permutations: int = 9999,
    rng: SeedLike | RNGLike | None = 0,
) -> pd.DataFrame:
    """Differences between models, group by group: how large they are, and whether chance explains them.

    Two models are compared on the groups where both have a score. The interval is a bootstrap of the differences over
    groups. The p-value flips the signs of the differences: were the models alike, each might as well have come with the
    other sign. All flips are looked at for up to 12 groups, `n_permutations` drawn ones for more. It is two-sided and never 0: of n
    groups the least there can be is ``2 / 2^n``.

    Parameters
    ----------
    scores
        Table of :func:`leave_one_group_out`, :func:`ablation` or :func:`cross_dataset` with two groups or more.
    reference
        What the others are compared with: a model, or a pair of model and features where there are several sets of
        those. By default all pairs are compared.
    metric
        Metrics to compare; by default all but costs.
    cell_type
        Cell types to compare; by default their mean.
    n_bootstrap
        Number of resamples of groups.
    n_permutations
        Number of flips that are drawn, for more than 12 groups.
    rng
        Seed or generator; `None` for other draws each time.

    Returns
    -------
    One row per pair, metric and cell type: ``model, features, reference, reference_features, metric, cell_type`` (the
    target of other tasks), ``difference`` (mean over groups of model minus reference, so that a better model has a
    negative one of ``l1``), ``low, high, interval``, ``p``, ``p_adj`` (Benjamini-Hochberg over the pairs and cell types of
    the metric), ``least_p`` (the smallest p that so many groups allow) and ``n_groups``.

    Raises
    ------
    KeyError
        When a metric, a cell type or the reference is not in the table.
    ValueError
        When the table has fewer than two models or two groups.

    References
    ----------
    Phipson, Smyth: Permutation P-values should never be zero (2010).

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(5, n_patients=5, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> scores = hc.bench.leave_one_group_out(sdata, models=["mean", "ridge"], n_bootstrap=100, rng=0)
    >>> tests = hc.bench.compare(scores, "mean", metric="l1")
    >>> tests[["model", "reference", "p", "interval"]].values.tolist()
    [['ridge', 'mean', 0.0625, '95 % over 5 groups']]
    """
    check_count(n_bootstrap, "n_bootstrap")
    check_count(n_permutations, "n_permutations", least=1)
    table, column = read_scores(scores)
    single = table[table["group"] != ALL]
    if single["group"].nunique() < 2:
        msg = "models are compared over groups; the table has fewer than two (leave patients or sections out in turn)"
        raise ValueError(msg)
    present = list(dict.fromkeys(single["metric"]))
    wanted = [name for name in present if name not in COSTS] if metric is None else as_names(metric)
    _check_there("metric", wanted, present)
    targets = as_names(cell_type)
    _check_there(column.replace("_", " "), targets, single[column].unique())
    pairs = _pairs(single, reference)
    seed = int(as_rng(rng).integers(2**63 - 1))
    rows = [
        _row(single, column, pair, (name, target), n_bootstrap, n_permutations, seed)
        for name, target, pair in product(wanted, targets, pairs)
        if not (name in COSTS and target != MEAN)
    ]
    out = pd.DataFrame(rows)
    out.insert(list(out).index("p") + 1, "p_adj", out.groupby("metric")["p"].transform(_adjusted))
    if (few := int(out["n_groups"].max())) < LEAST_GROUPS:
        least = f"{2 / 2**few:g}"
        warn(
            f"{few} groups are too few for a test: p cannot be below {least}, and the bounds are the range of the groups"
        )
    return out


def _pairs(table: pd.DataFrame, reference: str | tuple[str, str] | None) -> list[tuple[str, str]]:
    """Pairs of runs, the reference second."""
    runs = list(dict.fromkeys(table[RUN]))
    if len(runs) < 2:
        msg = f"the table has one model, {listing(runs)}; two are needed for a comparison"
        raise ValueError(msg)
    if reference is None:
        return [(second, first) for first, second in combinations(runs, 2)]
    known = table.drop_duplicates(RUN).set_index(RUN)
    if isinstance(reference, str):
        found = [run for run in runs if known.loc[run, "model"] == reference or run == reference]
    else:
        found = [run for run in runs if tuple(known.loc[run, ["model", "features"]]) == tuple(reference)]
    if not found:
        _check_there("reference", [str(reference)], runs)
    if len(found) > 1:
        msg = f"reference {reference!r} has several sets of features; give a pair, ({reference!r}, features), of one of {listing(found)}"
        raise ValueError(msg)
    return [(run, found[0]) for run in runs if run != found[0]]


def _row(
    table: pd.DataFrame,
    column: str,
    pair: tuple[str, str],
    what: tuple[str, str],
    n_bootstrap: int,
    n_permutations: int,
    seed: int,
) -> dict[str, object]:
    metric, target = what
    chosen = table[(table["metric"] == metric) & (table[column] == target)]
    first, second = (chosen[chosen[RUN] == run].set_index("group")["value"].astype(float) for run in pair)
    of_both: Floats = np.asarray(first - second, dtype=np.float64)  # pandas joins them by group
    difference = of_both[np.isfinite(of_both)]
    known = table.drop_duplicates(RUN).set_index(RUN)
    (model, features), (other, others) = (tuple(known.loc[run, ["model", "features"]]) for run in pair)
    names = {"model": model, "features": features, "reference": other, "reference_features": others}
    names |= {"metric": metric, column: target}
    n = len(difference)
    if n == 0:
        bounds: tuple[float, float, str] = (np.nan, np.nan, "none")
    else:
        low, high, interval = over_groups(difference[:, None], "groups", n_bootstrap=n_bootstrap, rng=seed)
        bounds = float(low[0]), float(high[0]), interval[0]
    return names | {
        "difference": float(metrics.nan_mean(difference)),
        **dict(zip(("low", "high", "interval"), bounds, strict=True)),
        "p": sign_flip_p(difference, n_permutations=n_permutations, rng=seed),
        "least_p": _least_p(n, n_permutations),
        "n_groups": n,
    }


def sign_flip_p(difference: Floats, *, n_permutations: int, rng: SeedLike | RNGLike | None) -> float:
    """Two-sided p-value of paired differences, ``(n_groups,)``, were their signs a matter of chance; NaN of none."""
    n = len(difference)
    if n == 0:
        return np.nan
    if n <= _EXACT:  # the observed signs are among them
        flips = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(_as_extreme(flips, difference).mean())
    flips = 1 - 2 * as_rng(rng).integers(2, size=(n_permutations, n))
    return float((1 + _as_extreme(flips, difference).sum()) / (1 + n_permutations))


def _least_p(n: int, n_permutations: int) -> float:
    """The smallest p-value that `n` groups allow."""
    if n == 0:
        return np.nan
    return 2 / 2.0**n if n <= _EXACT else 1 / (n_permutations + 1)


def _as_extreme(flips: np.ndarray, difference: Floats) -> Bools:
    observed = abs(difference.sum())
    return np.abs(flips @ difference) >= observed - _SAME * np.abs(difference).sum()


def _adjusted(p: pd.Series) -> pd.Series:
    out = pd.Series(np.nan, index=p.index)
    known = p.notna()
    if known.any():
        out[known] = false_discovery_control(p[known])
    return out


def _check_there(what: str, wanted: Sequence[str], present: Sequence[str] | np.ndarray) -> None:
    if absent := [name for name in wanted if name not in set(present)]:
        msg = f"{what} {listing(absent)} is not in the scores; available: {listing(present, 40)}"
        raise MissingKeyError(msg)
