"""Bivariate Moran's R of all pairs of variables, tested against spatially smooth null fields."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import numpy as np

from histocell._core import keys
from histocell._core.arguments import as_pairs, check_count, check_share, check_switch
from histocell._core.errors import MissingKeyError, listing, warn
from histocell._core.rng import as_rng
from histocell.kernels import null as null_models
from histocell.kernels.neighbors import rbf_radius
from histocell.kernels.preference import is_whole
from histocell.tables.sections import Sections
from histocell.tl._colocalization.inputs import check_length_scale, default_length_scale, isolated_share, read_inputs
from histocell.tl._colocalization.options import ALTERNATIVES, NULLS, Options, check_choice
from histocell.tl._colocalization.replicates import combine, over_patients
from histocell.tl._colocalization.result import FEW, KEY, ColocalizationResult
from histocell.tl._colocalization.section import BETWEEN_FIELDS, SectionResult, analyse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.kernels.null import Alternative
    from histocell.tables.access import Data
    from histocell.tl._colocalization.inputs import Inputs, Weights
    from histocell.tl._colocalization.options import Null
    from histocell.tl._colocalization.section import Floats

MAX_LOCAL = 2e8  # values of local R
MOST_ISOLATED = 0.5  # share of points without a neighbour that is worth a warning
SECTIONS = ("R", "expected", "n_eff", "scale")  # what is kept of each section


def colocalization(
    data: Data,
    key: str | Sequence[str] | None = None,
    *,
    length_scale_um: float | None = None,
    cutoff: float = 0.2,
    include_self: bool | None = None,
    weights: Weights | None = None,
    row_standardize: bool = False,
    null: Null | None = None,
    alternative: Alternative = "two-sided",
    n_draws: int = 999,
    confidence: float = 0.95,
    local: bool | tuple[str, str] | Sequence[tuple[str, str]] = False,
    library_key: str | None = None,
    group_key: str | None = None,
    mpp: float | None = None,
    rng: SeedLike | RNGLike | None = 0,
    key_added: str = KEY,
    table_key: str | None = None,
    inplace: bool = True,
) -> ColocalizationResult | None:
    r"""Bivariate Moran's R of all ordered pairs of cell types.

    ``R_xy = mean_i z^x_i (W z^y)_i`` with standardised variables z and weights ``exp(-d^2 / 2 l^2)`` that sum to n: the
    correlation of x here with y around here, an effect size. Its p-value says how often two unrelated fields, each as
    smooth as these two, would give as large an R. Sections never share pairs; they are combined per patient, and
    patients by random effects on Fisher's z, because the patient is the replicate.

    Parameters
    ----------
    data
        Reads ``obsm[key]`` or ``obs[key]``, ``obsm["spatial"]``, ``obs["mpp"]``, ``obs["section"]``, ``obs["patient"]``.
        Writes ``uns[key_added]`` and with `local` also ``obsm[key_added + "_local"]`` and
        ``obsm[key_added + "_local_p"]``.
    key
        Abundances, shape ``(n, k)``, in obsm; or cell types in obs, which need no indicator matrix; or a list of genes,
        whose counts in ``X`` are normalised by ``scanpy.pp.normalize_total`` and ``log1p`` on a copy (an ``X`` that does
        not hold counts is taken as it is). By default ``"cell_abundance"``, else ``"predicted_abundance"``.
    length_scale_um
        The length l in um. By default 2.2 pitches: 220 um on Visium, 440 um on legacy arrays; for cells, of the hexagonal
        grid that would be as dense. What was taken is kept with the result and stands in its repr.
    cutoff
        Weights below this are 0.
    include_self
        Whether a point is its own neighbour. By default on for abundances, since a spot holds several cells, and off
        for cell types, since a cell is one. When on, R also counts what sits in the same spot.
    weights
        Weights to take instead: a key of obsp such as ``"spatial_connectivities"``; a graph that squidpy builds for each
        section, ``"grid"``, ``"knn"`` or ``"delaunay"``; or a matrix ``(n, n)``. Row i holds the weights that make the
        lag of i. Pairs between sections are dropped.
    row_standardize
        Whether the weights of each point sum to 1, as in esda.
    null
        What R is tested against, for abundances ``"stationary"``, for cell types and for abundances that sum to one
        ``"no_preference"``.
        ``"stationary"``: independent smooth fields, variance from their autocovariances, t test with `n_eff` points.
        ``"no_preference"``: given how strongly x clusters, its neighbours of other types come in proportion to their
        abundance; tested as smooth fields over the points that are not x. Of two types the one is the other's
        complement, and p is NaN, as it is for an x with fewer than eight points of other types. A type with itself is tested against random labels.
        ``"labels"``: types placed at random on the given points, as squidpy permutes them, by exact moments.
        ``"shift"``: rigid shifts, turns and mirror images of one field against the other.
        ``"permute"``: points exchanged, all variables together (SpatialDM); ``"permute_y"``: the lagged variable alone
        (esda). ``"analytic"``: SpatialDM's formula. The last three, and ``"labels"``, take neighbouring points for
        independent, and call half of all unrelated smooth pairs significant.
    alternative
        ``"two-sided"``, ``"greater"`` (together) or ``"less"`` (apart).
    n_draws
        Number of shifts or permutations.
    confidence
        Level of the interval for R.
    local
        Whether to write local R, ``z^x_i (W z^y)_i``, and its p-value: for all ordered pairs, or for those given, one
        ``(x, y)`` or several, both directions of each.
    library_key
        Column of obs that names the section of each row; ``"section"`` or the region by default.
    group_key
        Column of obs with the replicate of each section; ``"patient"`` by default, where it is there.
    mpp
        um per px of the coordinates; 1 if they are in um. By default from the data.
    rng
        Seed or generator for what draws at random; `None` for other draws each time.
    key_added
        Slot to write.
    table_key
        The table of a SpatialData that has several.
    inplace
        Whether to write, or to return what would have been written.

    Returns
    -------
    Nothing; or with ``inplace=False`` a :class:`~histocell.tl.ColocalizationResult`, whose ``to_uns()`` is what would
    have been written to ``uns``.
    It holds ``names``; ``R, expected, z, p, p_adj, n_eff, low, high`` of shape ``(k, k)``, x in rows (``expected`` is R
    under the null, and what is tested is the difference); ``n_patients``;
    ``sections`` with ``R``, ``expected``, ``n_eff`` and ``scale`` of each; ``params``; and with `local` also ``local_x``, ``local_y``,
    ``local`` and ``local_p``. ``p_adj`` is Benjamini-Hochberg over the pairs, counted once where R and its test are
    symmetric; the diagonal is a family of its own. Under ``"stationary"`` and ``"shift"`` p is NaN on the diagonal: a variable is not
    independent of itself. Pairs with a variable that is constant are NaN; ``params`` names them.

    Raises
    ------
    KeyError
        If a slot, a gene or a pair is not there.
    ValueError
        If the resolution is unknown, or an option makes no sense.
    TypeError
        If ``obs[key]`` holds numbers.

    References
    ----------
    Li et al., Nature Communications 14 (2023), SpatialDM: R. Clifford, Richardson and Hémon, Biometrics 45 (1989) and
    Dutilleul, Biometrics 49 (1993): the test. Hartung and Knapp, Statistics in Medicine 20 (2001): combination.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.tl.colocalization(sdata, "cell_abundance")
    >>> hc.get.colocalization(sdata).columns[:4].tolist()
    ['x', 'y', 'R', 'expected']
    >>> hc.tl.colocalization(sdata, weights="grid", inplace=False).params["weights"]
    'squidpy.gr.spatial_neighbors_grid'
    """
    _check(null=null, alternative=alternative, n_draws=n_draws, confidence=confidence)
    row_standardize = check_switch(row_standardize, "row_standardize")
    if include_self is not None:
        include_self = check_switch(include_self, "include_self")
    sections = Sections(data, table_key=table_key, library_key=library_key, group_key=group_key, mpp=mpp)
    inputs = read_inputs(sections, key, weights=weights, need_um=length_scale_um is not None)
    rows = inputs.known_rows(sections)
    null = _choose_null(null, inputs, rows)
    source = "the argument length_scale_um"
    if length_scale_um is None:
        length_scale_um, source = default_length_scale(inputs, rows)
    else:
        length_scale_um = check_length_scale(length_scale_um, inputs, rows)
    options = Options(
        length_scale_um=length_scale_um,
        length_scale_source=source,
        weights=inputs.weights_name,
        cutoff=cutoff,
        include_self=inputs.labels is None if include_self is None else include_self,
        row_standardize=row_standardize,
        null=null,
        alternative=alternative,
        n_draws=n_draws if null in {"shift", "permute", "permute_y"} else 0,
        confidence=confidence,
    )
    pairs = _local_pairs(local, inputs.names, sections.table.n_obs)
    result = _analyse_sections(inputs, rows, sections, options, pairs, as_rng(rng))
    if not inplace:
        return result
    sections.table.uns[key_added] = result.to_uns()
    if pairs:
        sections.table.obsm[f"{key_added}_local"] = result.local
        sections.table.obsm[f"{key_added}_local_p"] = result.local_p
    keys.write_provenance(sections.table, key_added, **result.params)
    return None


def _choose_null(null: Null | None, inputs: Inputs, rows: list[NDArray[np.intp]]) -> Null:
    """The null that was asked for, if it fits the variables, or the one that does."""
    if inputs.labels is not None:
        whole, what = True, f"obs[{inputs.key!r}] holds types"
    else:
        whole = inputs.normalization is None and is_whole(cast("Floats", inputs.values)[np.concatenate(rows)])
        what = f"the columns of obsm[{inputs.key!r}] sum to one number" if whole else f"{inputs.key!r} holds abundances"
    if null is None:
        return "no_preference" if whole else "stationary"
    if null == "labels" and inputs.labels is None:
        msg = f'null="labels" places types at random, but {what}; null="permute" exchanges points'
        raise ValueError(msg)
    if null == "no_preference" and not whole:
        msg = (
            f'null="no_preference" is for cell types and for abundances that sum to one, but {what}; null="stationary"'
        )
        raise ValueError(msg)
    if null in BETWEEN_FIELDS and inputs.labels is not None:
        warn(f'null="{null}" takes variables for independent, but {what}: "no_preference" accounts for it')
    return null


def _check(*, null: str | None, alternative: str, n_draws: int, confidence: float) -> None:
    if null is not None:
        check_choice("null", null, NULLS)
    check_choice("alternative", alternative, ALTERNATIVES)
    check_count(n_draws, "n_draws", least=2)
    check_share(confidence, "confidence", ends="()")


def _local_pairs(
    local: bool | tuple[str, str] | Sequence[tuple[str, str]], names: list[str], n: int
) -> list[tuple[int, int]]:
    """Positions of the ordered pairs; of each pair given also the other direction."""
    if local is False:
        return []
    if local is True:
        pairs = [(x, y) for x in range(len(names)) for y in range(len(names)) if x != y]
        if len(pairs) * n > MAX_LOCAL:
            msg = f"local R of {len(pairs)} pairs at {n} points is too much; choose pairs, local=[(x, y), ...]"
            raise ValueError(msg)
        return pairs
    wanted = as_pairs(local, "local")
    absent = sorted({name for pair in wanted for name in pair} - set(names))
    if absent:
        msg = f"local: {listing(absent)} not found; available: {listing(names, 40)}"
        raise MissingKeyError(msg)
    both = [(names.index(a), names.index(b)) for x, y in wanted for a, b in ((x, y), (y, x))]
    return list(dict.fromkeys(both))


def _analyse_sections(
    inputs: Inputs,
    rows: list[NDArray[np.intp]],
    sections: Sections,
    options: Options,
    pairs: list[tuple[int, int]],
    rng: np.random.Generator,
) -> ColocalizationResult:
    """R of each section, local R of the pairs, and R over all sections."""
    groups = np.array(sections.groups(), dtype=object)
    maps = np.full((2, sections.table.n_obs, len(pairs)), np.nan, dtype=np.float32)
    results = []
    for own in rows:
        result = analyse(inputs.take(own), options, rng)
        for column, (x, y) in enumerate(pairs):
            if not (result.constant[x] or result.constant[y]):
                maps[:, own, column] = null_models.local_tail(result.values[:, x], result.lag[:, y], rng=rng)
        results.append(result)
    names = np.array(inputs.names, dtype=object)
    stacked = {part: np.stack([result.arrays[part] for result in results]) for part in SECTIONS}
    arrays = _combine(results, stacked, groups, options)
    _warn_of_little(arrays, inputs, rows, options)
    constant = {
        section: names[result.constant].tolist()
        for section, result in zip(sections.names, results, strict=True)
        if result.constant.any()
    }
    params: dict[str, object] = {
        "key": inputs.key,
        **asdict(options),
        "library_key": sections.library_key,
        "n_points": sum(len(own) for own in rows),
        "isolated": sum(result.isolated for result in results),
        "constant": constant,
    }
    if inputs.normalization is not None:
        params["normalization"] = inputs.normalization
    if sections.given_mpp is not None:  # for the scalebar of plots
        params["mpp"] = sections.given_mpp
    first, second = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    return ColocalizationResult(
        names=names,
        **arrays,
        sections={"names": np.array(sections.names, dtype=object), "patients": groups, **stacked},
        params=params,
        local_x=names[first] if pairs else None,
        local_y=names[second] if pairs else None,
        local=maps[0] if pairs else None,
        local_p=maps[1] if pairs else None,
    )


def _warn_of_little(
    arrays: dict[str, np.ndarray], inputs: Inputs, rows: list[NDArray[np.intp]], options: Options
) -> None:
    """Warn where R or p say nothing: nothing varies, nothing can be tested, most points have no neighbour."""
    reach = rbf_radius(options.length_scale_um, options.cutoff)
    if not np.isfinite(arrays["R"]).any():
        warn(
            "R is undefined for all pairs: every variable is constant, all points lie at one place, or none has a neighbour"
        )
    elif options.null == "no_preference" and not np.isfinite(arrays["p"][~np.eye(len(inputs.names), dtype=bool)]).any():
        warn(f"p is NaN for all pairs: {FEW}")
    elif options.weights == "rbf" and (alone := isolated_share(inputs, rows, reach)) > MOST_ISOLATED:
        says = (
            "R is hardly more than the correlation of both at one point"
            if options.include_self
            else "they count for nothing"
        )
        warn(
            f"{100 * alone:.0f} % of the points have no other within {reach:.3g} um, where the weights of "
            f"length_scale_um={options.length_scale_um:.3g} end, so {says}: take a longer one, or none for the default"
        )


def _combine(
    results: list[SectionResult], stacked: dict[str, Floats], groups: NDArray[np.object_], options: Options
) -> dict[str, np.ndarray]:
    """Arrays of one section as they are, of several over patients; with adjusted p-values."""
    if len(results) == 1:
        arrays: dict[str, np.ndarray] = {part: values for part, values in results[0].arrays.items() if part != "scale"}
        arrays["n_patients"] = np.isfinite(arrays["R"]).astype(np.int64)
    else:
        # what is tested, and combined, is the difference from what the null expects
        over = combine(stacked["R"] - stacked["expected"], stacked["scale"], stacked["n_eff"], groups)
        expected = over_patients(stacked["expected"], groups)
        p = null_models.combine_tails(*null_models.t_tails(over.statistic, over.df), options.alternative)
        if options.null in BETWEEN_FIELDS:
            np.fill_diagonal(p, np.nan)
        low, high = (edge + expected for edge in over.interval(options.confidence))
        r = over.r + expected
        r = np.where(np.isfinite(r), r, over_patients(stacked["R"], groups))  # where there is nothing to test
        arrays = {"R": r, "expected": expected, "z": over.statistic, "p": p, "n_eff": over.n_eff}
        arrays |= {"low": low, "high": high}
        arrays["n_patients"] = over.n_patients
    symmetric = all(result.symmetric for result in results)
    return {**arrays, "p_adj": null_models.false_discovery_pairs(arrays["p"], symmetric=symmetric)}
