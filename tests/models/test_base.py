from __future__ import annotations

import numpy as np
import pytest

from histocell.models import Mean, Ridge, registry, scaling
from histocell.models.problem import Problem
from histocell.models.registry import model_class

TINY = {"hidden": (8,) * 6, "max_epochs": 3, "n_members": 2, "batch_size": 64}
SMALL = {"mlp": TINY}
MODELS = [(model_class(name), SMALL.get(name, {})) for name in registry.MODELS]


@pytest.mark.parametrize(("cls", "config"), MODELS)
class TestContract:
    def test_shapes_and_nan_rows(self, cohort, cls, config):
        X, Y = cohort.X.copy(), cohort.Y.copy()
        X[3, 0], X[7] = np.inf, np.nan
        Y[11, 1] = np.nan
        with pytest.warns(UserWarning, match="3 of 240 rows"):
            model = cls(**config).fit(X, Y, groups=cohort.groups, rng=0)
        predicted = model.predict(X)
        lower, upper = model.interval(predicted)
        assert predicted.shape == lower.shape == upper.shape == Y.shape
        outside = np.zeros(len(X), dtype=bool)
        outside[[3, 7]] = True
        for values in (predicted, lower, upper):
            np.testing.assert_array_equal(np.isnan(values).all(axis=1), outside)
        inside = ~outside
        assert np.all((lower <= predicted)[inside] & (predicted <= upper)[inside])
        assert lower[inside].min() >= 0

    def test_same_rng_same_model_and_no_global_state(self, cohort, cls, config):
        import torch

        torch.manual_seed(0)
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
        models = [cls(**config).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=5) for _ in range(2)]
        for name, array in models[0].weights.items():
            np.testing.assert_array_equal(array, models[1].weights[name])
        assert torch.equal(before, torch.get_rng_state())
        assert torch.get_num_threads() == threads
        np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002

    def test_rows_do_not_depend_on_each_other(self, cohort, cls, config):
        model = cls(**config).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
        np.testing.assert_allclose(model.predict(cohort.X[:5]), model.predict(cohort.X)[:5], rtol=1e-5)
        assert model.predict(cohort.X[:0]).shape == (0, 3)

    def test_constant_features_are_ignored(self, cohort, cls, config):
        X = np.hstack([cohort.X, np.full((len(cohort.X), 1), 0.1), np.zeros((len(cohort.X), 1))])
        model = cls(**config).fit(X, cohort.Y, groups=cohort.groups, rng=0)
        shifted = X.copy()
        shifted[:, -2:] = 1e6
        np.testing.assert_array_equal(model.predict(X), model.predict(shifted))

    def test_all_constant_is_an_error(self, cohort, cls, config):
        with pytest.raises(ValueError, match="all 8 features are constant"):
            cls(**config).fit(np.ones_like(cohort.X), cohort.Y)

    def test_unfitted_and_wrong_width(self, cohort, cls, config):
        with pytest.raises(ValueError, match="not fitted"):
            cls(**config).predict(cohort.X)
        model = cls(**config).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
        with pytest.raises(ValueError, match=r"\(n, 8\)"):
            model.predict(cohort.X[:, :5])

    def test_unknown_setting_lists_the_known_ones(self, cls, config):
        with pytest.raises(TypeError, match="no setting colour; it has: target_transform"):
            cls(colour="red")

    def test_no_interval(self, cohort, cls, config):
        model = cls(**config, interval=None).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
        assert not model.has_interval
        with pytest.raises(ValueError, match="interval=0.9"):
            model.interval(cohort.Y)


def test_bad_shapes(cohort):
    with pytest.raises(ValueError, match="must have shapes"):
        Ridge().fit(cohort.X, cohort.Y[:10])
    with pytest.raises(ValueError, match="groups has shape"):
        Ridge().fit(cohort.X, cohort.Y, groups=["a"])
    with pytest.raises(ValueError, match="none of the 240 training rows"):
        Ridge().fit(np.full_like(cohort.X, np.nan), cohort.Y)


