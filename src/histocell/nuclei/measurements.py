"""Measurements of nuclei: position, shape, stain, nearest neighbour and surroundings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from histocell.kernels.nuclei import measure, surround

if TYPE_CHECKING:
    from numpy.typing import NDArray

AREA_RANGE_UM2 = (10.0, 400.0)
NEAREST_LIMIT_UM = 30.0
AROUND_UM = 5.0


def nuclei_table(
    labels: NDArray[np.int32], n: int, maps: NDArray[np.float32], *, threshold: float, mpp: float
) -> dict[str, NDArray[np.float64]]:
    """Measure the nuclei of an image.

    Parameters
    ----------
    labels, n
        From :func:`histocell.nuclei.watershed.segment_nuclei`.
    maps
        Shape (2 or more, h, w), float32: haematoxylin, eosin.
    threshold
        The slide's threshold between nuclei and the rest.
    mpp
        um per px of the maps.

    Returns
    -------
    Arrays of one length: y, x (um from the image's corner), area (um²), elongation, fill, h_mean, h_sd, e_mean, cos2,
    sin2, nearest (um), around_h, around_e. Labels smaller than 10 or larger than 400 um² are left out.
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


def nearest_distance(points: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """Distance of each point (n, 2) to the nearest other one, at most `limit`."""
    if len(points) < 2:
        return np.full(len(points), limit)
    tree = cKDTree(points, leafsize=8, compact_nodes=False, balanced_tree=False)  # faster to build, no slower to ask
    distance, _ = tree.query(points, k=[2], distance_upper_bound=limit)
    return np.minimum(distance[:, 0], limit)
