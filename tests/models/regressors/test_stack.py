from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from histocell.models import MLP, training
from histocell.models.folds import Fold
from histocell.models.problem import Problem
from histocell.models.regressors import mlp, stack
from histocell.models.regressors.perceptron import Perceptron, composite_loss, pearson_loss
from histocell.models.regressors.stack import Job, Shared, Source, Stack, train_jobs

CPU = torch.device("cpu")
SIZES = (61, 200, 117)  # rows of the nets: other numbers of batches, of other sizes


def perceptron(*, layer_norm=True, dropout=0.3):
    return Perceptron(5, 3, hidden=(16, 12), layer_norm=layer_norm, dropout=dropout)


def scrambled(net):
    """Weights that no initialisation makes, such as those of a normalisation that is not 1."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net


def random_data(n=300, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    return X, np.abs(X[:, :3]) + rng.normal(size=(n, 3))


@pytest.fixture
def nets():
    with training.seeded(0, CPU):
        return [scrambled(perceptron(dropout=0.0)) for _ in SIZES]


class TestLossOfSeveralNets:
    @pytest.mark.parametrize("per", ["type", "spot"])
    def test_filling_does_not_count(self, per):
        generator = torch.Generator().manual_seed(0)
        sizes = (6, 1, 4)
        p, y = torch.randn((2, 3, 6, 4), generator=generator, dtype=torch.float64)
        rows = (torch.arange(6) < torch.tensor(sizes).unsqueeze(1)).double()
        p.requires_grad_()
        for loss in (partial(composite_loss, l1=0.3, l2=0.7), pearson_loss):
            found = loss(p, y, per=per, rows=rows)
            expected = [loss(a[:n], b[:n], per=per) for a, b, n in zip(p, y, sizes, strict=True)]
            torch.testing.assert_close(found, torch.stack(expected))
            (gradient,) = torch.autograd.grad(found.sum(), p, retain_graph=True)
            (naive,) = torch.autograd.grad(sum(expected), p)
            torch.testing.assert_close(gradient, naive)
            assert (gradient[rows == 0] == 0).all()
        torch.testing.assert_close(composite_loss(p, y, per=per)[1], composite_loss(p[1], y[1], per=per))


class TestStack:
    @pytest.mark.parametrize("layer_norm", [True, False])
    def test_predictions_and_gradients_are_those_of_the_nets(self, layer_norm):
        with training.seeded(1, CPU):
            nets = [scrambled(perceptron(layer_norm=layer_norm, dropout=0.0)) for _ in range(3)]
            x, weight = torch.randn(3, 7, 5), torch.randn(3, 7, 3)
        expected = [net(part) for net, part in zip(nets, x, strict=True)]
        gradients = [
            torch.autograd.grad((out * part).sum(), [*net.parameters()])
            for net, out, part in zip(nets, expected, weight, strict=True)
        ]
        together = Stack(nets)
        found = together.forward(x, [7] * 3, [torch.Generator()] * 3)
        (found * weight).sum().backward()
        together.share_gradients()
        torch.testing.assert_close(found, torch.stack(expected))
        for net, naive in zip(nets, gradients, strict=True):
            for parameter, gradient in zip(net.parameters(), naive, strict=True):
                torch.testing.assert_close(parameter.grad, gradient)

    def test_dropout_of_a_net_is_its_own(self):
        with training.seeded(1, CPU):
            nets, x = [perceptron(dropout=0.4) for _ in range(2)], torch.randn(2, 9, 5)
        expected = []
        for seed, net, part, n in zip((5, 6), nets, x, (9, 4), strict=True):
            with training.seeded(seed, CPU):
                expected.append(net.train()(part[:n]))
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        found = Stack(nets).forward(x, [9, 4], generators)
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1, :4], expected[1])

    def test_who_leaves_takes_its_weights_along(self, nets):
        before = [{name: value.clone() for name, value in net.state_dict().items()} for net in nets]
        together = Stack(nets)
        together.hold([nets[0], nets[2]])
        for net, state in zip(nets, before, strict=True):
            for name, value in net.state_dict().items():
                assert torch.equal(value, state[name])
        left, stays = (net.output.weight for net in nets[1:])
        assert left.untyped_storage().nbytes() == left.nbytes
        with torch.no_grad():
            stays.add_(1)  # an optimizer moves the weights of the net, and so those of the stack
        assert torch.equal(together.weights["output.weight"][1], stays)

    def test_shapes_on_the_meta_device(self):
        with torch.device("meta"):
            nets = [perceptron(dropout=0.0) for _ in range(4)]
            x = torch.empty(4, 6, 5)
        assert Stack(nets).forward(x, [6] * 4, []).shape == (4, 6, 3)


class TestTrainJobs:
    schedule = training.Schedule(lr=0.02, batch_size=32, max_epochs=25, patience=1)

    def problems(self):
        """Nets, some with validation rows, that stop at different epochs."""
        X, Y = random_data()
        rng = np.random.default_rng(1)
        for seed, size in enumerate(SIZES):
            order = rng.permutation(len(X))
            yield seed, X, Y, Fold(order[:size], order[200:260] if seed else order[:0]), None if seed else 7

    def train(self, numbers=(0, 1, 2)):
        X, Y = random_data()
        shared = Shared.of(X, np.zeros(5), CPU)
        source = Source.of(shared, np.arange(len(X)), Y)
        jobs = [
            Job.of(perceptron, seed, source, fold, stop_after)
            for seed, _, _, fold, stop_after in self.problems()
            if seed in numbers
        ]
        return [job.net for job in jobs], train_jobs(jobs, composite_loss, schedule=self.schedule, desc="nets")

    def test_each_net_is_what_plain_training_makes(self):
        nets, histories = self.train()
        n_epochs = [len(history.train_loss) for history in histories]
        assert n_epochs[0] == 7
        assert len(set(n_epochs)) == 3
        for (seed, X, Y, fold, stop_after), net, history in zip(self.problems(), nets, histories, strict=True):
            features, targets = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(Y, dtype=torch.float32)
            held = (features[fold.held], targets[fold.held]) if len(fold.held) else None
            with training.seeded(seed, CPU):
                plain = perceptron()
                expected = training.train(
                    plain,
                    composite_loss,
                    (features[fold.fit], targets[fold.fit]),
                    schedule=self.schedule,
                    validation=held,
                    stop_after=stop_after,
                )
            assert history.best_epoch == expected.best_epoch
            np.testing.assert_allclose(history.train_loss, expected.train_loss, rtol=1e-4)
            np.testing.assert_allclose(history.val_loss, expected.val_loss, rtol=1e-4)
            for name, value in plain.state_dict().items():
                torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-3, atol=1e-4)

    def test_does_not_depend_on_the_nets_beside_it(self, monkeypatch):
        together, _ = self.train()
        (alone,), _ = self.train([1])
        monkeypatch.setattr(stack, "_AT_ONCE", 1)
        in_turn, _ = self.train()
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(together[1].state_dict()[name], value, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(in_turn[1].state_dict()[name], value, rtol=1e-3, atol=1e-4)

    def test_a_net_that_diverges_is_an_error(self):
        X, Y = random_data()
        sources = [Source.of(Shared.of(X, np.zeros(5), CPU), np.arange(300), each) for each in (Y, Y * np.inf)]
        fold = Fold(np.arange(300), np.arange(0))
        jobs = [Job.of(perceptron, 0, source, fold, 2) for source in sources]
        with pytest.raises(ValueError, match="training loss became"):
            train_jobs(jobs, composite_loss, schedule=self.schedule, desc="nets")

    def test_nothing_to_train(self):
        assert train_jobs([], composite_loss, schedule=self.schedule, desc="nets") == []


class TestFitTogether:
    config = {"hidden": (16,) * 6, "max_epochs": 30, "patience": 1, "batch_size": 32, "lr": 0.003, "max_folds": 3}

    def problems(self, data, *, offset=0.0):
        shift = np.repeat(np.arange(4), 60)[:, None]  # of each group, so that the scales of the problems differ
        X = data.X * (1 + shift) + shift + offset
        indices = [np.flatnonzero(data.groups != name) for name in np.unique(data.groups)]
        return [
            Problem(X, data.Y, index[seed:], data.groups[index[seed:]], rng=seed) for seed, index in enumerate(indices)
        ]

    @pytest.mark.parametrize("preset", ["robust", "paper"])
    def test_leaving_out_groups_gives_the_models_of_separate_fits(self, cohort, preset):
        problems = self.problems(cohort, offset=1e4)  # float32 knows 1e4 to 1e-3
        models = MLP.fit_together([MLP(preset, **self.config) for _ in problems], problems)
        assert preset == "paper" or len({tuple(model.history["best_epoch"]) for model in models}) > 1
        for model, problem in zip(models, problems, strict=True):
            X, Y = problem.rows()
            alone = MLP(preset, **self.config).fit(X, Y, groups=problem.groups, rng=problem.rng)
            for name, curve in alone.history.items():
                np.testing.assert_allclose(model.history[name], curve, rtol=1e-3, err_msg=name)
            for name, array in alone.weights.items():
                np.testing.assert_allclose(model.weights[name], array, rtol=1e-3, atol=1e-3, err_msg=name)

    def test_features_are_held_once(self, cohort, monkeypatch):
        seen = []

        def record(jobs, *args, **options):
            seen.extend(jobs)
            return train_jobs(jobs, *args, **options)

        monkeypatch.setattr(mlp, "train_jobs", record)
        problems = self.problems(cohort)
        MLP.fit_together([MLP(**self.config, n_members=2) for _ in problems], problems)
        assert len(seen) == 4 * 2 * 2  # nets and refits
        assert len({job.source.X.data_ptr() for job in seen}) == 1
        assert seen[0].source.X.shape == cohort.X.shape

    def test_does_not_touch_the_features(self, cohort):
        problems = self.problems(cohort)
        before = problems[0].X.copy()
        MLP.fit_together([MLP(**self.config) for _ in problems], problems)
        np.testing.assert_array_equal(problems[0].X, before)
