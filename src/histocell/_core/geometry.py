"""Geometry of points and pixels: pitch, resolution, square windows."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.arguments import check_positive

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MOST_SPREAD = 0.3  # of the distances to the nearest point, on a grid; 0.77 where points lie at random


def spot_pitch(xy: ArrayLike) -> float:
    """Distance between neighbouring spots in px: the median over all pairs of direct neighbours.

    The nearest neighbour alone would be biased: where spots are jittered, the nearest is nearer than the pitch.

    Parameters
    ----------
    xy
        Coordinates of the spots of one section, shape ``(n, 2)``, in px.
    """
    from scipy.spatial import cKDTree

    xy = np.unique(np.asarray(xy, dtype=np.float64), axis=0)
    if len(xy) < 2:
        msg = "a spot pitch needs at least two spots at different places"
        raise ValueError(msg)
    distance = cKDTree(xy).query(xy, k=min(7, len(xy)))[0][:, 1:]
    return float(np.median(distance[distance < 1.25 * np.median(distance[:, 0])]))


def is_grid(xy: ArrayLike) -> bool:
    """Whether points, shape ``(n, 2)``, lie on a grid: each is as far from its nearest one as the others are."""
    from scipy.spatial import cKDTree

    xy = np.asarray(xy, dtype=np.float64)
    if len(xy) < 2:
        return False
    low, middle, high = np.quantile(cKDTree(xy).query(xy, k=2)[0][:, 1], [0.25, 0.5, 0.75])
    return bool(middle > 0 and (high - low) / middle <= _MOST_SPREAD)


def mpp_from_pitch(xy: ArrayLike, pitch_um: float) -> float:
    """Micrometres per px from the known distance of neighbouring spots (200 um legacy ST, 100 um Visium)."""
    pitch_um = check_positive(pitch_um, "spot_pitch_um")
    return check_mpp(pitch_um / spot_pitch(xy), source=f"a spot pitch of {pitch_um:g} um")


def check_mpp(mpp: float, *, source: str = "the argument mpp") -> float:
    """`mpp` as a float, if a microscope could have made it."""
    if not isinstance(mpp, Real) or isinstance(mpp, bool):
        msg = f"{source} must be a number (um per full-resolution px), not {mpp!r}"
        raise TypeError(msg)
    if not 0.05 <= mpp <= 100:
        msg = f"{source} gives {mpp:g} um per px; a slide image has between 0.05 and 100"
        raise ValueError(msg)
    return float(mpp)


def check_patch_size(size_um: float, *, mpp: float, shape: tuple[int, int], name: str = "the slide") -> None:
    """An error for patches below one px, or larger than the image of `shape` (height, width) that they are cut from."""
    size_px = check_positive(size_um, "size_um") / mpp
    if size_px < 0.5:
        msg = f"patches of size_um={size_um:g} are {size_px:.3g} px at {mpp:g} um per px; they need at least 1 px"
        raise ValueError(msg)
    if size_px > max(shape):
        height, width = (length * mpp for length in shape)
        msg = (
            f"patches of size_um={size_um:g} are larger than the image of {name}, which is {width:.4g} x {height:.4g} um; "
            f"is the resolution right ({mpp:g} um per px)?"
        )
        raise ValueError(msg)


def square_windows(xy: ArrayLike, size_px: ArrayLike) -> NDArray[np.int32]:
    """Squares centred on points.

    Parameters
    ----------
    xy
        Centres, shape ``(n, 2)``, x and y in px.
    size_px
        Edge in px, one for all or one for each.

    Returns
    -------
    Integer windows, shape ``(n, 4)``: y0, x0, y1, x1; the edge is rounded to whole px. Far outside of any slide they are
    where 32 bits end.
    """
    xy = np.asarray(xy, dtype=np.float64)
    edge = np.broadcast_to(np.rint(np.asarray(size_px, dtype=np.float64)), len(xy))
    start = np.clip(np.rint(xy[:, ::-1] - edge[:, None] / 2), -(2**30), 2**30)
    return np.hstack([start, start + edge[:, None]]).astype(np.int32)


def windows_inside(windows: NDArray[np.integer], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which windows ``(y0, x0, y1, x1)`` lie wholly in an image of `shape` (height, width)."""
    return (windows[:, :2] >= 0).all(axis=1) & (windows[:, 2] <= shape[0]) & (windows[:, 3] <= shape[1])


