from __future__ import annotations

import numpy as np
import pytest

import histocell as hc


def naive(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Definitions, object by object."""
    trues, founds = ([a == k for k in np.unique(a) if k] for a in (truth, predicted))
    iou = np.array([[(t & p).sum() / (t | p).sum() for p in founds] for t in trues]).reshape(len(trues), len(founds))
    hits = [(i, j) for i in range(len(trues)) for j in range(len(founds)) if iou[i, j] > 0.5]
    quality = sum(iou[i, j] for i, j in hits)
    used, inside, whole = set(), 0, 0
    for i, t in enumerate(trues):
        j = int(iou[i].argmax()) if len(founds) else -1
        if j < 0 or iou[i, j] == 0:
            whole += t.sum()
            continue
        used.add(j)
        inside += (t & founds[j]).sum()
        whole += (t | founds[j]).sum()
    whole += sum(p.sum() for j, p in enumerate(founds) if j not in used)
    n = len(trues) + len(founds)
    return {"f1": 2 * len(hits) / n, "pq": 2 * quality / n, "aji": inside / whole, "n_matched": len(hits)}


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_a_loop_over_objects(seed):
    rng = np.random.default_rng(seed)
    truth = np.zeros((40, 50), np.int32)
    predicted = np.zeros((40, 50), np.uint16)
    for k in range(1, 15):
        y, x, h, w = *rng.integers(0, 34, 2), *rng.integers(3, 9, 2)
        truth[y : y + h, x : x + w] = 3 * k
        dy, dx = rng.integers(0, 3, 2)
        if rng.random() < 0.8:
            predicted[y + dy : y + dy + h, x + dx : x + dx + w] = rng.integers(1, 1000)
    found = hc.metrics.segmentation_scores(truth, predicted)
    for name, value in naive(truth, predicted).items():
        assert found[name] == pytest.approx(value), name


def test_the_truth_itself_scores_1():
    labels = np.kron(np.arange(6).reshape(2, 3), np.ones((4, 4), int))
    found = hc.metrics.segmentation_scores(labels, labels[::-1][::-1])
    assert [found[name] for name in ("precision", "recall", "f1", "sq", "pq", "aji")] == [1.0] * 6


def test_what_cannot_be_scored_is_nan_and_misses_are_0():
    nothing, one = np.zeros((3, 3), int), np.ones((3, 3), int)
    empty = hc.metrics.segmentation_scores(nothing, nothing)
    assert np.isnan([empty["f1"], empty["pq"], empty["aji"], empty["sq"]]).all()
    assert hc.metrics.segmentation_scores(one, nothing)["f1"] == 0
    assert hc.metrics.segmentation_scores(nothing, one)["aji"] == 0
    assert np.isnan(hc.metrics.segmentation_scores(np.zeros((0, 4), int), np.zeros((0, 4), int))["f1"])


@pytest.mark.parametrize(
    ("truth", "predicted", "error", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 2), int), TypeError, "truth must hold integer labels, not float64"),
        (np.ones((2, 2), int), -np.ones((2, 2), int), ValueError, "negative labels"),
        (np.ones((2, 2), int), np.ones((2, 3), int), ValueError, "one shape"),
    ],
)
def test_labels_that_are_none_are_refused(truth, predicted, error, message):
    with pytest.raises(error, match=message):
        hc.metrics.segmentation_scores(truth, predicted)


def test_a_low_iou_is_refused():
    with pytest.raises(ValueError, match="several"):
        hc.metrics.segmentation_scores(np.ones((2, 2), int), np.ones((2, 2), int), iou=0.3)