def test_registry():
    assert model_class("ridge") is Ridge
    with pytest.raises(ValueError, match="unknown model 'forest'; there are: mean, mlp, ridge"):
        model_class("forest")


class TestScaling:
    @pytest.mark.parametrize("transform", scaling.TRANSFORMS)
    def test_inverse(self, transform):
        Y = np.random.default_rng(0).gamma(2, size=(50, 3))
        arrays = scaling.fit_target(Y, transform)
        there = scaling.forward_target(Y, transform, arrays)
        np.testing.assert_allclose(scaling.inverse_target(there, transform, arrays), Y)

    def test_standard_survives_a_constant_target(self):
        Y = np.full((5, 1), 0.1)
        arrays = scaling.fit_target(Y, "standard")
        assert np.isfinite(scaling.forward_target(Y, "standard", arrays)).all()

    def test_errors(self):
        with pytest.raises(ValueError, match="must be one of none, log1p"):
            scaling.fit_target(np.ones((2, 1)), "log2")
        with pytest.raises(ValueError, match="not negative; 1 values are"):
            scaling.fit_target(np.array([[-1.0], [2.0]]), "sqrt")

    def test_groups_are_standardised_apart(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(60, 2)) * [[1, 5]] + 3
        groups = np.repeat(["a", "b"], 30)
        X[30:] *= 7
        X[5] = np.nan
        out = scaling.standardize_groups(X, groups)
        for name in "ab":
            part = out[(groups == name) & np.isfinite(X).all(1)]
            np.testing.assert_allclose(part.mean(0), 0, atol=1e-6)
            np.testing.assert_allclose(part.std(0), 1, atol=1e-6)
        assert np.isnan(out[5]).all()

    def test_tiny_groups_are_named(self):
        with pytest.warns(UserWarning, match=r"b \(2\)"):
            out = scaling.standardize_groups(np.random.default_rng(0).normal(size=(32, 2)), ["a"] * 30 + ["b"] * 2)
        assert np.isfinite(out).all()


class TestFitTogether:
    @pytest.mark.parametrize(("cls", "config"), MODELS)
    def test_each_model_is_what_fit_alone_makes(self, cohort, cls, config):
        names = np.unique(cohort.groups)[:3]
        order = np.random.default_rng(0).permutation(len(cohort.X))  # rows of a problem in any order
        problems = []
        for seed, name in enumerate(names):
            index = order[cohort.groups[order] != name][seed * 7 :]
            validation = cohort.groups[index] == "g3" if seed == 2 else None
            problems.append(Problem(cohort.X, cohort.Y, index, cohort.groups[index], validation, seed))
        together = cls.fit_together([cls(**config) for _ in problems], problems)
        for model, problem in zip(together, problems, strict=True):
            X, Y = problem.rows()
            alone = cls(**config).fit(X, Y, groups=problem.groups, validation=problem.validation, rng=problem.rng)
            assert model.facts == alone.facts
            assert model.weights.keys() == alone.weights.keys()
            for name, array in alone.weights.items():
                np.testing.assert_allclose(model.weights[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
            np.testing.assert_allclose(model.predict(cohort.X), alone.predict(cohort.X), rtol=1e-3, atol=1e-3)

    def test_refuses_what_does_not_belong_together(self, cohort):
        problem = Problem(cohort.X, cohort.Y)
        model = Ridge()
        with pytest.raises(ValueError, match="1 models for 2 problems"):
            Ridge.fit_together([model], [problem, problem])
        with pytest.raises(ValueError, match="given twice"):
            Ridge.fit_together([model, model], [problem, problem])
        with pytest.raises(ValueError, match="one class and equal settings"):
            Ridge.fit_together([model, Ridge(sharing=1)], [problem, problem])
        with pytest.raises(ValueError, match="these are Mean, Ridge"):
            Ridge.fit_together([model, Mean()], [problem, problem])
        with pytest.raises(ValueError, match="groups has shape"):
            Ridge.fit_together([model], [Problem(cohort.X, cohort.Y, np.arange(9), cohort.groups)])
