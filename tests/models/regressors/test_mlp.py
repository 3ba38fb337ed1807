from __future__ import annotations

import numpy as np
import pytest
import torch

from histocell.metrics import pearson
from histocell.models import MLP, Ridge, training
from histocell.models.regressors.mlp import _best_share
from histocell.models.regressors.perceptron import Perceptron, composite_loss, pearson_loss

TINY = {"hidden": (16,) * 6, "max_epochs": 4, "n_members": 2, "batch_size": 64}


class TestLosses:
    def test_closed_form(self):
        rng = np.random.default_rng(0)
        p, y = rng.normal(size=(2, 20, 3))
        r = pearson(y, p)
        expected = ((p - y) ** 2).mean() + 0.3 * np.abs(p - y).mean() - 0.7 * r.mean()
        found = composite_loss(torch.tensor(p), torch.tensor(y), l1=0.3, l2=0.7)
        assert float(found) == pytest.approx(expected, abs=1e-6)
        per_spot = pearson_loss(torch.tensor(p), torch.tensor(y), per="spot")
        assert float(per_spot) == pytest.approx(-pearson(y.T, p.T).mean(), abs=1e-5)

    def test_gradient(self):
        rng = np.random.default_rng(0)
        p = torch.tensor(rng.normal(size=(6, 3)), requires_grad=True)
        y = torch.tensor(rng.normal(size=(6, 3)))
        for per in ("type", "spot"):
            assert torch.autograd.gradcheck(lambda x, per=per: composite_loss(x, y, l1=0.5, l2=0.5, per=per), p)

    def test_constant_columns_have_a_finite_gradient(self):
        p = torch.zeros((6, 2), requires_grad=True)
        pearson_loss(p, torch.ones(6, 2)).backward()
        assert torch.isfinite(p.grad).all()

    def test_batch_of_one(self):
        assert torch.isfinite(composite_loss(torch.ones(1, 2), torch.zeros(1, 2)))

    def test_unknown_direction(self):
        with pytest.raises(ValueError, match="'type' or 'spot'"):
            pearson_loss(torch.ones(2, 2), torch.ones(2, 2), per="cell")


