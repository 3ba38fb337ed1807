"""Cox regression: the partial likelihood, and its fit with a penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from histocell._core.types import Floats


def cox_loss(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    r"""Negative partial log-likelihood, summed over events, with ties as Breslow has them.

    .. math:: \sum_{i: e_i = 1} \left(\log \sum_{j: t_j \ge t_i} \exp r_j - r_i\right)

    Parameters
    ----------
    risk, time, event
        Of each slide, shape ``(n,)``.

    References
    ----------
    Cox: Regression models and life-tables (1972). Breslow: discussion of it.
    """
    order = torch.argsort(time, descending=True, stable=True)
    risk, time, event = risk[order], time[order], event[order]
    at_risk = torch.logcumsumexp(risk, dim=0)
    last = torch.searchsorted(-time, -time, right=True) - 1  # of those with the same time
    return ((at_risk[last] - risk) * event).sum()


def fit_cox(X: Floats, time: Floats, event: Floats, *, penalty: float) -> Floats:
    """Coefficients, ``(n_features,)``, that minimise the loss and ``penalty / 2`` times the sum of their squares."""
    from scipy.optimize import minimize

    features, times, events = (torch.as_tensor(np.asarray(each, dtype=np.float64)) for each in (X, time, event))

    def loss(values: Floats) -> tuple[float, Floats]:
        beta = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        total = cox_loss(features @ beta, times, events) + penalty / 2 * beta.square().sum()
        (gradient,) = torch.autograd.grad(total, beta)
        return total.item(), gradient.numpy()

    return minimize(loss, np.zeros(X.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
