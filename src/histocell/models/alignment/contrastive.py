"""The symmetric InfoNCE loss in memory that grows with the batch, not with its square."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.autograd.function import FunctionCtx

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 2048  # rows of the matrix of similarities that are held at a time


class Alike(NamedTuple):
    """Which rows are too much alike to be told apart, and so no negatives of each other.

    Attributes
    ----------
    vectors
        Unit vectors, shape ``(n, d)``.
    above
        Cosine from which two rows count as the same.
    """

    vectors: Tensor
    above: float

    def pairs(self, start: int, stop: int) -> Tensor:
        """Pairs of the rows from `start` to `stop` with all rows, shape ``(stop - start, n)``; never a row with itself."""
        same = self.vectors[start:stop] @ self.vectors.T >= self.above
        same.diagonal(start).zero_()
        return same


def info_nce(
    first: Tensor, second: Tensor, scale: Tensor | float, *, alike: Alike | None = None, chunk: int = CHUNK
) -> Tensor:
    r"""Symmetric InfoNCE: each row must find its partner among all rows of the other view.

    .. math:: L = -\frac{1}{2n} \sum_i \log \frac{e^{s a_i b_i}}{\sum_j e^{s a_i b_j}}
                  + \log \frac{e^{s a_i b_i}}{\sum_j e^{s a_j b_i}}

    The matrix of similarities is made anew for the gradient, `chunk` rows at a time, and never held as a whole.

    Parameters
    ----------
    first, second
        Vectors of length 1, shape ``(n, d)``; rows of the same position belong together.
    scale
        One over the temperature.
    alike
        Pairs to leave out of the sums over j, where a negative would be a false one.
    chunk
        Rows at a time; the value does not depend on it.

    References
    ----------
    van den Oord, Li and Vinyals 2018, arXiv:1807.03748; Radford et al. 2021, arXiv:2103.00020.
    """
    scale = torch.as_tensor(scale, dtype=first.dtype, device=first.device)
    return _InfoNCE.apply(first, second, scale, alike, chunk)


class Saved(FunctionCtx):
    """The settings that the gradient needs beside tensors."""

    saved_tensors: tuple[Tensor, ...]
    alike: Alike | None
    chunk: int


class _InfoNCE(torch.autograd.Function):
    """The loss and its gradient, chunk by chunk."""

    @staticmethod
    def forward(ctx: Saved, first: Tensor, second: Tensor, scale: Tensor, alike: Alike | None, chunk: int) -> Tensor:
        n = len(first)
        by_row = first.new_empty(n)
        by_column = first.new_full((n,), -torch.inf)
        for start in range(0, n, chunk):
            logits = _similarities(first, second, alike, start, chunk)[0] * scale
            by_row[start : start + chunk] = logits.logsumexp(1)
            by_column = torch.logaddexp(by_column, logits.logsumexp(0))
        ctx.save_for_backward(first, second, scale, by_row, by_column)
        ctx.alike, ctx.chunk = alike, chunk
        return ((by_row + by_column) / 2 - scale * (first * second).sum(1)).mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Saved, gradient: Tensor) -> tuple[Tensor | None, ...]:
        first, second, scale, by_row, by_column = ctx.saved_tensors
        d_first, d_second, d_scale = torch.empty_like(first), torch.zeros_like(second), torch.zeros_like(scale)
        for start in range(0, len(first), ctx.chunk):
            masked, plain = _similarities(first, second, ctx.alike, start, ctx.chunk)
            rows = slice(start, start + ctx.chunk)
            logits = masked * scale
            weight = (logits - by_row[rows, None]).exp_() + (logits - by_column).exp_()
            weight.diagonal(start).sub_(2)
            weight *= gradient / (2 * len(first))
            d_first[rows] = scale * (weight @ second)
            d_second += scale * (weight.T @ first[rows])
            d_scale += (weight * plain).sum()
        return d_first, d_second, d_scale, None, None


def _similarities(first: Tensor, second: Tensor, alike: Alike | None, start: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Products of some rows with all, without and with the pairs that are left out."""
    plain = first[start : start + chunk] @ second.T
    if alike is None:
        return plain, plain
    return plain.masked_fill(alike.pairs(start, min(start + chunk, len(first))), -torch.inf), plain
