"""Pooling of the patch tokens of a transformer near a nucleus into its embedding."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from numbers import Integral
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from histocell._core.geometry import check_patches, local_order

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

type Strategy = Literal["centered", "shared"]
type Kernel = Literal["mean", "gaussian"]

# Distances are compared in whole steps of 2^-18 px: squares stay within int64 for images up to 4,096 px, and points that
# differ by rounding alone are ties on every machine.
_STEPS_PER_PX = 2**18
_MAX_PX = 4096


@dataclass(frozen=True)
class NucleusPooling:
    """Settings of the pooling of patch tokens near a nucleus. Class and register tokens never enter.

    Attributes
    ----------
    strategy
        ``"centered"``: one patch per cell, the nucleus in its middle. ``"shared"``: a grid of overlapping tiles; each
        nucleus takes its tokens from the tile whose centre is nearest, so the cost follows the area of tissue.
    k
        Tokens of the ``"mean"`` kernel: those whose centres are nearest to the nucleus.
    kernel
        ``"mean"`` of the `k` nearest tokens, or ``"gaussian"``: all tokens, weighted by their distance.
    sigma
        Standard deviation of the Gaussian, in tokens.
    block
        Block whose output is taken: -1 is the output after the final norm; that of another index is not normalised.
    overlap
        Of neighbouring shared tiles, as a fraction of their edge. A nucleus is at least ``overlap / 2`` of an edge away
        from the border of its tile.

    Raises
    ------
    ValueError
        If `strategy` or `kernel` is unknown, `k` is not a whole number above 0, `sigma` is not above 0, `block` is not a
        whole number, or `overlap` is not in [0, 1).

    Notes
    -----
    CellSymphony takes the mean of the k = 4 nearest tokens of a patch centred on the nucleus.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.encoders.NucleusPooling("shared", k=9).overlap
    0.5
    """

    strategy: Strategy = "centered"
    k: int = 4
    kernel: Kernel = "mean"
    sigma: float = 1.0
    block: int = -1
    overlap: float = 0.5

    def __post_init__(self) -> None:
        for name, choices in (("strategy", Strategy), ("kernel", Kernel)):
            known = get_args(choices.__value__)
            if getattr(self, name) not in known:
                msg = f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}"
                raise ValueError(msg)
        if not _is_whole(self.k) or self.k < 1:
            msg = f"k must be a whole number of tokens above 0, not {self.k!r}"
            raise ValueError(msg)
        if not 0 < self.sigma < inf:
            msg = f"sigma must be above 0 (tokens) and finite, not {self.sigma}"
            raise ValueError(msg)
        if not _is_whole(self.block):
            msg = f"block must be a whole number: -1 for the final norm, else the index of a block, not {self.block!r}"
            raise ValueError(msg)
        _check_overlap(self.overlap)


def nearest_tokens(yx_px: ArrayLike, *, grid: tuple[int, int], patch_px: int, k: int) -> NDArray[np.int64]:
    """The patch tokens nearest to points, nearest first; of equally far ones the lower index first.

    Parameters
    ----------
    yx_px
        Shape (m, 2): y, x in px of the network's input. Pixel r covers [r, r + 1), so the token in row i, column j has
        its centre at ``(i + 0.5) * patch_px``, ``(j + 0.5) * patch_px``. Compared to 2^-18 px.
    grid
        Rows and columns of tokens.
    patch_px
        Edge of a token in px.
    k
        How many tokens.

    Returns
    -------
    Shape (m, k): ``row * columns + column``.

    Raises
    ------
    ValueError
        If a point is not finite or lies more than a token outside of the image, or `k` does not fit the grid.
    """
    points = _checked(yx_px, grid, patch_px)
    rows, columns = grid
    if k > rows * columns:
        msg = (
            f"k={k} tokens asked for, but the grid of {rows} x {columns} tokens has {rows * columns}; choose a lower k"
        )
        raise ValueError(msg)
    steps = np.rint(points * _STEPS_PER_PX).astype(np.int64)
    (row, row_far), (column, column_far) = (_by_distance(steps[:, i], grid[i], patch_px) for i in range(2))
    # The token in the a-th nearest row and b-th nearest column comes after the a * b - 1 others within both, so it can be
    # among the k nearest only if a * b <= k: 8 candidates for k = 4, whatever the grid.
    a, b = np.nonzero(np.outer(np.arange(1, min(k, rows) + 1), np.arange(1, min(k, columns) + 1)) <= k)
    index = row[:, a] * columns + column[:, b]
    order = np.lexsort((index, row_far[:, a] + column_far[:, b]))[:, :k]
    return np.take_along_axis(index, order, axis=1)


def token_weights(
    yx_px: ArrayLike, *, grid: tuple[int, int], patch_px: int, pooling: NucleusPooling
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Patch tokens that make up the embedding of each point, and their weights.

    Parameters
    ----------
    yx_px
        Shape (m, 2): y, x in px of the network's input, as in :func:`nearest_tokens`.
    grid
        Rows and columns of tokens.
    patch_px
        Edge of a token in px.
    pooling
        Its `kernel`, `k` and `sigma` are used.

    Returns
    -------
    index
        Shape (m, q): ``row * columns + column``; q is `k`, or all tokens of the grid for the Gaussian.
    weight
        Shape (m, q), float32. Rows sum to 1.

    Raises
    ------
    ValueError
        As :func:`nearest_tokens`.
    """
    if pooling.kernel == "mean":
        index = nearest_tokens(yx_px, grid=grid, patch_px=patch_px, k=pooling.k)
        return index, np.full(index.shape, 1 / pooling.k, np.float32)
    points = _checked(yx_px, grid, patch_px) / patch_px
    along_y, along_x = (_gaussian(points[:, i], grid[i], pooling.sigma) for i in range(2))
    weight = (along_y[:, :, None] * along_x[:, None, :]).reshape(len(points), -1)
    return np.tile(np.arange(grid[0] * grid[1]), (len(points), 1)), weight.astype(np.float32)


