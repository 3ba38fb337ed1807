"""The perceptron on a spot and its neighbours: sets without order, rows alone, and targets that only neighbours tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histocell.metrics import pearson
from histocell.models import Places, Ridge, SpatialMLP
from histocell.models.regressors.graph import neighbor_pairs

TINY = {"width": 8, "hidden": (8,), "max_epochs": 2, "n_members": 2}


@pytest.mark.parametrize("pool", ["mean", "max", "both"])
class TestNet:
    @pytest.fixture
    def net(self, pool):
        torch.manual_seed(0)
        return SpatialMLP(**TINY, pool=pool)._build(4, 2).eval()

    def test_order_and_padding_do_not_count(self, net, pool):
        x, near = torch.randn(5, 4), torch.randn(5, 3, 4)
        there = torch.tensor([[True, True, False]]).repeat(5, 1)
        expected = net(x, near[:, :2], there[:, :2])
        near[:, 2] = 1e3
        torch.testing.assert_close(net(x, near, there), expected)
        torch.testing.assert_close(net(x, near[:, [1, 2, 0]], there[:, [1, 2, 0]]), expected)

    def test_rows_alone(self, net, pool):
        x = torch.randn(5, 4, requires_grad=True)
        none = net(x, torch.zeros(5, 0, 4), torch.zeros(5, 0, dtype=torch.bool))
        torch.testing.assert_close(net(x, torch.randn(5, 2, 4), torch.zeros(5, 2, dtype=torch.bool)), none)
        net(x, torch.randn(5, 2, 4), torch.zeros(5, 2, dtype=torch.bool)).sum().backward()
        assert torch.isfinite(x.grad).all()


def test_what_only_the_neighbours_tell():
    """The target of a row is the mean of a feature over its neighbours: a ridge on the row knows nothing of it."""
    rng = np.random.default_rng(0)
    groups = np.repeat(list("abcd"), 144)
    places = Places.of(np.tile(100.0 * np.argwhere(np.ones((12, 12))), (4, 1)), groups)
    X = rng.normal(size=(len(groups), 3))
    neighbor, row = neighbor_pairs(places, 150.0)
    Y = np.zeros((len(X), 1))
    np.add.at(Y, row, X[neighbor, :1])
    Y = Y / np.bincount(row)[:, None] + 5
    train, test = np.flatnonzero(groups != "d"), np.flatnonzero(groups == "d")
    model = SpatialMLP(width=32, hidden=(32,), n_members=1, ridge_share=0.0)
    model.fit(X[train], Y[train], groups=groups[train], places=places.rows(train), rng=0)
    assert pearson(Y[test], model.predict(X[test], places=places.rows(test)))[0] > 0.9
    ridge = Ridge().fit(X[train], Y[train], groups=groups[train])
    assert abs(pearson(Y[test], ridge.predict(X[test]))[0]) < 0.3


def test_only_neighbours_count(cohort):
    model = SpatialMLP(**TINY).fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=0)
    assert model.reach_um() == 150  # one ring of the grid
    before = model.predict(cohort.X, places=cohort.places)
    X = cohort.X.copy()
    X[25] += 5
    changed = np.abs(model.predict(X, places=cohort.places) - before).max(axis=1) > 1e-6
    near = np.hypot(*(cohort.places.xy_um - cohort.places.xy_um[25]).T) <= 150
    np.testing.assert_array_equal(changed, near & (cohort.groups == cohort.groups[25]))


@pytest.mark.parametrize("held", ["validation", "groups"])
def test_the_fit_sees_no_neighbour_that_is_held_out(cohort, held, monkeypatch):
    """Features of held-out rows change nothing of the nets that were not fitted on them, though they lie among those."""
    is_held = np.arange(240) % 2 == 1
    options = {"validation": is_held} if held == "validation" else {"groups": is_held}
    config = TINY | {"n_members": 1, "refit": False, "ridge_share": 0.0, "patience": 100, "interval": None}
    places = Places.of(cohort.places.xy_um + 1000 * cohort.places.sections[:, None])  # one section

    def loss(X):
        model = SpatialMLP(**config).fit(X, cohort.Y, places=places, rng=0, **options)
        return model.history["train_loss"]

    X = cohort.X.copy()
    first = loss(X)
    scale = np.random.default_rng(0).normal(size=X[is_held].shape)
    if held == "groups":  # whichever group the fold left out: only one of them may change the loss
        other = X.copy()
        other[is_held] = other[is_held].mean(0) + other[is_held].std(0) * _standard(scale)
        another = X.copy()
        another[~is_held] = another[~is_held].mean(0) + another[~is_held].std(0) * _standard(scale)
        same = [np.allclose(loss(each), first, atol=1e-5) for each in (other, another)]
        assert sorted(same) == [False, True]
    else:
        X[is_held] = scale
        np.testing.assert_array_equal(loss(X), first)


def _standard(values):
    """With mean 0 and standard deviation 1, so that the scaling of the features stays."""
    return (values - values.mean(0)) / values.std(0)


def test_a_wider_grid_is_warned_of(cohort):
    model = SpatialMLP(**TINY).fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=0)
    wide = cohort.places._replace(xy_um=cohort.places.xy_um * 2)
    with pytest.warns(UserWarning, match="240 of 240 rows have no neighbour within 150 um"):
        predicted = model.predict(cohort.X, places=wide)
    assert np.isfinite(predicted).all()


def test_radius(cohort):
    def radius(places=cohort.places, **config):
        return SpatialMLP(**config).reach_um(places)

    assert radius() == 150
    assert radius(n_rings=2) == 250
    assert radius(radius_um=80.0) == 80
    with pytest.raises(ValueError, match="give radius_um"):
        radius(Places.of(np.zeros((3, 2)), ["a", "b", "c"]))
