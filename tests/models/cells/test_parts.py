"""Calibration, neighbours, tokens and scales against closed forms and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

import histocell as hc
from histocell.models.cells import inputs
from histocell.models.cells.batches import nearest
from histocell.models.cells.calibration import calibrate, class_weights, fit_calibration
from histocell.models.cells.inputs import Modalities
from histocell.models.cells.network import Batch, CellNet, waves
from histocell.models.places import Places
from histocell.models.problem import Joined
from histocell.models.registry import model_class


class TestCalibration:
    def test_finds_the_temperature(self):
        rng = np.random.default_rng(0)
        true = rng.normal(size=(20_000, 4)) * 1.5
        labels = np.array([rng.choice(4, p=each) for each in softmax(true, axis=1)])
        found = fit_calibration(3.0 * true, labels, np.ones(4))
        assert found[0] == pytest.approx(3.0, rel=0.05)
        probability = calibrate(3.0 * true, found, np.ones(4))
        assert hc.metrics.calibration_error(np.eye(4)[labels], probability)[0] < 0.02
        assert hc.metrics.calibration_error(np.eye(4)[labels], softmax(3 * true, axis=1))[0] > 0.1

    def test_takes_the_weights_back(self):
        """What learns with class weights w makes softmax(log p + log w)."""
        rng = np.random.default_rng(0)
        true, weights = rng.normal(size=(20_000, 3)), np.array([0.2, 0.8, 2.0])
        labels = np.array([rng.choice(3, p=each) for each in softmax(true, axis=1)])
        temperature, share, blend = fit_calibration(true + np.log(weights), labels, weights)
        assert temperature == pytest.approx(1, rel=0.06)
        assert share == pytest.approx(1, abs=0.06)
        assert blend == 0

    def test_finds_the_blend(self):
        """Two models that each see a part of the truth with an error of their own."""
        rng = np.random.default_rng(0)
        true = rng.normal(size=(20_000, 3))
        labels = np.array([rng.choice(3, p=each) for each in softmax(2 * true, axis=1)])
        noise = rng.normal(size=true.shape)
        good, bad = true + noise, true - 3 * noise  # 3/4 of one and 1/4 of the other is the truth
        temperature, _, share = fit_calibration(good, labels, np.ones(3), second=bad)
        assert share == pytest.approx(0.25, abs=0.02)
        assert temperature == pytest.approx(0.5, rel=0.05)
        found = np.array([temperature, 0, share])
        np.testing.assert_allclose(calibrate(good, found, np.ones(3), second=bad), softmax(2 * true, axis=1), atol=0.05)
        assert fit_calibration(good, labels, np.ones(3), second=bad, share=0.6)[2] == 0.6
        assert fit_calibration(good, labels, np.ones(3), second=true)[2] == pytest.approx(1, abs=0.05)

    def test_class_weights(self):
        labels = np.repeat([0, 1, 2], [100, 50, 1])
        weights = class_weights(labels, 4)
        assert weights[3] == 0
        np.testing.assert_allclose(weights[0] / weights[1], 0.5)
        np.testing.assert_allclose(weights[:3].mean(), 1)
        assert class_weights(np.repeat(np.arange(21), [1] + [10_000] * 20), 21).max() == 10
        np.testing.assert_array_equal(class_weights(labels, 4, balanced=False), [1, 1, 1, 0])

    def test_a_class_without_training_rows(self):
        logits, weights = np.random.default_rng(0).normal(size=(50, 3)), np.array([1.0, 0.0, 1.0])
        labels = np.arange(50) % 3  # those of the class without training rows say nothing
        known = labels != 1
        found = fit_calibration(logits, labels, weights)
        two = np.array([0, -1, 1])[labels[known]]
        np.testing.assert_allclose(found, fit_calibration(logits[known][:, [0, 2]], two, np.ones(2)))
        assert (calibrate(logits, found, weights)[:, 1] == 0).all()
        assert fit_calibration(logits, np.ones(50, dtype=int), weights).tolist() == [1, 0, 0]


class TestNeighbors:
    def test_naive(self):
        rng = np.random.default_rng(0)
        xy, sections = rng.uniform(0, 50, (60, 2)), np.repeat(["a", "b"], 30)
        found = nearest(Places.of(xy, sections), 4, 12.0)
        for row in range(60):
            distance = np.linalg.norm(xy - xy[row], axis=1)
            distance[(sections != sections[row]) | (np.arange(60) == row)] = np.inf
            wanted = [each for each in np.argsort(distance)[:4] if distance[each] <= 12]
            assert found[row][found[row] >= 0].tolist() == wanted

    def test_cells_at_one_place_and_too_few_cells(self):
        found = nearest(Places.of(np.zeros((5, 2))), 3, 10.0)
        assert all(row not in each[each >= 0] for row, each in enumerate(found))
        assert (nearest(Places.of(np.zeros((2, 2))), 3, 10.0) >= 0).sum() == 2


class TestNetwork:
    def net(self, **options):
        torch.manual_seed(0)
        settings = {"width": 8, "n_layers": 2, "n_heads": 2, "feedforward": 8, "dropout": 0.0}
        return CellNet([3, 2], 4, **settings, **{"tags": True, "place": True, "relative": True} | options).eval()

    def batch(self, n_around=2):
        rng = np.random.default_rng(0)
        x = torch.tensor(rng.normal(size=(5, 1 + n_around, 5)), dtype=torch.float32)
        xy = torch.tensor(rng.uniform(0, 100, (5, 1 + n_around, 2)), dtype=torch.float32)
        return Batch(x, torch.ones(5, 1 + n_around, 2, dtype=torch.bool), xy)

    def test_what_is_not_there_does_not_matter(self):
        net, batch = self.net(), self.batch()
        there = batch.there.clone()
        there[:, 0, 0] = False  # the genes of the cell
        there[:, 2] = False  # a neighbour
        other = batch.x.clone()
        other[:, 0, :3] = 100
        other[:, 2] = -100
        with torch.no_grad():
            one, two = (net(batch._replace(x=x, there=there)) for x in (batch.x, other))
            whole = net(batch)
        torch.testing.assert_close(one, two)
        assert not torch.allclose(one, whole)

    def test_order_of_neighbours_does_not_matter_but_their_distance_does(self):
        net, batch = self.net(), self.batch()
        torch.nn.init.normal_(net.slope)
        order = [0, 2, 1]
        with torch.no_grad():
            one = net(batch)
            two = net(Batch(*(each[:, order] for each in batch)))
            away = batch.xy.clone()
            away[:, 1] += 50
            far = net(batch._replace(xy=away))
        torch.testing.assert_close(one, two)
        assert not torch.allclose(one, far)

    def test_bias_is_of_kinds_of_tokens(self):
        """A bias of minus infinity from all kinds to the image is the image not there, but in the mean."""
        net, batch = self.net(place=False), self.batch(0)
        with torch.no_grad():
            before = net(batch)
            net.bias[:, :, :, 1] = -1e9
            after = net(batch)
        assert not torch.allclose(before, after)

    def test_waves(self):
        found = waves(torch.tensor([[250.0, -500.0]]), 8)[0]
        wanted = [f(value * w) for value in (0.25, -0.5) for f in (np.sin, np.cos) for w in (1, 10_000**-0.5)]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


class TestScales:
    def test_in_parts_is_as_whole(self, monkeypatch):
        monkeypatch.setattr(inputs, "CHUNK", 7)
        rng = np.random.default_rng(0)
        X = rng.normal(1e4, [1, 5, 0.1], (50, 3))
        X[4, 0] = np.nan  # the genes of the cell are not there, both columns
        rows = np.arange(2, 45)
        found = inputs.fit_scales(X, rows, Modalities.of(3, 2))
        seen = [np.delete(X[rows][:, :2], 2, axis=0), X[rows][:, 2:]]
        np.testing.assert_allclose(found["input_mean"], np.concatenate([each.mean(0) for each in seen]))
        np.testing.assert_allclose(1 / found["input_scale"], np.concatenate([each.std(0) for each in seen]))
        scaled = inputs.scaled(X, Modalities.of(3, 2), found)
        assert (scaled[4, :2] == 0).all()
        assert np.abs(scaled).max() <= 4

    def test_more_gene_columns_than_columns(self):
        with pytest.raises(ValueError, match="gene_columns is 5, X has 3"):
            Modalities.of(3, 5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"width": 30}, "multiple of 4"),
        ({"n_neighbors": 3}, "neighbours are for"),
        ({"preset": "fast"}, "unknown preset"),
        ({"architecture": "triple"}, "must be one of auto, unimodal"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        hc.models.CellTransformer(**settings)


def test_an_architecture_needs_its_modalities():
    X, Y = np.random.default_rng(0).normal(size=(40, 4)), np.eye(2)[np.arange(40) % 2]
    with pytest.raises(ValueError, match="'dual' needs genes and image and gets genes"):
        hc.models.CellTransformer(architecture="dual").fit(X, Y)
    with pytest.raises(ValueError, match="'unimodal' needs one modality"):
        hc.models.CellTransformer(architecture="unimodal", gene_columns=2).fit(X, Y)


def test_presets_are_as_stated():
    paper = hc.models.CellTransformer("paper").config
    assert (paper.n_layers, paper.lr, paper.batch_size, paper.weight_decay, paper.max_epochs) == (6, 3e-5, 64, 0.01, 20)
    assert not paper.early_stopping
    assert paper.logistic_share == 0


def test_matrices_are_joined_by_rows():
    rng = np.random.default_rng(0)
    one, two, rows = rng.normal(size=(9, 3)), rng.normal(size=(9, 2)).astype(np.float32), np.array([4, 1, 1])
    joined, whole = Joined([one, two], [np.array([2, 0, 1]), None]), np.hstack([one[:, [2, 0, 1]], two])
    assert (joined.shape, joined.dtype, len(joined)) == (whole.shape, whole.dtype, 9)
    np.testing.assert_array_equal(joined[rows], whole[rows])
    np.testing.assert_array_equal(joined[2:5], whole[2:5])
    np.testing.assert_array_equal(np.asarray(joined), whole)
    assert np.shares_memory(np.asarray(Joined([one])), one)  # one alone is not copied
    Y = np.eye(2)[np.arange(9) % 2]
    same = [model_class("logistic")(gene_columns=3).fit(X, Y).predict(X) for X in (joined, whole)]
    np.testing.assert_array_equal(*same)