@dataclass(frozen=True)
class TokenPooler:
    """A pooling, on the token grid of a network.

    Attributes
    ----------
    pooling
        The tokens to take.
    input_px, patch_px
        Edges of the input and of a token in px.
    """

    pooling: NucleusPooling
    input_px: int
    patch_px: int

    @property
    def shared(self) -> bool:
        """Whether several nuclei take their tokens from one tile."""
        return self.pooling.strategy == "shared"

    def tiles(self, centers: NDArray[np.float64], *, size_px: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Centres of the patches to embed for points, and the patch of each point: one each, or as :func:`shared_tiles`."""
        if self.shared:
            return shared_tiles(centers, size_px=size_px, overlap=self.pooling.overlap)
        return centers, np.arange(len(centers))

    def weights(self, yx_px: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Tokens of points (y, x) in px of the input, and their weights: as :func:`token_weights`."""
        grid = (self.input_px // self.patch_px,) * 2
        return token_weights(yx_px, grid=grid, patch_px=self.patch_px, pooling=self.pooling)


def pool_tokens(tokens: torch.Tensor, tile: ArrayLike, index: ArrayLike, weight: ArrayLike) -> torch.Tensor:
    """Weighted sums of tokens, on their device, in float32.

    Parameters
    ----------
    tokens
        Shape (n, t, d): the patch tokens of n tiles.
    tile
        Shape (m,): the tile of each point.
    index
        Shape (m, q): tokens in that tile.
    weight
        Shape (m, q).

    Returns
    -------
    Shape (m, d).
    """
    n_tokens, dim = tokens.shape[1:]
    rows = torch.as_tensor(tile).long()[:, None] * n_tokens + torch.as_tensor(index).long()
    # sums as it gathers: (m, q, d), gigabytes for a Gaussian, is never held
    return torch.nn.functional.embedding_bag(
        rows.to(tokens.device),
        tokens.float().reshape(-1, dim),
        per_sample_weights=torch.as_tensor(weight).to(tokens.device, torch.float32),
        mode="sum",
    )


def shared_tiles(
    centers: ArrayLike, *, size_px: float, overlap: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Overlapping tiles such that each point lies in the middle of one.

    The middles of the tiles, ``size_px * (1 - overlap)`` wide, cover the plane without gaps and start at the origin of
    the slide. So the tile of a point, and its position in it, do not depend on the other points.

    Parameters
    ----------
    centers
        Shape (n, 2): x, y in px.
    size_px
        Edge of a tile in px.
    overlap
        Of neighbouring tiles, as a fraction of their edge, in [0, 1).

    Returns
    -------
    tile_centers
        Shape (T, 2): x, y in px of the tiles that have a point in their middle. Neighbours are near each other in this
        order: by blocks of 2,048 px, then by row and column.
    tile_of_point
        Shape (n,): the row of `tile_centers` whose centre is nearest.

    Raises
    ------
    ValueError
        If `centers` is not finite of shape (n, 2), `size_px` is not above 0, or `overlap` is not in [0, 1).
    """
    if not 0 < size_px < inf:
        msg = f"size_px must be above 0 and finite, not {size_px}"
        raise ValueError(msg)
    points = check_patches(centers, mpp=1, size_um=size_px)
    _check_overlap(overlap)
    if len(points) == 0:
        return np.empty((0, 2)), np.empty(0, np.int64)
    stride = size_px * (1 - overlap)
    column_row = np.floor(points / stride).astype(np.int64)
    low = column_row.min(axis=0)
    width = np.ptp(column_row[:, 0]) + 1
    shifted = column_row - low
    flat, tile_of_point = np.unique(shifted[:, 1] * width + shifted[:, 0], return_inverse=True)
    corner = (np.stack([flat % width, flat // width], axis=1) + low).astype(np.float64)
    tile_centers = (corner + 0.5) * stride
    order = local_order(tile_centers)
    return tile_centers[order], np.argsort(order)[tile_of_point]


def _by_distance(steps: NDArray[np.int64], n: int, patch_px: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens along one axis, nearest first, and their squared distances, each of shape (m, n)."""
    middle = (2 * np.arange(n) + 1) * patch_px * (_STEPS_PER_PX // 2)
    squared = (steps[:, None] - middle) ** 2
    order = np.argsort(squared, axis=1, kind="stable")
    return order, np.take_along_axis(squared, order, axis=1)


def _gaussian(positions: NDArray[np.float64], n: int, sigma: float) -> NDArray[np.float64]:
    """Weights along one axis, in tokens; the product over both axes is the weight of a token. Shape (m, n)."""
    squared = (positions[:, None] - (np.arange(n) + 0.5)) ** 2
    # measured from the nearest token, so that a narrow Gaussian does not vanish between tokens
    weight = np.exp((squared.min(axis=1, keepdims=True) - squared) / (2 * sigma**2))
    return weight / weight.sum(axis=1, keepdims=True)


def _checked(yx_px: ArrayLike, grid: tuple[int, int], patch_px: int) -> NDArray[np.float64]:
    points = np.asarray(yx_px, np.float64)
    edges = np.array(grid) * patch_px
    if edges.min() < 1 or edges.max() > _MAX_PX:
        msg = f"a grid of {grid} tokens of {patch_px} px must have an edge of 1 to {_MAX_PX} px"
        raise ValueError(msg)
    if points.ndim != 2 or points.shape[1] != 2:
        msg = f"yx_px must have two columns, y and x, got shape {points.shape}"
        raise ValueError(msg)
    inside = ((points >= -patch_px) & (points <= edges + patch_px)).all(axis=1)
    if not inside.all():
        first = int(np.argmin(inside))
        msg = (
            f"{int((~inside).sum())} points lie outside of the image of {edges[0]} x {edges[1]} px, the first is "
            f"yx_px[{first}] = {points[first].tolist()}; yx_px is y, x in px of the network's input, not of the slide"
        )
        raise ValueError(msg)
    return points


def _check_overlap(overlap: float) -> None:
    if not 0 <= overlap < 1:
        msg = f"overlap must be in [0, 1), as a fraction of the edge of a tile, not {overlap}"
        raise ValueError(msg)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
