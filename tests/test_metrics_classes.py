"""Scores of classes against scikit-learn and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from histocell import metrics


@pytest.fixture
def both():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=300)
    probability = rng.dirichlet(np.ones(4), 300) + 0.4 * np.eye(4)[labels]
    return np.eye(4)[labels], probability / probability.sum(axis=1, keepdims=True)


def test_as_scikit_learn(both):
    truth, probability = both
    y, p = truth.argmax(1), probability.argmax(1)
    np.testing.assert_array_equal(metrics.confusion_matrix(truth, probability), sk.confusion_matrix(y, p))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, p)
    np.testing.assert_allclose(metrics.precision(truth, probability), precision)
    np.testing.assert_allclose(metrics.recall(truth, probability), recall)
    np.testing.assert_allclose(metrics.f1(truth, probability), f1)
    np.testing.assert_allclose(metrics.accuracy(truth, probability), sk.accuracy_score(y, p))


def test_rows_that_are_unknown_do_not_count(both):
    truth, probability = both
    missing_truth, missing = truth.copy(), probability.copy()
    missing_truth[:10], missing[10:20] = np.nan, np.nan
    for name in ("f1", "recall", "accuracy", "calibration_error"):
        score = getattr(metrics, name)
        np.testing.assert_array_equal(score(missing_truth, missing), score(truth[20:], probability[20:]))


def test_a_class_without_rows():
    truth, probability = np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[0.1, 0.2, 0.7], [0.2, 0.8, 0]])
    np.testing.assert_array_equal(metrics.f1(truth, probability), [0, 1, np.nan])
    np.testing.assert_array_equal(metrics.precision(truth, probability), [np.nan, 1, 0])


def test_calibration_error_is_a_loop(both):
    truth, probability = both
    confidence, right = probability.max(1), truth.argmax(1) == probability.argmax(1)
    bins = np.minimum((confidence * 15).astype(int), 14)
    total = sum(abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(15))
    np.testing.assert_allclose(metrics.calibration_error(truth, probability), total / 300)
    table = metrics.reliability(truth, probability, n_bins=15)
    known = table[:, 0] > 0
    np.testing.assert_allclose((table[known, 0] * np.abs(table[known, 1] - table[known, 2])).sum() / 300, total / 300)


@pytest.mark.parametrize("score", ["precision", "recall", "f1", "accuracy", "calibration_error"])
def test_bootstrap(both, score):
    """Blocks of one row are rows; the mean of the draws is near the score; copies of rows in blocks widen the interval."""
    truth, probability = both
    value = getattr(metrics, score)(truth, probability)
    rows = metrics.bootstrap_classes(score, truth, probability, n_bootstrap=800, rng=1)
    alone = metrics.bootstrap_classes(score, truth, probability, n_bootstrap=800, rng=2, blocks=np.arange(300))
    assert rows.shape == alone.shape == (800, len(value))
    np.testing.assert_allclose(rows.std(0), alone.std(0), rtol=0.2)
    if score != "calibration_error":  # noise adds to it
        np.testing.assert_allclose(rows.mean(0), value, atol=0.02)
    copies, blocks = (np.repeat(each, 9, axis=0) for each in (truth, probability)), np.repeat(np.arange(300), 9)
    copied = [*copies]
    wide = metrics.bootstrap_classes(score, *copied, n_bootstrap=800, rng=1, blocks=blocks)
    narrow = metrics.bootstrap_classes(score, *copied, n_bootstrap=800, rng=1)
    np.testing.assert_allclose(wide.std(0), rows.std(0), rtol=0.2)
    assert (narrow.std(0) < 0.6 * wide.std(0)).all()


def test_blocks_of_numbers():
    """A block is drawn whole: constant blocks have as much to say as rows, copies of rows no more."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1))
    copied, blocks = np.repeat(x, 8, axis=0), np.repeat(np.arange(60), 8)
    assert metrics.bootstrap_mean(copied, blocks=blocks).std() == pytest.approx(
        metrics.bootstrap_mean(x).std(), rel=0.15
    )
    y = x + rng.normal(size=x.shape)
    wide = metrics.bootstrap_pearson(copied, np.repeat(y, 8, axis=0), blocks=blocks).std()
    assert wide == pytest.approx(metrics.bootstrap_pearson(x, y).std(), rel=0.15)
    with pytest.raises(ValueError, match="blocks has shape"):
        metrics.bootstrap_mean(x, blocks=[1])


def test_bad_input(both):
    truth, probability = both
    with pytest.raises(ValueError, match="a single 1"):
        metrics.f1(truth * 2, probability)
    with pytest.raises(ValueError, match="one shape"):
        metrics.f1(truth[:, :2], probability)
    with pytest.raises(ValueError, match="score must be one of"):
        metrics.bootstrap_classes("auc", truth, probability)
    with pytest.raises(ValueError, match="blocks has shape"):
        metrics.bootstrap_classes("f1", truth, probability, blocks=[0])
    assert metrics.bootstrap_classes("f1", truth, probability, n_bootstrap=0).shape == (0, 4)
