"""Segmentation of nuclei by the level sets of a haematoxylin map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell.kernels.filters import blur, box_mean, gaussian_taps
from histocell.kernels.level_sets.necks import cut_necks, inner_distance
from histocell.kernels.level_sets.objects import fill_holes
from histocell.kernels.level_sets.outlines import grow
from histocell.kernels.level_sets.tree import N_LEVELS, choose_nodes, component_tree

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Chosen on 20 tiles of glioblastoma and 10 of breast cancer with contours drawn by people, and on the former with other
# stains, sizes, blur and compression: tests/benchmarks/bench_nuclei.py. Map values: 0 is stroma, 1 a nucleus.
SMOOTH_UM = 0.42
LOCAL_UM = 12.0  # half width of the window of the local background
LOCAL_WEIGHT = 0.5
LOCAL_CEILING = 0.6  # nuclei count no more than this in the local background
LOCAL_LEVEL = 0.15  # of a typical local background
FLOOR, CEILING = 0.24, 2.2
LEAST_NODE_UM2 = 4.0
FULL_AREA_UM2 = 10.0
SLOPES = (0.1, 0.55)  # per um
FILLS = (0.65, 0.95)
LUMP = 1.1
SIZE_WEIGHT = 0.3
NECK = 0.8  # a narrower pass between two parts of a nucleus, relative to the smaller of them, splits it
NECK_STAIN = 0.35  # weight of the map beside the logarithm of the width
LEAST_RADIUS_UM = 1.0


def find_nuclei(
    stained: NDArray[np.float32], *, mpp: float, max_area_um2: float, contrast: float
) -> tuple[NDArray[np.int32], int, NDArray[np.float32]]:
    """Label all that is shaped like a nucleus in a map.

    Of all connected parts of all level sets those are chosen that look most like nuclei, by the steepness of the map
    along their outline, how well they fill an ellipse, and their size. Each then grows to the level at which its own
    edge is steepest, so that pale and dark nuclei get the outlines that they have. What has a neck is split there.

    Parameters
    ----------
    stained
        Shape (h, w), float32: 0 in typical stroma, 1 in a typical nucleus.
    mpp
        um per px.
    max_area_um2
        Area that no nucleus exceeds.
    contrast
        Factor of the least steepness of an outline.

    Returns
    -------
    Labels, shape (h, w), int32 from 1 (0 outside), the largest, and the map without its local background.

    References
    ----------
    Arteta et al. (2012), Learning to detect cells using non-overlapping extremal regions; Nistér and Stewénius (2008),
    Linear time maximally stable extremal regions.
    """
    smooth = blur(stained, gaussian_taps(SMOOTH_UM / mpp))
    local = box_mean(smooth, max(1, round(LOCAL_UM / mpp)), LOCAL_CEILING)
    local -= np.float32(LOCAL_LEVEL)
    local *= np.float32(LOCAL_WEIGHT)
    smooth -= local
    areas = (LEAST_NODE_UM2 / mpp**2, max_area_um2 / mpp**2, FULL_AREA_UM2 / mpp**2)
    tree = component_tree(smooth, FLOOR, (CEILING - FLOOR) / N_LEVELS, areas[0])
    slopes = (contrast * SLOPES[0] * mpp, SLOPES[1] * mpp)
    nodes, marks = choose_nodes(tree, areas, slopes, FILLS, LUMP)
    labels = grow(tree, nodes, marks, smooth.shape, SIZE_WEIGHT, areas[1])
    fill_holes(labels, int(areas[1]))
    return labels, _split(labels, smooth, mpp), smooth


def _split(labels: NDArray[np.int32], smooth: NDArray[np.float32], mpp: float) -> int:
    """Cut nuclei that touch at their necks, in place, all the sooner where the neck is pale, too."""
    width = inner_distance(labels)
    heights = np.log(np.maximum(width, 0.5, out=width) * np.float32(mpp), out=width)
    heights += np.float32(NECK_STAIN) * smooth
    least = float(np.log(LEAST_RADIUS_UM)) + NECK_STAIN / 2
    return cut_necks(labels, heights, -float(np.log(NECK)), least)
