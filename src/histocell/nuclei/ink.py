"""Ink of pens over tissue: where the mean colour of the surroundings is none of haematoxylin and eosin together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from histocell.kernels.filters import box_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Single pixels of ink over tissue look like those of nuclei, stroma or red cells; means over all that is stained nearby
# do not: mixtures of two stains lie on a line between these, and ink draws them off it. In densities over that of green,
# chosen on real sections of four sources and on synthetic ones, with ink drawn over them.
MEAN_UM = 8.0  # half width of the surroundings
LEAST_STAINED = 0.3  # of them
STROKE_UM = 15.0  # half width within which nearly all is ink: strokes are broad, specks of dirt are not
_STROKE_SHARE = 0.8
_LEAST = 1e-4  # above the error of sums
_USUAL_BLUE, _LARGEST_SHIFT = 0.53, 0.15  # of a slide; where blue is weaker in all of it, it is in its inks, too
_RED_BLUE, _RED_RED = 0.66, 0.7  # red ink, or blood
_GREEN_LINE, _GREEN_RED = (1.25, -0.5), 1.05
_BLUE_LINE, _BLUE_RED = (0.16, 0.22), 0.72
_HIGHEST_RED = (1.15, 1.6)  # blue and green ink, by how red the slide is
_LITTLE_RED, _MUCH_RED = 0.25, 0.5  # a share of its tissue that is not under ink, and how much higher ink is
_BLACK_BLUE = 0.72


def find_ink(
    density: Sequence[NDArray[np.float32]], stained: Sequence[NDArray[np.bool_]], mpp: float
) -> list[NDArray[np.bool_]]:
    """Where strokes of a pen lie over tissue, or large areas of blood.

    Parameters
    ----------
    density
        Optical densities (h, w, 3) of R, G, B of images of a slide.
    stained
        Their pixels (h, w) that are stained.
    mpp
        um per px.

    Returns
    -------
    For each image, whether a pixel lies well within a stroke, shape (h, w).
    """
    colours = [_mean_colour(image, mask, mpp) for image, mask in zip(density, stained, strict=True)]
    held = [enough & mask for (_, _, enough), mask in zip(colours, stained, strict=True)]
    low_red = _quantile([red[part] for (red, _, _), part in zip(colours, held, strict=True)], _LITTLE_RED)
    typical_blue = _quantile([blue[part] for (_, blue, _), part in zip(colours, held, strict=True)], 0.5)
    width = max(1, round(STROKE_UM / mpp))
    inks = [is_ink_colour(red, blue, low_red, typical_blue) & enough for red, blue, enough in colours]
    return [box_mean(ink.astype(np.float32), width) > _STROKE_SHARE for ink in inks]


def to_edges(ink: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Strokes (h, w) as :func:`find_ink` gives them, whose surroundings are ink, too, out to their edges."""
    return box_mean(ink.astype(np.float32), max(1, round(STROKE_UM / mpp))) > _LEAST


def _quantile(parts: Sequence[NDArray[np.float32]], share: float) -> float:
    values = np.concatenate(parts)
    return float(np.quantile(values, share)) if len(values) else math.nan


def is_ink_colour(
    red: NDArray[np.float32], blue: NDArray[np.float32], low_red: float = math.nan, typical_blue: float = math.nan
) -> NDArray[np.bool_]:
    """Whether mean densities of red and blue over that of green are none of haematoxylin and eosin together.

    `low_red` (a quarter lies below) and `typical_blue` (the median) are those of the slide, NaN where they are not known.
    """
    shift, highest = 0.0, _HIGHEST_RED[1]
    if not math.isnan(low_red + typical_blue):
        shift = min(max(typical_blue - _USUAL_BLUE, -_LARGEST_SHIFT), 0.0)
        highest = min(max(low_red + _MUCH_RED, _HIGHEST_RED[0]), _HIGHEST_RED[1])
    above = blue - np.float32(shift)
    is_red = (above > _RED_BLUE) & (red < _RED_RED)
    is_green = (above > _GREEN_LINE[0] + _GREEN_LINE[1] * red) & (red > _GREEN_RED)
    is_blue = (blue < _BLUE_LINE[0] + _BLUE_LINE[1] * red) & (red > _BLUE_RED)
    return is_red | is_green | is_blue | (red > highest) | (above > _BLACK_BLUE)


def _mean_colour(
    density: NDArray[np.float32], stained: NDArray[np.bool_], mpp: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Densities of red and blue over green of what is stained around each pixel, and whether enough is."""
    radius = max(1, round(MEAN_UM / mpp))
    red, green, blue = (box_mean(np.where(stained, density[..., k], np.float32(0)), radius) for k in range(3))
    green = np.maximum(green, np.float32(1e-6))
    return red / green, blue / green, box_mean(stained.astype(np.float32), radius) > LEAST_STAINED