class TestTraining:
    def test_learning_rate(self):
        schedule = training.Schedule(lr=1.0, min_lr=0.1, warmup=0.1)
        rates = [training.learning_rate(step, 100, schedule) for step in range(100)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[9] == rates[10] == pytest.approx(1.0)
        assert rates[55] == pytest.approx(0.55)
        assert np.all(np.diff(rates[10:]) < 0)
        assert training.learning_rate(100, 100, schedule) == pytest.approx(0.1)

    def test_stops_early_and_puts_the_best_weights_back(self):
        X = torch.randn((40, 3), generator=torch.Generator().manual_seed(0))
        Y = X[:, :1].clone()

        def loss(p, y):
            return ((p - y) ** 2).mean()

        # Validation targets are the opposite: the more is learnt, the worse it gets.
        schedule = training.Schedule(lr=0.05, max_epochs=50, patience=3)
        with training.seeded(0, X.device):
            net = Perceptron(3, 1, hidden=(8,), layer_norm=False, dropout=0.0)
            history = training.train(net, loss, (X, Y), schedule=schedule, validation=(X, -Y))
        assert len(history.val_loss) == history.best_epoch + 1 + 3 < 50
        assert history.val_loss[history.best_epoch] == min(history.val_loss)
        assert training.evaluate(net, loss, (X, -Y)) == pytest.approx(min(history.val_loss))

    def test_diverging_loss_is_an_error(self):
        net = Perceptron(2, 1, hidden=(4,), layer_norm=False, dropout=0.0)
        X = torch.ones(8, 2)
        with pytest.raises(ValueError, match="training loss became nan"):
            training.train(
                net,
                lambda p, y: (p - y).mean() * float("nan"),
                (X, X[:, :1]),
                schedule=training.Schedule(),
            )

    def test_dropout_is_checked(self):
        with pytest.raises(ValueError, match="dropout must lie"):
            Perceptron(2, 1, hidden=(4,), layer_norm=False, dropout=1.0)

    def test_seeded_gives_the_same_numbers_and_leaves_the_global_ones_alone(self):
        before = torch.get_rng_state()
        drawn = []
        for _ in range(2):
            with training.seeded(3, torch.device("cpu")):
                drawn.append(torch.rand(4))
        assert torch.equal(*drawn)
        assert torch.equal(before, torch.get_rng_state())


class TestMLP:
    def test_seven_linear_layers(self, cohort):
        for preset in ("paper", "robust"):
            net = MLP(preset)._build(10, 3)
            assert sum(isinstance(module, torch.nn.Linear) for module in net.modules()) == 7
        widths = [1536, 1024, 1024, 512, 512, 256, 256, 80]
        expected = sum((a + 1) * b for a, b in zip(widths[:-1], widths[1:], strict=True))
        paper = MLP("paper")._build(1536, 80)
        assert sum(p.numel() for p in paper.parameters()) == expected
        with pytest.raises(ValueError, match="there are: robust, paper"):
            MLP("best")

    def test_learns_what_no_line_can(self, make):
        data = make(n_groups=3, n_rows=150, n_features=3, n_targets=1)
        Y = 3 + np.abs(data.X[:, :1]) + np.abs(data.X[:, 1:2])
        train = data.groups != "g2"
        model = MLP(max_epochs=40, n_members=1, hidden=(32, 32), dropout=0.0, ridge_share=0, interval=None)
        model.fit(data.X[train], Y[train], groups=data.groups[train], rng=0)
        ridge = Ridge(interval=None).fit(data.X[train], Y[train], groups=data.groups[train])
        assert pearson(Y[~train], model.predict(data.X[~train]))[0] > 0.9
        assert abs(pearson(Y[~train], ridge.predict(data.X[~train]))[0]) < 0.5

    def test_history(self, cohort):
        model = MLP(**TINY).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
        assert model.history["train_loss"].shape == model.history["val_loss"].shape
        assert len(model.history["train_loss"]) == len(model.history["best_epoch"]) == 2
        for curve, best in zip(model.history["val_loss"], model.history["best_epoch"], strict=True):
            assert np.nanargmin(curve) == best
        epochs = int(np.median(model.history["best_epoch"])) + 1
        assert model.history["refit_loss"].shape == (2, epochs)

    def test_members_are_drawn_apart_and_predict_without_dropout(self, cohort):
        model = MLP(**TINY, dropout=0.5).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
        first, second = model.weights["layers.0.weight"]
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.5
        np.testing.assert_array_equal(model.predict(cohort.X), model.predict(cohort.X))

    def test_validation_rows_are_never_fitted(self, cohort):
        validation = cohort.groups == "g0"
        model = MLP(**TINY, target_transform="none").fit(
            cohort.X, cohort.Y, groups=cohort.groups, validation=validation, rng=0
        )
        assert "refit_loss" not in model.history
        changed = cohort.X.copy()
        changed[validation] += 100
        other = MLP(**TINY, target_transform="none").fit(
            changed, cohort.Y, groups=cohort.groups, validation=validation, rng=0
        )
        np.testing.assert_array_equal(model.weights["input_mean"], other.weights["input_mean"])

    def test_blend_is_what_it_says(self, cohort):
        settings = {**TINY, "nonnegative": False, "target_transform": "standard"}
        blend = MLP(**settings, ridge_share=0.25).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
        nets = MLP(**settings, ridge_share=0.0).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
        ridge = Ridge(target_transform="standard", nonnegative=False)
        ridge.fit(cohort.X, cohort.Y, groups=cohort.groups)
        expected = 0.25 * ridge.predict(cohort.X) + 0.75 * nets.predict(cohort.X)
        np.testing.assert_allclose(blend.predict(cohort.X), expected, rtol=1e-6)
        with pytest.raises(ValueError, match="ridge_share"):
            MLP(**TINY, ridge_share=2.0).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)

    def test_share_of_the_ridge_is_chosen_on_held_out_groups(self, cohort):
        """Of a linear truth nets of four epochs know less than the ridge, of another one they may have half."""
        linear = MLP(**TINY).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
        assert linear.weights["ridge.share"] > 0.9
        truth = np.random.default_rng(0).normal(size=(50, 2))
        assert _best_share(truth, truth + 0.1, truth) == 0.5
        assert _best_share(truth, truth, truth + 0.1) == 1.0
        assert _best_share(truth, truth + 0.1, truth - 0.3) == pytest.approx(0.75)
        assert _best_share(truth, truth, truth) == 0.5
        assert _best_share(truth, truth + 5, truth - 2) == 1.0  # worse than the mean, though better than the ridge
