"""Which cell types sit together: bivariate Moran's R of all pairs, with a null that knows that tissue is smooth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng
from histocell._core.settings import logger
from histocell.kernels import null as null_models
from histocell.tables.access import get_table
from histocell.tl._colocalization import inputs
from histocell.tl._colocalization.replicates import combine
from histocell.tl._colocalization.section import ALTERNATIVES, BETWEEN_FIELDS, NULLS, Options, SectionResult, analyse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.kernels.null import Alternative
    from histocell.tables.access import Data
    from histocell.tl._colocalization.section import Null

KEY = "colocalization"
MAX_LOCAL = 2e8  # values of local R


def colocalization(
    data: Data,
    key: str | None = None,
    *,
    length_scale_um: float | None = None,
    cutoff: float = 0.2,
    include_self: bool | None = None,
    weights: Any = None,
    row_standardize: bool = False,
    null: Null = "stationary",
    alternative: Alternative = "two-sided",
    n_draws: int = 999,
    confidence: float = 0.95,
    local: bool | Sequence[tuple[str, str]] = False,
    library_key: str | None = None,
    patient_key: str | None = None,
    mpp: float | None = None,
    rng: SeedLike | RNGLike | None = None,
    key_added: str = KEY,
    table_key: str | None = None,
    inplace: bool = True,
) -> Any:
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
        Abundances, shape ``(n, k)``, in obsm; or cell types in obs, which are counted without being spelt out.
        By default ``"cell_abundance"``, else ``"predicted_abundance"``.
    length_scale_um
        The length l in um. By default 2.2 pitches: 220 um on Visium, 440 um on legacy arrays; for cells, of the hexagonal
        grid that would be as dense. What was taken is logged and kept with the result.
    cutoff
        Weights below this are 0.
    include_self
        Whether a point is its own neighbour. By default on for abundances, since a spot holds several cells, and off
        for cell types, since a cell is one. When on, R also counts what sits in the same spot.
    weights
        Weights to take instead: a key of obsp such as ``"spatial_connectivities"``, or a matrix ``(n, n)``. Row i holds
        the weights that make the lag of i. Pairs between sections are dropped.
    row_standardize
        Whether the weights of each point sum to 1, as in esda.
    null
        ``"stationary"``: independent smooth fields, variance from their autocovariances, t test with `n_eff` points.
        ``"shift"``: rigid shifts, turns and mirror images of one field against the other.
        ``"permute"``: points exchanged, all variables together (SpatialDM); ``"permute_y"``: the lagged variable alone
        (esda). ``"analytic"``: SpatialDM's formula. The last three take neighbouring points for independent, and call
        half of all unrelated smooth pairs significant.
    alternative
        ``"two-sided"``, ``"greater"`` (together) or ``"less"`` (apart).
    n_draws
        Number of shifts or permutations.
    confidence
        Level of the interval for R.
    local
        Whether to write local R, ``z^x_i (W z^y)_i``, and its p-value: for all ordered pairs, or for those given, both
        directions of each.
    library_key
        Column of obs that tells sections apart; ``"section"`` or the region by default.
    patient_key
        Column of obs with the patient of each section; ``"patient"`` by default, where it is there.
    mpp
        um per px of the coordinates; 1 if they are in um. By default from the data.
    rng
        Seed or generator for what draws at random.
    key_added
        Slot to write.
    table_key
        The table of a SpatialData that has several.
    inplace
        Whether to write, or to return what would have been written.

    Returns
    -------
    Nothing; or with ``inplace=False`` the result, and with `local` the result, local R and local p.
    The result holds ``names``; ``R, z, p, p_adj, n_eff, low, high`` of shape ``(k, k)``, x in rows; ``n_patients``;
    ``sections`` with ``R``, ``n_eff`` and ``scale`` of each; ``params``, JSON. ``p_adj`` is Benjamini-Hochberg over the
    pairs, counted once where R is symmetric; the diagonal is a family of its own. Under ``"stationary"`` and
    ``"shift"`` p is NaN on the diagonal: a variable is not independent of itself. Pairs with a variable that is
    constant are NaN; ``params`` names them.

    Raises
    ------
    KeyError
        If a slot or a pair is not there.
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
    >>> hc.tl.colocalization(sdata, "predicted_abundance")
    >>> hc.get.colocalization(sdata)
    """
    _check(null=null, alternative=alternative, n_draws=n_draws, confidence=confidence)
    table = get_table(data, table_key)
    variables = inputs.read_variables(table, key)
    sections = inputs.read_sections(
        data, table, inputs.drop_unknown(variables), library_key=library_key, patient_key=patient_key
    )
    given = inputs.read_weights(table, weights)
    need_um = given is None or length_scale_um is not None
    xy = inputs.read_places(data, table, mpp=mpp, table_key=table_key, need_um=need_um)
    source = "the argument length_scale_um"
    if length_scale_um is None:
        length_scale_um, source = inputs.default_length_scale(xy, sections, cells=variables.labels is not None)
        logger.info("length_scale_um=%.4g: %s", length_scale_um, source)
    options = Options(
        length_scale=float(length_scale_um),
        cutoff=cutoff,
        include_self=variables.labels is None if include_self is None else include_self,
        row_standardize=row_standardize,
        null=null,
        alternative=alternative,
        n_draws=n_draws,
        confidence=confidence,
    )
    generator = as_rng(rng)
    pairs = _local_pairs(local, variables.names, table.n_obs)
    maps = np.full((2, table.n_obs, len(pairs)), np.nan, dtype=np.float32)
    results = []
    for rows in sections.rows:
        result = analyse(
            xy[rows],
            None if variables.values is None else variables.values[rows],
            None if variables.labels is None else variables.labels[rows],
            n_variables=len(variables.names),
            weights=None if given is None else given[rows][:, rows],
            options=options,
            rng=generator,
        )
        for column, (x, y) in enumerate(pairs):
            if not (result.constant[x] or result.constant[y]):
                maps[:, rows, column] = null_models.local_tail(result.z[:, x], result.lag[:, y], rng=generator)
        results.append(result)
    out = _combine(results, sections, options)
    out["names"] = np.array(variables.names, dtype=object)
    if pairs:
        out["local_x"], out["local_y"] = (
            np.array([variables.names[pair[side]] for pair in pairs], dtype=object) for side in (0, 1)
        )
    params = {
        "key": variables.key,
        "length_scale_um": options.length_scale,
        "length_scale_source": source,
        "weights": "rbf" if weights is None else weights if isinstance(weights, str) else "matrix",
        "cutoff": cutoff,
        "include_self": options.include_self,
        "row_standardize": row_standardize,
        "null": null,
        "alternative": alternative,
        "n_draws": n_draws if null in {"shift", "permute", "permute_y"} else 0,
        "confidence": confidence,
        "library_key": sections.key,
        "n_points": int(sum(len(rows) for rows in sections.rows)),
        "isolated": int(sum(result.isolated for result in results)),
        "constant": _constant_names(results, sections, variables.names),
    }
    out["params"] = json.dumps(params)
    if not inplace:
        return (out, maps[0], maps[1]) if pairs else out
    table.uns[key_added] = out
    if pairs:
        table.obsm[f"{key_added}_local"], table.obsm[f"{key_added}_local_p"] = maps
    keys.write_provenance(table, key_added, **params)
    return None


