"""Measurements of the nuclei of a label image, by the definitions of scikit-image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell.kernels.outlines.runs import count, runs_of_labels
from histocell.kernels.outlines.shapes import shapes_of_runs
from histocell.kernels.outlines.stains import pixel_measures, ring_means
from histocell.nuclei.measuring.columns import NAMES
from histocell.nuclei.measuring.surroundings import surroundings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.types import Floats


def measure_labels(
    labels: NDArray[np.integer], maps: NDArray[np.float32], *, mpp: float, ring_um: float = 3.0
) -> dict[str, Floats]:
    """Measure the nuclei of an image of labels.

    Shapes are those of px: area, axes, eccentricity, orientation, perimeter and solidity are what
    ``skimage.measure.regionprops_table`` gives. Those of :func:`histocell.pp.measure_nuclei` are exact of the outline.

    Parameters
    ----------
    labels
        Shape (h, w), integers from 1, 0 elsewhere.
    maps
        Shape (2 or more, h, w), float32: haematoxylin, eosin.
    mpp
        um per px.
    ring_um
        Width of the ring, in um.

    Returns
    -------
    ``label``, ``x_um`` and ``y_um`` (from the corner of the image), and the columns of
    :data:`histocell.nuclei.measuring.columns.MEASUREMENTS`: one row for each label that is there.

    Raises
    ------
    ValueError
        When the shapes differ or labels are negative.
    """
    if labels.ndim != 2 or maps.ndim != 3 or maps.shape[1:] != labels.shape or len(maps) < 2:
        msg = f"labels must have shape (h, w) and maps (2 or more, h, w); they have {labels.shape} and {maps.shape}"
        raise ValueError(msg)
    if labels.size == 0 or labels.min() < 0 or labels.dtype.kind not in "iu":
        msg = "labels must be integers from 0 (outside) up, of an image that has px"
        raise ValueError(msg)
    n = int(labels.max())
    if n > labels.size:  # numbers of another image, such as those of a whole slide
        names, inverse = np.unique(labels, return_inverse=True)
        names = names[names > 0]
        ranks = inverse.reshape(labels.shape) + (0 if (labels == 0).any() else 1)
        found = measure_labels(ranks.astype(np.int32), maps, mpp=mpp, ring_um=ring_um)
        return found | {"label": names[found["label"] - 1]}
    starts, runs = runs_of_labels(labels.astype(np.int32, copy=False), n)
    shape = shapes_of_runs(starts, runs)
    occupied = np.zeros(labels.shape, np.uint8)
    count(runs, occupied)
    pixels = pixel_measures(starts, runs, maps)[:, 1:]
    rings = ring_means(starts, runs, maps, occupied, ring_um / mpp)
    points = (shape[:, [2, 1]] + 0.5) * mpp
    height, width = labels.shape
    around = surroundings(points, (width * mpp, height * mpp))
    lengths = shape[:, [0, 3, 4, 5]] * [mpp**2, mpp, mpp, mpp]
    values = np.column_stack([lengths, shape[:, 6:], pixels, rings, around])
    there = np.diff(starts) > 0
    out = {"label": np.flatnonzero(there) + 1, "x_um": points[there, 0], "y_um": points[there, 1]}
    return out | dict(zip(NAMES, values[there].T, strict=True))
