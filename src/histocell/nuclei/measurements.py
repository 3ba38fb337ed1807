"""Nuclei of a block: segmentation in physical units, and their additive statistics on a grid."""

from __future__ import annotations

import numpy as np

from histocell.kernels.filters import blur, box_mean, gaussian_taps
from histocell.kernels.nuclei import flood, measure, nearest_distance, nuclear_mask, surround
from histocell.kernels.pooling import scatter

SMOOTH_UM = 0.85
LOCAL_UM = 12.0
THRESHOLD_RANGE = (0.6, 1.5)  # of the local threshold, in units of the slide's
PEAK_DEPTH = 0.07  # of a pass between two nuclei, in units of the slide's threshold
AREA_RANGE_UM2 = (10.0, 400.0)
NEAREST_LIMIT_UM = 30.0

# Classes of nuclei: size x darkness x elongation. Small, dark and round is lymphoid; elongated is stromal or
# endothelial; large is epithelial, pale or dark.
AREA_EDGES_UM2 = (20.0, 40.0, 75.0)
DARK_EDGES = (1.2, 1.5)  # mean haematoxylin, in units of the slide's nuclear threshold
ELONGATION_EDGES = (1.6,)
NEAREST_EDGES_UM = (7.0, 10.0, 15.0)
# Classes by what surrounds the nucleus: basophilic or clear, eosinophilic or clear cytoplasm or matrix.
AROUND_UM = 5.0
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


def segment_nuclei(haematoxylin: np.ndarray, *, threshold: float, mpp: float) -> tuple[np.ndarray, int]:
    """Label the nuclei of a haematoxylin map.

    A pixel is nuclear where the smoothed map is above its local mean, the threshold kept around the slide's own; the
    mask is split where the map has a pass between two peaks.

    Parameters
    ----------
    haematoxylin
        Shape (h, w), float32, in units of the slide's strength.
    threshold
        The slide's threshold between nuclei and the rest.
    mpp
        um per px of the map.

    Returns
    -------
    Labels, shape (h, w), int32 from 1 (0 outside), and their number. Labels of any size are kept.
    """
    smooth = blur(haematoxylin, gaussian_taps(SMOOTH_UM / mpp))
    local = box_mean(smooth, max(1, round(LOCAL_UM / mpp)))
    mask = nuclear_mask(smooth, local, THRESHOLD_RANGE[0] * threshold, THRESHOLD_RANGE[1] * threshold)
    return flood(smooth, mask, PEAK_DEPTH * threshold)


def nuclei_table(
    labels: np.ndarray, n: int, maps: np.ndarray, *, threshold: float, mpp: float
) -> dict[str, np.ndarray]:
    """Measure the nuclei of a block.

    Parameters
    ----------
    labels, n
        From :func:`segment_nuclei`.
    maps
        Shape (2 or more, h, w), float32: haematoxylin, eosin.
    threshold
        The slide's threshold between nuclei and the rest.
    mpp
        um per px of the maps.

    Returns
    -------
    Arrays of one length: y, x (um from the block's corner), area (um²), elongation, fill, h_mean, h_sd, e_mean, cos2,
    sin2, nearest (um), around_h, around_e.
    """
    rows = measure(labels, n, maps)
    area = rows[:, 2] * mpp**2
    rows, area = (a[(area >= AREA_RANGE_UM2[0]) & (area <= AREA_RANGE_UM2[1])] for a in (rows, area))
    points = (rows[:, :2] + 0.5) * mpp
    around = surround(labels, maps, rows[:, :2], max(1, round(AROUND_UM / mpp)))
    return {
        "y": points[:, 0],
        "x": points[:, 1],
        "area": area,
        "elongation": rows[:, 3],
        "fill": rows[:, 4],
        "h_mean": rows[:, 5] / threshold,
        "h_sd": rows[:, 6] / threshold,
        "e_mean": rows[:, 7],
        "cos2": rows[:, 8],
        "sin2": rows[:, 9],
        "nearest": nearest_distance(points, NEAREST_LIMIT_UM),
        "around_h": around[:, 0] / threshold,
        "around_e": around[:, 1],
    }


def nuclear_sums(nuclei: dict[str, np.ndarray], *, shape: tuple[int, int], cell_um: float) -> np.ndarray:
    """Add the nuclei up in the grid cells that hold their centres.

    Parameters
    ----------
    nuclei
        From :func:`nuclei_table`.
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
    ):
        kind = np.zeros(area.shape, np.int64)
        for quantity, edges in traits:
            kind = kind * (len(edges) + 1) + np.searchsorted(edges, quantity, side="right")
        values += [kind == i for i in range(n_kinds)]
    crowding = np.searchsorted(NEAREST_EDGES_UM, nuclei["nearest"], side="right")
    values += [crowding == i for i in range(len(NEAREST_EDGES_UM) + 1)]
    row = (nuclei["y"] / cell_um).astype(np.int64)
    column = (nuclei["x"] / cell_um).astype(np.int64)
    out = np.zeros((*shape, len(SUMS)), np.float32)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    scatter(out, row[inside], column[inside], np.stack(values, axis=1)[inside].astype(np.float32))
    return out