def _check(*, null: str, alternative: str, n_draws: int, confidence: float) -> None:
    for name, value, allowed in (("null", null, NULLS), ("alternative", alternative, ALTERNATIVES)):
        if value not in allowed:
            msg = f"{name} must be one of {', '.join(allowed)}, not {value!r}"
            raise ValueError(msg)
    if n_draws < 2:
        msg = f"n_draws must be at least 2, not {n_draws}"
        raise ValueError(msg)
    if not 0 < confidence < 1:
        msg = f"confidence must lie between 0 and 1, not at {confidence}"
        raise ValueError(msg)


def _local_pairs(local: bool | Sequence[tuple[str, str]], names: list[str], n: int) -> list[tuple[int, int]]:
    """Positions of the ordered pairs; of each pair given also the other direction."""
    if local is False:
        return []
    if local is True:
        pairs = [(x, y) for x in range(len(names)) for y in range(len(names)) if x != y]
        if len(pairs) * n > MAX_LOCAL:
            msg = f"local R of {len(pairs)} pairs at {n} points is too much; choose pairs, local=[(x, y), ...]"
            raise ValueError(msg)
        return pairs
    wanted = [tuple(pair) for pair in local]
    absent = sorted({str(name) for pair in wanted for name in pair} - set(names))
    if absent:
        msg = f"local: {listing(absent)} not found; available: {listing(names, 40)}"
        raise KeyError(msg)
    both = [(names.index(str(a)), names.index(str(b))) for x, y in wanted for a, b in ((x, y), (y, x))]
    return list(dict.fromkeys(both))


def _combine(results: list[SectionResult], sections: inputs.SectionRows, options: Options) -> dict[str, Any]:
    """One section as it is, several over patients; adjusted p-values; the sections beside."""
    symmetric = all(result.symmetric for result in results)
    stacked = {
        "R": np.stack([result.r for result in results]),
        "n_eff": np.stack([result.n_eff for result in results]),
        "scale": np.stack([result.scale for result in results]),
    }
    if len(results) == 1:
        only = results[0]
        out = {"R": only.r, "z": only.statistic, "p": only.p, "n_eff": only.n_eff, "low": only.low, "high": only.high}
        n_patients = np.isfinite(only.r).astype(np.int64)
    else:
        combined = combine(stacked["R"], stacked["scale"], stacked["n_eff"], np.array(sections.patients))
        low, high = combined.interval(options.confidence)
        p = null_models.combine_tails(*combined.tails(), options.alternative)
        if options.null in BETWEEN_FIELDS:
            np.fill_diagonal(p, np.nan)
        r = np.tanh(combined.estimate) * combined.scale
        out = {"R": r, "z": combined.statistic, "p": p, "n_eff": combined.n_eff, "low": low, "high": high}
        n_patients = combined.n_patients
    if not np.isfinite(out["R"]).any():
        warn("R is undefined for all pairs: every variable is constant, or no point has a neighbour")
    return {
        **out,
        "p_adj": adjust(out["p"], symmetric=symmetric),
        "n_patients": n_patients,
        "sections": {
            "names": np.array(sections.names, dtype=object),
            "patients": np.array(sections.patients, dtype=object),
            **stacked,
        },
    }


def adjust(p: NDArray[np.float64], *, symmetric: bool) -> NDArray[np.float64]:
    """Benjamini-Hochberg over the pairs, and over the diagonal by itself."""
    out = np.full(p.shape, np.nan)
    upper = np.triu(np.ones(p.shape, dtype=bool), 1)
    if symmetric:
        out[upper] = null_models.false_discovery(p[upper])
        out.T[upper] = out[upper]
    else:
        out[upper | upper.T] = null_models.false_discovery(p[upper | upper.T])
    np.fill_diagonal(out, null_models.false_discovery(np.diag(p)))
    return out


def _constant_names(
    results: list[SectionResult], sections: inputs.SectionRows, names: list[str]
) -> dict[str, list[str]]:
    """Variables that are constant, by section."""
    found = {
        section: [name for name, constant in zip(names, result.constant, strict=True) if constant]
        for section, result in zip(sections.names, results, strict=True)
    }
    return {section: constant for section, constant in found.items() if constant}
