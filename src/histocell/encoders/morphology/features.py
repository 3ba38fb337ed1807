"""Features of a neighbourhood from its sums: means, spreads, densities and shares, each close to Gaussian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell.encoders.morphology.blocks import CELL_PX, CHANNELS, CONTRAST_CELLS, EDGE_UM, LBP_UM, N_BINS, TEXTURE_UM
from histocell.encoders.morphology.nuclei import AROUND, CLASSES
from histocell.encoders.morphology.nuclei import SUMS as NUCLEAR_SUMS
from histocell.kernels.texture import N_LBP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Values = NDArray[np.float64]
    type Sums = dict[str, Values]

# Added to denominators: features of spots with little tissue or few nuclei tend to 0, not to noise.
_LITTLE_TISSUE = 0.02
_FEW_NUCLEI = 3e-4  # per um²


# The features of the wide context: the kind of tissue, not its details.
_SUMMARY = (
    "tissue",
    "mean_h",
    "mean_e",
    "mean_residual",
    "log_he",
    "h_detail4",
    "anisotropy2",
    "coherence2",
    "edge2",
    "density",
    "nuclear_share",
    "nuclear_area",
    "nuclear_dark",
    "density_nearest_bin0",
    "h_clusters4",
)


def spot_features(sums: Values) -> Sums:
    """Features of the spot itself: colour, texture, nuclei and architecture.

    Parameters
    ----------
    sums
        Shape (n, len(CHANNELS)): mean over the grid cells of a neighbourhood.

    Returns
    -------
    Names and arrays of shape (n,), float64, finite.
    """
    s = dict(zip(CHANNELS, (sums / CELL_PX**2).T, strict=True))
    return {**_colour(s), **_texture(s), **_nuclei(s), **_architecture(s)}


def surroundings_features(sums: Values) -> Sums:
    """Features of the surroundings: those of the spot, and local binary patterns, which need many pixels.

    Parameters and result as for :func:`spot_features`.
    """
    s = dict(zip(CHANNELS, (sums / CELL_PX**2).T, strict=True))
    return {**spot_features(sums), **_patterns(s)}


def context_features(sums: Values) -> Sums:
    """A few features of the wide context: the kind of tissue around the spot.

    Parameters and result as for :func:`spot_features`.
    """
    features = spot_features(sums)
    return {name: features[name] for name in _SUMMARY}


def _spread(square: Values, mean: Values) -> Values:
    return np.sqrt(np.maximum(square - mean**2, 0))


def _colour(s: Sums) -> Sums:
    tissue = s["tissue"] + _LITTLE_TISSUE
    plain = s["plain"] + _LITTLE_TISSUE
    f = {"tissue": s["tissue"]}
    f |= {f"mean_{k}": s[k] / tissue for k in ("h", "e", "red", "green", "blue")}
    f["sd_h"] = _spread(s["h2"] / tissue, f["mean_h"])
    f["sd_e"] = _spread(s["e2"] / tissue, f["mean_e"])
    f["mean_residual"] = s["residual"] / tissue
    f["sd_residual"] = _spread(s["residual2"] / tissue, f["mean_residual"])
    f["cor_he"] = (s["he"] / tissue - f["mean_h"] * f["mean_e"]) / (f["sd_h"] * f["sd_e"] + 1e-3)
    f["log_he"] = np.log((s["h"] + _LITTLE_TISSUE) / (s["e"] + _LITTLE_TISSUE))
    f["plain_h"] = s["plain_h"] / plain
    f["plain_e"] = s["plain_e"] / plain
    f["plain_sd_h"] = _spread(s["plain_h2"] / plain, f["plain_h"])
    f["plain_sd_e"] = _spread(s["plain_e2"] / plain, f["plain_e"])
    f |= {f"h_bin{i}": np.sqrt(s[f"h_bin{i}"] / tissue) for i in range(N_BINS)}
    f |= {f"e_bin{i}": np.sqrt(s[f"e_bin{i}"] / plain) for i in range(N_BINS)}
    return f


def _texture(s: Sums) -> Sums:
    f = {f"{k}_detail{um}": np.log(s[f"{k}_detail{um}"] + 2e-3) for um in TEXTURE_UM for k in "he"}
    for um in TEXTURE_UM:
        f[f"gradient{um}"] = np.log(s[f"gradient{um}"] + 2e-3)
        pull = np.hypot(s[f"tensor_cos{um}"], s[f"tensor_sin{um}"])
        f[f"anisotropy{um}"] = np.sqrt(pull)
        f[f"coherence{um}"] = pull / (s[f"tensor{um}"] + 1e-4)
    f |= {f"edge{um}": np.sqrt(s[f"edge{um}"]) for um in EDGE_UM}
    return f


def _patterns(s: Sums) -> Sums:
    names = [f"lbp{LBP_UM}_{i}" for i in range(N_LBP)]
    counts = np.stack([s[name] for name in names])
    return dict(zip(names, np.sqrt(counts / (counts.sum(axis=0) + _LITTLE_TISSUE)), strict=True))


def _nuclei(s: Sums) -> Sums:
    n = {name: s[f"nuclei_{name}"] for name in NUCLEAR_SUMS}
    few = n["n"] + _FEW_NUCLEI
    f = {"density": np.sqrt(n["n"]), "nuclear_share": n["area"]}
    f |= {
        f"nuclear_{k}": n[k] / few
        for k in ("area", "elongation", "fill", "dark", "chromatin", "eosin", "nearest", "around_h", "around_e")
    }
    f["nuclear_sd_area"] = _spread(n["area2"] / few, f["nuclear_area"])
    f["nuclear_sd_dark"] = _spread(n["dark2"] / few, f["nuclear_dark"])
    f["nuclear_sd_nearest"] = _spread(n["nearest2"] / few, f["nuclear_nearest"])
    f["nuclear_alignment"] = np.hypot(n["cos2"], n["sin2"]) / few
    f |= {f"density_{k}": np.sqrt(n[k]) for k in n if k in CLASSES or k in AROUND or k.startswith("nearest_bin")}
    return f


def _architecture(s: Sums) -> Sums:
    f = {}
    per_cell = CELL_PX**2
    for k in CONTRAST_CELLS:
        h, n, t = s[f"h_cell{k}"] * per_cell, s["nuclei_n"] * per_cell, s["tissue"]
        f[f"h_clusters{k}"] = _spread(s[f"h_cell_square{k}"] * per_cell, h)
        f[f"h_steps{k}"] = s[f"h_step{k}"] * per_cell
        f[f"nuclear_clusters{k}"] = _spread(s[f"n_square{k}"] * per_cell, n) / (n + 0.02)
        f[f"tissue_gaps{k}"] = _spread(s[f"t_square{k}"] * per_cell, t)
    return f