def check_inside(
    xy: NDArray[np.float64], shape: tuple[int, int], name: str, *, least: float = 0.0
) -> NDArray[np.bool_]:
    """Which points lie in the image; an error when x and y look swapped or too few of them do.

    Parameters
    ----------
    xy
        Points, shape ``(n, 2)``, x and y in px.
    shape
        Height and width of the image in px.
    name
        What the points are, for the message.
    least
        Share of the points, of which more must lie in the image.
    """
    limit = np.array([shape[1], shape[0]])
    inside = ((xy >= 0) & (xy < limit)).all(axis=1)
    if inside.all() or len(xy) == 0:
        return inside
    swapped = ((xy[:, ::-1] >= 0) & (xy[:, ::-1] < limit)).all(axis=1)
    where = f"the image of {name} is {shape[1]} px wide and {shape[0]} px high"
    if swapped.mean() > inside.mean() + 0.05:
        msg = (
            f"x and y look swapped: {inside.sum()} of {len(xy)} points of {name} lie in the image, {swapped.sum()} would "
            f"with x and y exchanged; {where}. Coordinates are (x, y) in full-resolution px."
        )
        raise ValueError(msg)
    if inside.mean() <= least:
        msg = (
            f"{inside.sum() or 'none'} of the {len(xy)} points of {name} lie in the image; {where}, the points span x "
            f"{xy[:, 0].min():.0f} to {xy[:, 0].max():.0f}, y {xy[:, 1].min():.0f} to {xy[:, 1].max():.0f}. "
            "Coordinates are (x, y) in px of this very image, not of a downscaled one."
        )
        raise ValueError(msg)
    return inside


def check_patches(
    xy: ArrayLike, *, mpp: float, size_um: float, shape: tuple[int, int] | None = None
) -> NDArray[np.float64]:
    """Centres of patches as floats, shape ``(n, 2)``, if they and the size can be those of patches of an image of `shape`."""
    xy = np.asarray(xy, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        msg = f"centers must be finite x, y in two columns, got shape {xy.shape}"
        raise ValueError(msg)
    if not (0 < mpp < np.inf and 0 < size_um < np.inf):
        msg = f"mpp and size_um must be above 0, got {mpp} and {size_um}"
        raise ValueError(msg)
    if shape is not None:
        check_patch_size(size_um, mpp=mpp, shape=shape)
    return xy


def local_order(xy: NDArray[np.float64], *, block_px: float = 2048) -> NDArray[np.intp]:
    """The order of points by square blocks, row by row of them and within them: neighbours come one after the other.

    Parameters
    ----------
    xy
        Points, shape ``(n, 2)``, x and y in px.
    block_px
        Edge of a block.
    """
    x, y = xy.T
    return np.lexsort((x, y, x // block_px, y // block_px))


def overlapping_windows(windows: NDArray[np.number], others: NDArray[np.number]) -> NDArray[np.bool_]:
    """Which windows ``(y0, x0, y1, x1)`` share pixels with any of the others.

    Windows of one size overlap those of another where the nearest centre is nearer than half of both, so that memory
    does not follow the number of pairs, whatever the windows' size.
    """
    from scipy.spatial import cKDTree

    out = np.zeros(len(windows), dtype=bool)
    if len(windows) == 0 or len(others) == 0:
        return out
    mine, theirs = _centers_by_size(windows), _centers_by_size(others)
    for size, _, points in theirs:
        places = np.unique(points, axis=0)  # a leaf of the tree would hold all points of one place
        for own_size, rows, own_points in mine:
            reach = (size + own_size) / 2
            tree = cKDTree(places / reach)
            distance, _ = tree.query(own_points / reach, p=np.inf, distance_upper_bound=1)
            out[rows] |= distance < 1 - 1e-9  # those that only touch share nothing
    return out


def _centers_by_size(
    windows: NDArray[np.number],
) -> list[tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]]:
    """Each size (y, x) of windows, the windows that have it, and their centres."""
    corners = windows.reshape(-1, 2, 2).astype(np.float64)
    sizes, which = np.unique(corners[:, 1] - corners[:, 0], axis=0, return_inverse=True)
    centers = corners.mean(axis=1)
    return [(size, rows := np.flatnonzero(which == i), centers[rows]) for i, size in enumerate(sizes)]
