from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

import histocell as hc


@pytest.fixture
def trained(spots):
    """Three members of 6, 9 and 12 epochs, with the best one three epochs before the last."""
    train, val = np.full((3, 12), np.nan), np.full((3, 12), np.nan)
    for member, n in enumerate([6, 9, 12]):
        epoch = np.arange(n)
        train[member, :n] = np.exp(-epoch / 4) + 0.1 * member
        val[member, :n] = 0.4 + (epoch - (n - 4)) ** 2 / 50 + 0.1 * member
    history = {"train_loss": train, "val_loss": val, "best_epoch": np.array([2, 5, 8])}
    spots.uns["abundance_model"] = {"config": "{}", "weights": {}, "history": history}
    return spots


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_losses_of_an_ensemble(trained):
    ax = hc.pl.history(trained)
    history = trained.uns["abundance_model"]["history"]
    mean = lines(ax)["validation"].get_ydata()
    np.testing.assert_allclose(mean[:6], history["val_loss"][:, :6].mean(axis=0))
    assert np.isfinite(mean[:9]).all()
    assert np.isnan(mean[9:]).all(), "one member of three is no mean"
    best = lines(ax)["best epoch"]
    np.testing.assert_array_equal(best.get_xdata(), [3, 6, 9])
    np.testing.assert_allclose(best.get_ydata(), [0.4, 0.5, 0.6])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert len(ax.lines) == 2 * 4 + 1


def test_single_curves_and_what_is_missing(trained):
    model = trained.uns["abundance_model"]
    model["history"] = {"train_loss": np.array([1.0, 0.5, 0.4])}
    assert set(lines(hc.pl.history(trained))) == {"training"}
    model["history"] = {"train_loss": np.array([[1.0]]), "val_loss": np.array([[2.0]]), "best_epoch": np.array(0)}
    ax = hc.pl.history(trained)
    np.testing.assert_array_equal(lines(ax)["best epoch"].get_xdata(), [1])
    model["history"] = {"train_loss": np.ones((2, 3)), "val_loss": np.full((2, 3), np.nan), "best_epoch": [7, -1]}
    assert {"training"} <= set(lines(hc.pl.history(trained)))


def test_steep_losses_are_drawn_on_a_log_scale(trained):
    trained.uns["abundance_model"]["history"] = {"train_loss": np.r_[1e4, np.linspace(1, 0.5, 20)]}
    assert hc.pl.history(trained).get_yscale() == "log"


def test_path_of_a_ridge(trained):
    alphas = np.logspace(-2, 2, 5)
    score = np.array([[0.1, 0.2], [0.3, 0.2], [0.5, np.nan], [0.2, 0.3], [0.1, 0.1]])
    config = json.dumps({"model": {"settings": {"criterion": "pearson"}}})
    trained.uns["abundance_model"] = {"config": config, "history": {"alphas": alphas, "cv_score": score}}
    ax = hc.pl.history(trained)
    assert ax.get_xscale() == "log"
    assert ax.get_ylabel() == "CC on held-out groups"
    np.testing.assert_allclose(lines(ax)["mean"].get_ydata(), [0.15, 0.25, 0.5, 0.25, 0.1])
    assert lines(ax)["best penalty: 1"].get_xdata()[0] == pytest.approx(1)
    trained.uns["abundance_model"]["config"] = "no json"
    assert hc.pl.history(trained).get_ylabel() == "score on held-out groups"


def test_errors_say_what_to_run(spots):
    with pytest.raises(KeyError, match=r"hc\.tl\.fit_abundance"):
        hc.pl.history(spots)
    spots.uns["abundance_model"] = {"config": "{}", "weights": {}}
    with pytest.raises(ValueError, match="holds no training curve"):
        hc.pl.history(spots)
    assert plt.get_fignums() == []


def test_own_axes(trained):
    figure, own = plt.subplots()
    assert hc.pl.history(trained, ax=own) is own
    assert plt.get_fignums() == [figure.number]
    assert hc.pl.history(trained, ax=own, show=False) is own


def test_looks(trained, looks_like):
    looks_like(hc.pl.history(trained), "history")


@pytest.mark.parametrize("kind", ["2 x 2", "3 in", "constrained"])
def test_labels_and_legend_have_room(trained, kind, user_axes, assert_inside):
    ax, others = user_axes(kind)
    hc.pl.history(trained, ax=ax, title="mlp")
    assert_inside(ax, others)
    assert ax.get_title() == "mlp"
    assert not ax.get_legend().get_window_extent().overlaps(ax.bbox)  # nor does it lie on curves


def test_marks_are_seen_on_dark_styles(trained):
    with plt.style.context("dark_background"):
        ax = hc.pl.history(trained)
    assert lines(ax)["best epoch"].get_color() == "white"
