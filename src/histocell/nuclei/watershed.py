"""Segmentation of nuclei by flooding a haematoxylin map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell.kernels.filters import blur, box_mean, gaussian_taps
from histocell.kernels.nuclei import flood

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMOOTH_UM = 0.85
LOCAL_UM = 12.0
THRESHOLD_RANGE = (0.6, 1.5)  # of the local threshold, in units of the slide's
PEAK_DEPTH = 0.07  # of a pass between two nuclei, in units of the slide's threshold


def segment_nuclei(haematoxylin: NDArray[np.float32], *, threshold: float, mpp: float) -> tuple[NDArray[np.int32], int]:
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

    References
    ----------
    Vincent and Soille (1991), Watersheds in digital spaces.
    """
    smooth = blur(haematoxylin, gaussian_taps(SMOOTH_UM / mpp))
    local = box_mean(smooth, max(1, round(LOCAL_UM / mpp)))
    lowest, highest = (bound * threshold for bound in THRESHOLD_RANGE)
    return flood(smooth, smooth > np.clip(local, lowest, highest, out=local), PEAK_DEPTH * threshold)
