from __future__ import annotations

import numpy as np
import pytest

from histocell.metrics import coverage
from histocell.models import MLP, Ridge
from histocell.models.intervals import apply_interval, fit_interval


def test_order_statistics_by_hand():
    error = np.arange(-9.0, 11.0)  # 20 errors, so that 80 % leaves two ranks of 21 on each side
    arrays = fit_interval(error[:, None] + 5, np.full((20, 1), 5.0), 0.8)
    lower, upper = apply_interval(np.array([[5.0]]), arrays)
    assert (lower[0, 0] - 5, upper[0, 0] - 5) == (-8, 9)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_coverage_of_exchangeable_rows(level):
    """Averaged over many draws, conformal intervals hold at least what they promise, and not much more."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(60):
        predicted = rng.gamma(2, size=(600, 1))
        truth = predicted * (1 + 0.5 * rng.normal(size=predicted.shape))
        arrays = fit_interval(truth[:300], predicted[:300], level)
        held.append(coverage(truth[300:], *apply_interval(predicted[300:], arrays)))
    assert level - 0.01 <= np.mean(held) <= level + 0.04


def test_width_follows_the_prediction():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0, 10, size=(2000, 1))
    truth = predicted + predicted * rng.normal(size=predicted.shape)
    lower, upper = apply_interval(np.array([[0.5], [9.5]]), fit_interval(truth, predicted, 0.9))
    width = (upper - lower)[:, 0]
    assert width[1] > 4 * width[0]


def test_tied_predictions():
    truth = np.random.default_rng(0).normal(size=(900, 2))
    lower, upper = apply_interval(np.zeros((900, 2)), fit_interval(truth, np.zeros((900, 2)), 0.9))
    assert coverage(truth, lower, upper).min() > 0.88


def test_errors():
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_interval(np.ones((3, 1)), np.ones((3, 1)), 90)
    with pytest.raises(ValueError, match="interval=None"):
        fit_interval(np.ones((3, 1)), np.full((3, 1), np.nan), 0.9)


@pytest.mark.parametrize(
    ("model", "repeats"), [(Ridge(), 8), (MLP(hidden=(16,) * 6, max_epochs=5, n_members=2), 4)], ids=["ridge", "mlp"]
)
def test_coverage_on_unseen_groups(make, model, repeats):
    """Groups differ by a shift of their own; what is promised must hold, on average, for groups that nobody saw."""
    held = []
    for seed in range(repeats):
        data = make(n_groups=30, n_rows=40, noise=1.0, seed=seed)
        Y = data.Y + np.repeat(0.5 * np.random.default_rng(100 + seed).normal(size=(30, 1)), 40, axis=0)
        train = np.isin(data.groups, [f"g{i}" for i in range(15)])
        model.fit(data.X[train], Y[train], groups=data.groups[train], rng=0)
        predicted = model.predict(data.X[~train])
        held.append(coverage(Y[~train], *model.interval(predicted)).mean())
    assert 0.87 < np.mean(held) < 0.95
