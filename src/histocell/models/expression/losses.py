"""Losses of images and expression: contrastive ones between embeddings, and those of predicted genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from histocell.models.alignment.contrastive import info_nce

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_VARIANCE = 1e-9  # added to variances, so that a constant gene has correlation 0
_LENGTH = 1e-8  # added to products of deviations and to standard deviations


def symmetric_info_nce(image: Tensor, genes: Tensor, *, temperature: float = 0.05) -> Tensor:
    """Cross-entropy of finding the partner of each row among all rows, both ways, by cosine similarity.

    Parameters
    ----------
    image, genes
        Embeddings of any length, shape ``(n, d)``; rows of the same position belong together.
    temperature
        Divides the cosines.

    References
    ----------
    van den Oord, Li and Vinyals 2018, arXiv:1807.03748; SEAL, arXiv:2602.14177.
    """
    return info_nce(functional.normalize(image, dim=1), functional.normalize(genes, dim=1), 1 / temperature)


def bleep(image: Tensor, spots: Tensor, *, temperature: float = 1.0) -> Tensor:
    """BLEEP's contrastive loss: a row may be found by all rows that are like it in both views.

    With similarities S Iᵀ / T, the targets are the softmax of (I Iᵀ + S Sᵀ) / 2T over each row; for the other direction
    they are transposed and not normalised again. Embeddings are taken as they are.

    Parameters
    ----------
    image, spots
        Embeddings, shape ``(n, d)``.
    temperature
        Divides similarities and targets.

    References
    ----------
    Xie et al. 2023, NeurIPS, arXiv:2306.01859.
    """
    logits = spots @ image.T / temperature
    target = ((image @ image.T + spots @ spots.T) / (2 * temperature)).softmax(dim=1)
    of_spots = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    of_images = -(target.T * logits.T.log_softmax(dim=1)).sum(dim=1)
    return (of_spots + of_images).mean() / 2


def gene_correlation(predicted: Tensor, true: Tensor) -> Tensor:
    """Pearson's correlation of each gene over the rows of a batch, shape ``(genes,)``; 0 where one side is constant."""
    predicted, true = predicted - predicted.mean(dim=0), true - true.mean(dim=0)
    variances = (predicted.square().mean(dim=0) + _VARIANCE) * (true.square().mean(dim=0) + _VARIANCE)
    return (predicted * true).mean(dim=0) / variances.sqrt()


def barlow_diagonal(predicted: Tensor, true: Tensor) -> Tensor:
    """Sum over genes of (1 - correlation)², times 0.05."""
    return 0.05 * (1 - gene_correlation(predicted, true)).square().sum()


def standardized_mse(predicted: Tensor, true: Tensor, std: Tensor) -> Tensor:
    """Mean squared error in units of the standard deviation of each gene; genes without any are left out.

    Parameters
    ----------
    predicted, true
        Shape ``(n, genes)``.
    std
        Standard deviation of each gene over all training rows.
    """
    varies = std > _LENGTH
    scale = torch.where(varies, 1 / (std + _LENGTH), 0)
    squares = ((predicted - true) * scale).square().mean(dim=0)
    return squares.sum() / varies.sum().clamp(min=1)


def reconstruction(predicted: Tensor, true: Tensor, std: Tensor) -> Tensor:
    """SEAL's loss of predicted expression: 0.1 (`barlow_diagonal` + 5 `standardized_mse`).

    References
    ----------
    SEAL, arXiv:2602.14177.
    """
    return 0.1 * (barlow_diagonal(predicted, true) + 5 * standardized_mse(predicted, true, std))


def pcc(predicted: Tensor, true: Tensor) -> Tensor:
    """1 - the mean over rows of the correlation across genes; a row that is constant counts as 0."""
    predicted = predicted - predicted.mean(dim=1, keepdim=True)
    true = true - true.mean(dim=1, keepdim=True)
    lengths = predicted.norm(dim=1) * true.norm(dim=1)
    return 1 - ((predicted * true).sum(dim=1) / (lengths + _LENGTH)).mean()


def negative_binomial(predicted: Tensor, true: Tensor, *, shape: float = 0.1) -> Tensor:
    """Negative log-likelihood of counts, mean over rows and genes; both sides are logarithms of 1 + counts.

    Parameters
    ----------
    predicted, true
        Shape ``(n, genes)``; predictions below 0 count as 0.
    shape
        Of the gamma distribution of the rates: a count of mean m has the variance m + m² / shape.
    """
    mean, counts = predicted.clamp(min=0).expm1() + _LENGTH, true.expm1()
    share = mean / (mean + shape)
    arrangements = torch.lgamma(counts + shape) - torch.lgamma(counts.new_tensor(shape)) - torch.lgamma(counts + 1)
    likelihood = arrangements + shape * (1 - share + _LENGTH).log() + counts * (share + _LENGTH).log()
    return -likelihood.mean()


def pls(predicted: Tensor, true: Tensor) -> Tensor:
    """-1e-4 times the Frobenius norm of the covariances of predicted and true genes, which partial least squares maximises."""
    predicted, true = predicted - predicted.mean(dim=0), true - true.mean(dim=0)
    return -1e-4 * (predicted.T @ true / (len(true) - 1)).norm()


# losses of predicted expression by name, of predictions, truth and the deviations of genes, with the weights of the original
RECONSTRUCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "seal": reconstruction,
    "mse": lambda predicted, true, _: 10 * functional.mse_loss(predicted, true),
    "standardized_mse": lambda predicted, true, std: 10 * standardized_mse(predicted, true, std),
    "l1": lambda predicted, true, _: 10 * functional.l1_loss(predicted, true),
    "huber": lambda predicted, true, _: 10 * functional.huber_loss(predicted, true),
    "pcc": lambda predicted, true, _: 5 * pcc(predicted, true),
    "negative_binomial": lambda predicted, true, _: 10 * negative_binomial(predicted, true),
    "pls": lambda predicted, true, _: pls(predicted, true),
}
