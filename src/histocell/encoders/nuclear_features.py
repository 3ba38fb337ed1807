"""Nuclei of a block: segmentation in physical units, and their additive statistics on a grid."""

from __future__ import annotations

import numpy as np

from histocell.kernels.filters import blur, box_mean, gaussian_taps
from histocell.kernels.nuclei import flood, measure, nearest_distance, nuclear_mask

SMOOTH_MASK_UM = 0.7
SMOOTH_PEAK_UM = 1.0
LOCAL_UM = 12.0
THRESHOLD_RANGE = (0.75, 1.5)
PEAK_DEPTH = 0.07  # in units of the nuclear threshold
AREA_RANGE_UM2 = (10.0, 400.0)
NEAREST_LIMIT_UM = 30.0

AREA_EDGES_UM2 = (20.0, 32.0, 48.0, 75.0)
ELONGATION_EDGES = (1.4, 2.0)
DARKNESS_EDGES = (1.2, 1.5, 1.9)  # of haematoxylin, in units of the nuclear threshold
NEAREST_EDGES_UM = (7.0, 10.0, 15.0)

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
    "cos2",
    "sin2",
    *(f"area_bin{i}" for i in range(len(AREA_EDGES_UM2) + 1)),
    *(f"elongation_bin{i}" for i in range(len(ELONGATION_EDGES) + 1)),
    *(f"dark_bin{i}" for i in range(len(DARKNESS_EDGES) + 1)),
    *(f"nearest_bin{i}" for i in range(len(NEAREST_EDGES_UM) + 1)),
    "lymphoid",
    "spindle",
    "large",
    "plump_pale",
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
    smooth = blur(haematoxylin, gaussian_taps(SMOOTH_MASK_UM / mpp))
    local = box_mean(smooth, max(1, round(LOCAL_UM / mpp)))
    mask = nuclear_mask(smooth, local, THRESHOLD_RANGE[0] * threshold, THRESHOLD_RANGE[1] * threshold)
    surface = blur(haematoxylin, gaussian_taps(SMOOTH_PEAK_UM / mpp))
    return flood(surface, mask, PEAK_DEPTH * threshold)


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
    sin2, nearest (um).
    """
    rows = measure(labels, n, maps)
    area = rows[:, 2] * mpp**2
    rows, area = (a[(area >= AREA_RANGE_UM2[0]) & (area <= AREA_RANGE_UM2[1])] for a in (rows, area))
    points = (rows[:, :2] + 0.5) * mpp
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
        nuclei["cos2"] * weight,
        nuclei["sin2"] * weight,
    ]
    for quantity, edges in (
        (area, AREA_EDGES_UM2),
        (elongation, ELONGATION_EDGES),
        (dark, DARKNESS_EDGES),
        (nuclei["nearest"], NEAREST_EDGES_UM),
    ):
        bins = np.searchsorted(edges, quantity, side="right")
        values += [bins == i for i in range(len(edges) + 1)]
    round_ = elongation < 1.6
    values += [
        round_ & (area < 40) & (dark > 1.4),
        (elongation >= 2) & (area < 60),
        area >= 60,
        round_ & (area >= 40) & (dark <= 1.4),
    ]
    row = (nuclei["y"] / cell_um).astype(np.int64)
    column = (nuclei["x"] / cell_um).astype(np.int64)
    out = np.zeros((*shape, len(SUMS)), np.float32)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    np.add.at(out, (row[inside], column[inside]), np.stack(values, axis=1)[inside].astype(np.float32))
    return out
