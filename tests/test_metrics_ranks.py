"""Scores of order against scikit-learn, naive loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score

import histocell as hc


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    probability = rng.dirichlet(np.ones(3), size=60).round(1)  # with ties
    return labels, np.eye(3)[labels], probability


def test_auc_is_that_of_scikit_learn(classes):
    labels, truth, probability = classes
    wanted = [roc_auc_score(labels == each, probability[:, each]) for each in range(3)]
    assert np.allclose(hc.metrics.auc(truth, probability), wanted, atol=1e-12)


def test_auc_compares_within_strata_only(classes):
    _, truth, probability = classes
    strata = np.repeat([0, 1], 30)
    shifted = probability + 10.0 * strata[:, None]  # another scale in each
    assert np.allclose(hc.metrics.auc(truth, probability, strata), hc.metrics.auc(truth, shifted, strata))
    assert not np.allclose(hc.metrics.auc(truth, probability), hc.metrics.auc(truth, shifted))


def test_scores_of_classes_are_those_of_scikit_learn(classes):
    labels, truth, probability = classes
    called = probability.argmax(axis=1)
    assert hc.metrics.balanced_accuracy(truth, probability)[0] == pytest.approx(balanced_accuracy_score(labels, called))
    wanted = cohen_kappa_score(labels, called, weights="quadratic")
    assert hc.metrics.quadratic_kappa(truth, probability)[0] == pytest.approx(wanted, abs=1e-12)


def test_one_class_has_no_auc():
    truth = np.eye(2)[[0, 0, 0]]
    assert np.isnan(hc.metrics.auc(truth, np.full((3, 2), 0.5))).all()


def naive_concordance(time, event, risk, strata):
    won = pairs = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if i == j or strata[i] != strata[j] or not event[i]:
                continue
            if time[i] < time[j] or (time[i] == time[j] and not event[j]):
                pairs += 1
                won += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return won / pairs


def test_concordance_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    time, event, risk = rng.integers(1, 9, 50), rng.integers(2, size=50), rng.normal(size=50).round(1)
    truth = np.column_stack([time, event])
    for strata in (np.zeros(50, dtype=int), np.arange(50) % 3):
        wanted = naive_concordance(time, event, risk, strata)
        assert hc.metrics.concordance(truth, risk, strata)[0] == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(hc.metrics.concordance(np.column_stack([time, np.zeros(50)]), risk)).all()


@pytest.mark.parametrize("survival", [False, True])
def test_bootstrap_draws_whole_blocks(classes, survival):
    """Every row twice, in blocks of both copies: the same resamples as of single rows."""
    _, truth, probability = classes
    if survival:
        truth, probability = np.column_stack([np.arange(60) % 17, truth[:, 0]]), probability[:, :1]
    score = hc.metrics.bootstrap_concordance if survival else hc.metrics.bootstrap_auc
    once = score(truth, probability, n_bootstrap=20, blocks=np.arange(60))
    twice = score(
        np.tile(truth, (2, 1)), np.tile(probability, (2, 1)), n_bootstrap=20, blocks=np.tile(np.arange(60), 2)
    )
    assert np.ptp(once, axis=0).max() > 0
    if not survival:
        assert np.allclose(once, twice)
    assert once.shape == twice.shape
