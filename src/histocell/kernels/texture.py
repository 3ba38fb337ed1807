"""Sums of colour and texture over the square cells of a grid.

Everything here is additive: a neighbourhood of any size is the sum of its cells, so overlapping surroundings of many
spots are computed once.
"""

from __future__ import annotations

import numpy as np

from histocell.kernels.compiled import njit

N_LBP = 10


def _riu2_table() -> np.ndarray:
    """Rotation-invariant uniform pattern of each of the 256 rings: the number of set bits, or 9 if not uniform."""
    rings = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = np.abs(rings - np.roll(rings, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, rings.sum(axis=1), N_LBP - 1).astype(np.uint8)


_RIU2 = _riu2_table()


@njit(nogil=True, cache=True)
def unmix(rgb: np.ndarray, density: np.ndarray, unmixing: np.ndarray) -> np.ndarray:
    """Stain amounts and total optical density of each pixel.

    Parameters
    ----------
    rgb
        Shape (h, w, 3), uint8.
    density
        Shape (256, 3), float32: optical density of each value of each channel.
    unmixing
        Shape (3, 3), float32: optical density to amounts of haematoxylin, eosin and what neither explains.

    Returns
    -------
    Shape (4, h, w), float32: haematoxylin, eosin (both >= 0), mean optical density of the channels, residual.
    """
    height, width = rgb.shape[:2]
    out = np.empty((4, height, width), np.float32)
    zero, third = np.float32(0), np.float32(1 / 3)
    for y in range(height):
        for x in range(width):
            r = density[rgb[y, x, 0], 0]
            g = density[rgb[y, x, 1], 1]
            b = density[rgb[y, x, 2], 2]
            out[0, y, x] = max(zero, r * unmixing[0, 0] + g * unmixing[1, 0] + b * unmixing[2, 0])
            out[1, y, x] = max(zero, r * unmixing[0, 1] + g * unmixing[1, 1] + b * unmixing[2, 1])
            out[2, y, x] = (r + g + b) * third
            out[3, y, x] = r * unmixing[0, 2] + g * unmixing[1, 2] + b * unmixing[2, 2]
    return out


def unmix_haematoxylin(
    rgb: np.ndarray, density: np.ndarray, unmixing: np.ndarray, low: np.float32, span: np.float32
) -> np.ndarray:
    """Haematoxylin of each pixel, of :func:`unmix`, less `low` and divided by `span`: shape (h, w), float32."""
    out = np.empty(rgb.shape[:2], np.float32)
    _unmix_haematoxylin(rgb, density * unmixing[:, 0], low, span, out)
    return out


@njit(nogil=True, cache=True)
def _unmix_haematoxylin(
    rgb: np.ndarray, shares: np.ndarray, low: np.float32, span: np.float32, out: np.ndarray
) -> None:
    height, width = rgb.shape[:2]
    red, green, blue = shares.T.copy()
    zero = np.float32(0)
    for y in range(height):
        for x in range(width):
            amount = red[rgb[y, x, 0]] + green[rgb[y, x, 1]] + blue[rgb[y, x, 2]]
            out[y, x] = (max(zero, amount) - low) / span


COLOUR_SUMS = (
    "pixels",
    "tissue",
    "h",
    "e",
    "h2",
    "e2",
    "he",
    "red",
    "green",
    "blue",
    "residual",
    "residual2",
    "plain",
    "plain_h",
    "plain_e",
    "plain_h2",
    "plain_e2",
)
_N_SUMS = len(COLOUR_SUMS)


@njit(nogil=True, cache=True)
def colour_sums(
    maps: np.ndarray,
    rgb: np.ndarray,
    density: np.ndarray,
    tissue: np.ndarray,
    labels: np.ndarray,
    edges: np.ndarray,
    size: int,
) -> np.ndarray:
    """Sums over the tissue pixels of each cell: amounts, squares, colour, histograms.

    Parameters
    ----------
    maps
        Shape (4, h, w), float32, from :func:`unmix`: haematoxylin H, eosin E.
    rgb
        Shape (h, w, 3), uint8.
    density
        Shape (256, 3), float32.
    tissue
        Shape (h, w), bool.
    labels
        Shape (h, w), int32: nuclei, 0 elsewhere. Tissue without nucleus is "plain".
    edges
        Shape (2, k), float32: increasing inner bin edges of H and E.
    size
        Side of a cell in px; divides h and w.

    Returns
    -------
    Shape (h / size, w / size, 17 + 2 (k + 1)), float32: :data:`COLOUR_SUMS`, the histogram of H over tissue, the
    histogram of E over plain tissue.
    """
    rows, columns = maps.shape[1] // size, maps.shape[2] // size
    n_edges = edges.shape[1]
    out = np.zeros((rows, columns, _N_SUMS + 2 * (n_edges + 1)), np.float32)
    for i in range(rows):
        for j in range(columns):
            # In registers, not in memory: this loop is the most expensive of a block.
            n = s_h = s_e = s_h2 = s_e2 = s_he = s_red = s_green = s_blue = s_res = s_res2 = np.float32(0)
            m = p_h = p_e = p_h2 = p_e2 = np.float32(0)
            cell = out[i, j]
            for y in range(i * size, (i + 1) * size):
                for x in range(j * size, (j + 1) * size):
                    if not tissue[y, x]:
                        continue
                    h, e, rest = maps[0, y, x], maps[1, y, x], maps[3, y, x]
                    n += 1
                    s_h += h
                    s_e += e
                    s_h2 += h * h
                    s_e2 += e * e
                    s_he += h * e
                    s_red += density[rgb[y, x, 0], 0]
                    s_green += density[rgb[y, x, 1], 1]
                    s_blue += density[rgb[y, x, 2], 2]
                    s_res += rest
                    s_res2 += rest * rest
                    h_bin = 0
                    for k in range(n_edges):
                        h_bin += h >= edges[0, k]
                    cell[_N_SUMS + h_bin] += 1
                    if labels[y, x] == 0:
                        m += 1
                        p_h += h
                        p_e += e
                        p_h2 += h * h
                        p_e2 += e * e
                        e_bin = 0
                        for k in range(n_edges):
                            e_bin += e >= edges[1, k]
                        cell[_N_SUMS + 1 + n_edges + e_bin] += 1
            cell[0] = size * size
            cell[1], cell[2], cell[3], cell[4], cell[5], cell[6] = n, s_h, s_e, s_h2, s_e2, s_he
            cell[7], cell[8], cell[9], cell[10], cell[11] = s_red, s_green, s_blue, s_res, s_res2
            cell[12], cell[13], cell[14], cell[15], cell[16] = m, p_h, p_e, p_h2, p_e2
    return out


@njit(nogil=True, cache=True)
def detail_sums(image: np.ndarray, coarse: np.ndarray, size: int) -> np.ndarray:
    """Absolute difference of each pixel to its parent one level up, summed over cells (Haar detail).

    Parameters
    ----------
    image
        Shape (h, w), float32.
    coarse
        Shape (h / 2, w / 2), float32: `image` halved.
    size
        Side of a cell in px; even.

    Returns
    -------
    Shape (h / size, w / size), float32.
    """
    rows, columns = image.shape[0] // size, image.shape[1] // size
    out = np.zeros((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            total = np.float32(0)
            for y in range(i * size, (i + 1) * size):
                for x in range(j * size, (j + 1) * size):
                    total += abs(image[y, x] - coarse[y >> 1, x >> 1])
            out[i, j] = total
    return out


@njit(nogil=True, cache=True)
def gradient_sums(image: np.ndarray, size: int) -> np.ndarray:
    """Gradient magnitude and structure tensor, summed over cells.

    Parameters
    ----------
    image
        Shape (h, w), float32.
    size
        Side of a cell in px.

    Returns
    -------
    Shape (h / size, w / size, 4), float32: |g|, gx² - gy², 2 gx gy, gx² + gy² by central differences.
    """
    height, width = image.shape
    rows, columns = height // size, width // size
    out = np.zeros((rows, columns, 4), np.float32)
    half = np.float32(0.5)
    for i in range(rows):
        for j in range(columns):
            length = cosine = sine = total = np.float32(0)
            for y in range(i * size, (i + 1) * size):
                above, below = max(y - 1, 0), min(y + 1, height - 1)
                for x in range(j * size, (j + 1) * size):
                    gx = half * (image[y, min(x + 1, width - 1)] - image[y, max(x - 1, 0)])
                    gy = half * (image[below, x] - image[above, x])
                    power = gx * gx + gy * gy
                    length += np.sqrt(power)
                    cosine += gx * gx - gy * gy
                    sine += 2 * gx * gy
                    total += power
            out[i, j, 0], out[i, j, 1], out[i, j, 2], out[i, j, 3] = length, cosine, sine, total
    return out


@njit(nogil=True, cache=True)
def lbp_sums(image: np.ndarray, tissue: np.ndarray, size: int) -> np.ndarray:
    """Rotation-invariant uniform local binary patterns of the 8 nearest pixels, counted over tissue.

    Parameters
    ----------
    image
        Shape (h, w), float32.
    tissue
        Shape (h, w), bool.
    size
        Side of a cell in px.

    Returns
    -------
    Shape (h / size, w / size, 10), float32: counts of patterns with 0 to 8 set bits, and of non-uniform ones.

    References
    ----------
    Ojala, Pietikäinen, Mäenpää (2002), equation 9.
    """
    height, width = image.shape
    rows, columns = height // size, width // size
    out = np.zeros((rows, columns, N_LBP), np.float32)
    for y in range(1, min(rows * size, height - 1)):
        for x in range(1, min(columns * size, width - 1)):
            if not tissue[y, x]:
                continue
            c = image[y, x]
            code = (
                (image[y - 1, x - 1] >= c)
                | (image[y - 1, x] >= c) << 1
                | (image[y - 1, x + 1] >= c) << 2
                | (image[y, x + 1] >= c) << 3
                | (image[y + 1, x + 1] >= c) << 4
                | (image[y + 1, x] >= c) << 5
                | (image[y + 1, x - 1] >= c) << 6
                | (image[y, x - 1] >= c) << 7
            )
            out[y // size, x // size, _RIU2[code]] += 1
    return out


@njit(nogil=True, cache=True)
def boundary_sums(tissue: np.ndarray, size: int) -> np.ndarray:
    """Pairs of adjacent pixels of which one is tissue and one is not, counted over cells: the length of the edge."""
    rows, columns = tissue.shape[0] // size, tissue.shape[1] // size
    out = np.zeros((rows, columns), np.float32)
    last_y, last_x = tissue.shape[0] - 1, tissue.shape[1] - 1
    for i in range(rows):
        for j in range(columns):
            count = 0
            for y in range(i * size, (i + 1) * size):
                for x in range(j * size, (j + 1) * size):
                    here = tissue[y, x]
                    count += here != tissue[y, min(x + 1, last_x)]
                    count += here != tissue[min(y + 1, last_y), x]
            out[i, j] = count
    return out
