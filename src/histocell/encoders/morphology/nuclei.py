"""Additive statistics of nuclei on the grid of morphology."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell.kernels.pooling import scatter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Classes of nuclei: size x darkness x elongation. Small, dark and round is lymphoid; elongated is stromal or
# endothelial; large is epithelial, pale or dark.
AREA_EDGES_UM2 = (20.0, 40.0, 75.0)
DARK_EDGES = (1.2, 1.5)  # mean haematoxylin, in units of the slide's nuclear threshold
ELONGATION_EDGES = (1.6,)
NEAREST_EDGES_UM = (7.0, 10.0, 15.0)
# Classes by what surrounds the nucleus: basophilic or clear, eosinophilic or clear cytoplasm or matrix.
AROUND_H_EDGES = (0.35, 0.47)  # in units of the slide's nuclear threshold
AROUND_E_EDGES = (0.18, 0.28)

CLASSES = tuple(
    f"{size}_{dark}_{shape}"
    for size in ("tiny", "small", "medium", "large")
    for dark in ("pale", "mid", "dark")
    for shape in ("round", "long")
)
AROUND = tuple(f"around_{h}_{e}" for h in ("clear", "mid", "blue") for e in ("clear", "mid", "pink"))
SUMS = (
    "n",
    "area",
    "area2",
    "elongation",
    "fill",
    "dark",
    "dark2",
    "chromatin",
    "eosin",
    "nearest",
    "nearest2",
    "around_h",
    "around_e",
    "cos2",
    "sin2",
    *CLASSES,
    *AROUND,
    *(f"nearest_bin{i}" for i in range(len(NEAREST_EDGES_UM) + 1)),
)


def nuclear_sums(
    nuclei: Mapping[str, NDArray[np.float64]], *, shape: tuple[int, int], cell_um: float
) -> NDArray[np.float32]:
    """Add the nuclei up in the grid cells that hold their centres.

    Parameters
    ----------
    nuclei
        From :func:`histocell.nuclei.measurements.nuclei_table`.
    shape
        Rows and columns of the grid.
    cell_um
        Side of a grid cell.

    Returns
    -------
    Shape (rows, columns, len(SUMS)), float32.
    """
    area, elongation, dark = nuclei["area"], nuclei["elongation"], nuclei["h_mean"]
    weight = 1 - 1 / elongation
    values = [
        np.ones_like(area),
        area,
        area**2,
        np.log(elongation),
        nuclei["fill"],
        dark,
        dark**2,
        nuclei["h_sd"],
        nuclei["e_mean"],
        nuclei["nearest"],
        nuclei["nearest"] ** 2,
        nuclei["around_h"],
        nuclei["around_e"],
        nuclei["cos2"] * weight,
        nuclei["sin2"] * weight,
    ]
    for n_kinds, traits in (
        (len(CLASSES), ((area, AREA_EDGES_UM2), (dark, DARK_EDGES), (elongation, ELONGATION_EDGES))),
        (len(AROUND), ((nuclei["around_h"], AROUND_H_EDGES), (nuclei["around_e"], AROUND_E_EDGES))),
        (len(NEAREST_EDGES_UM) + 1, ((nuclei["nearest"], NEAREST_EDGES_UM),)),
    ):
        kind = np.zeros(area.shape, np.int64)
        for quantity, edges in traits:
            kind = kind * (len(edges) + 1) + np.searchsorted(edges, quantity, side="right")
        values += [kind == i for i in range(n_kinds)]
    row, column = ((nuclei[axis] / cell_um).astype(np.int64) for axis in "yx")
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    out = np.zeros((*shape, len(SUMS)), np.float32)
    scatter(out, row[inside], column[inside], np.stack(values, axis=1)[inside].astype(np.float32))
    return out
