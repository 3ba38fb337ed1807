"""Moments of outlines, exact, and the shape of objects of px as scikit-image defines it."""

from __future__ import annotations

import math

import numpy as np

from histocell.kernels.compiled import njit

SHAPES = ("area", "y", "x", "perimeter", "major_axis", "minor_axis", "eccentricity", "solidity", "orientation")
_SQRT2 = math.sqrt(2)
_FAR = 2**40  # half px: farther than any image is wide


@njit(nogil=True, cache=True)
def outline_moments(xy: np.ndarray, rings: np.ndarray, objects: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Second moments of the area in outlines, and whether these run along the edges of px.

    Parameters
    ----------
    xy, rings, objects
        As in `histocell.kernels.outlines.runs.fill`.
    holes
        Whether a ring is a hole, shape (r,).

    Returns
    -------
    Shape (n, 5): variance in x, variance in y and covariance of a point drawn from the area; where all edges are upright
    or level, the number of corners, else 0; length of the shortest edge. Moments are NaN where there is no area.

    References
    ----------
    Steger (1996), On the calculation of arbitrary moments of polygons.
    """
    out = np.full((objects.size - 1, 5), np.nan)
    for i in range(objects.size - 1):
        if objects[i] == objects[i + 1]:
            continue
        ox, oy = xy[rings[objects[i]], 0], xy[rings[objects[i]], 1]
        m = np.zeros(6)  # area, x, y, xx, yy, xy
        corners, shortest, level = 0, np.inf, True
        for ring in range(objects[i], objects[i + 1]):
            s = np.zeros(6)
            direction = first = 0
            for p in range(rings[ring], rings[ring + 1] - 1):
                xa, ya, xb, yb = xy[p, 0] - ox, xy[p, 1] - oy, xy[p + 1, 0] - ox, xy[p + 1, 1] - oy
                cross = xa * yb - xb * ya
                s[0] += cross / 2
                s[1] += cross * (xa + xb) / 6
                s[2] += cross * (ya + yb) / 6
                s[3] += cross * (xa * xa + xa * xb + xb * xb) / 12
                s[4] += cross * (ya * ya + ya * yb + yb * yb) / 12
                s[5] += cross * (xa * yb + 2 * xa * ya + 2 * xb * yb + xb * ya) / 24
                if xa == xb and ya == yb:
                    continue
                level = level and (xa == xb or ya == yb)
                now = 1 if xa == xb else 2
                if now != direction:
                    corners += 1
                    direction = now
                    first = first or now
                shortest = min(shortest, abs(xa - xb) + abs(ya - yb))
            corners -= direction == first  # the ring begins in the middle of an edge
            sign = -1.0 if (s[0] < 0) != holes[ring] else 1.0
            for j in range(6):
                m[j] += sign * s[j]
        if m[0] > 0:
            x, y = m[1] / m[0], m[2] / m[0]
            out[i, 0] = m[3] / m[0] - x * x
            out[i, 1] = m[4] / m[0] - y * y
            out[i, 2] = m[5] / m[0] - x * y
        out[i, 3] = corners if level else 0
        out[i, 4] = shortest
    return out


@njit(nogil=True, cache=True)
def ellipse(vx: float, vy: float, cov: float) -> tuple[float, float, float, float]:
    """Axes, eccentricity and orientation of the ellipse with the same second moments."""
    half, root = 0.5 * (vx + vy), math.sqrt(0.25 * (vx - vy) ** 2 + cov * cov)
    large, small = half + root, max(half - root, 0.0)
    eccentricity = math.sqrt(1 - small / large) if large > 0 else 0.0
    orientation = 0.5 * math.atan2(2 * cov, vy - vx) if root > 0 else 0.0
    return 4 * math.sqrt(large), 4 * math.sqrt(small), eccentricity, orientation


@njit(nogil=True, cache=True)
def ellipses(moments: np.ndarray) -> np.ndarray:
    """`ellipse` of each row of moments, shape (n, 3 or more): variance in x, in y, covariance."""
    out = np.full((moments.shape[0], 4), np.nan)
    for i in range(moments.shape[0]):
        if np.isfinite(moments[i, 0]):
            out[i] = ellipse(moments[i, 0], moments[i, 1], moments[i, 2])
    return out


@njit(nogil=True, cache=True)
def shapes_of_runs(starts: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Shape of objects of px, by the definitions of ``skimage.measure.regionprops``.

    Parameters
    ----------
    starts, runs
        The objects.

    Returns
    -------
    Shape (n, 9), float64, columns :data:`SHAPES`, in px; NaN where there is no px. A px is a point in the moments;
    the perimeter is that of Benkrid and Crookes; solidity is the share of objects in the px of their convex hull.
    """
    out = np.full((starts.size - 1, 9), np.nan)
    for i in range(starts.size - 1):
        own = runs[starts[i] : starts[i + 1]]
        if own.shape[0] == 0:
            continue
        oy, ox = own[0, 0], own[0, 1]
        n = 0
        sy = sx = syy = sxx = sxy = 0.0
        for k in range(own.shape[0]):
            y, a, b = own[k, 0] - oy, own[k, 1] - ox, own[k, 2] - ox
            m = b - a
            x_sum = m * (a + b - 1) / 2
            n += m
            sy += m * y
            sx += x_sum
            syy += m * y * y
            sxy += y * x_sum
            sxx += ((b - 1) * b * (2 * b - 1) - (a - 1) * a * (2 * a - 1)) / 6
        y, x = sy / n, sx / n
        out[i, 0], out[i, 1], out[i, 2] = n, oy + y, ox + x
        out[i, 3] = _perimeter(own)
        out[i, 4], out[i, 5], out[i, 6], out[i, 8] = ellipse(
            max(sxx / n - x * x, 0.0), max(syy / n - y * y, 0.0), sxy / n - x * y
        )
        out[i, 7] = n / _hull_px(own)
    return out


@njit(nogil=True, cache=True)
def _perimeter(own: np.ndarray) -> float:
    """Length of the border: px of the border by how they touch each other, in steps of 1, (1 + sqrt 2) / 2 or sqrt 2."""
    top, left = own[0, 0] - 2, own[:, 1].min() - 2
    height, width = own[-1, 0] - top + 3, own[:, 2].max() - left + 2
    mask = np.zeros((height, width), np.uint8)
    border = np.zeros((height, width), np.uint8)
    for k in range(own.shape[0]):
        for x in range(own[k, 1] - left, own[k, 2] - left):
            mask[own[k, 0] - top, x] = 1
    for k in range(own.shape[0]):
        y = own[k, 0] - top
        for x in range(own[k, 1] - left, own[k, 2] - left):
            if not (mask[y - 1, x] and mask[y + 1, x] and mask[y, x - 1] and mask[y, x + 1]):
                border[y, x] = 1
    total = 0.0
    for k in range(own.shape[0]):
        y = own[k, 0] - top
        for x in range(own[k, 1] - left, own[k, 2] - left):
            if border[y, x]:
                edges = border[y - 1, x] + border[y + 1, x] + border[y, x - 1] + border[y, x + 1]
                corners = border[y - 1, x - 1] + border[y - 1, x + 1] + border[y + 1, x - 1] + border[y + 1, x + 1]
                if (edges == 2 or edges == 3) and corners <= 2:
                    total += 1
                elif (corners == 2 and edges == 0) or (corners == 3 and edges == 1):
                    total += _SQRT2
                elif edges == 1 and (corners == 1 or corners == 2):
                    total += (1 + _SQRT2) / 2
    return total


@njit(nogil=True, cache=True)
def _hull_px(own: np.ndarray) -> int:
    """Number of px whose centre lies in, or on the edge of, the hull of the middles of the edges of all px."""
    top, n_rows = own[0, 0], own[-1, 0] - own[0, 0] + 1
    # leftmost and rightmost point in half px, in rows of half px; row 0 is the upper edge of the first
    low = np.full(2 * n_rows + 1, _FAR)
    high = np.full(2 * n_rows + 1, -(_FAR))
    for k in range(own.shape[0]):
        y, a, b = 2 * (own[k, 0] - top) + 1, 2 * own[k, 1], 2 * (own[k, 2] - 1)
        for step in (-1, 0, 1):
            wide = 1 if step == 0 else 0
            low[y + step] = min(low[y + step], a - wide)
            high[y + step] = max(high[y + step], b + wide)
    left, right = _chain(low), _chain(-high)
    total = 0
    i = j = 0
    for y in range(1, 2 * n_rows, 2):
        while left[i + 1] < y:
            i += 1
        while right[j + 1] < y:
            j += 1
        # x of the edges is rational: whole numbers of px by division without remainder
        a, b = left[i], left[i + 1]
        first = -((-(low[a] * (b - a) + (low[b] - low[a]) * (y - a))) // (2 * (b - a)))
        a, b = right[j], right[j + 1]
        last = (high[a] * (b - a) + (high[b] - high[a]) * (y - a)) // (2 * (b - a))
        total += last - first + 1
    return total


@njit(nogil=True, cache=True)
def _chain(x: np.ndarray) -> np.ndarray:
    """The rows that are corners of the hull of points on the side of small x; points that are not there are far right."""
    corners = np.empty(x.size, np.int64)
    n = 0
    for y in range(x.size):
        while n >= 2:
            a, b = corners[n - 2], corners[n - 1]
            if (x[b] - x[a]) * (y - a) >= (x[y] - x[a]) * (b - a):
                n -= 1
            else:
                break
        corners[n] = y
        n += 1
    return corners[:n]
