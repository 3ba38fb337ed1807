from __future__ import annotations

import numpy as np
import pytest

from histocell.models import Mean, Ridge, registry, scaling
from histocell.models.problem import Problem
from histocell.models.registry import model_class

TINY = {"hidden": (8,) * 6, "max_epochs": 3, "n_members": 2, "batch_size": 64}
SMALL = {
    "mlp": TINY,
    "spatial_mlp": {"width": 8, "hidden": (8,), "max_epochs": 3, "n_members": 2},
    "hist2cell": {"width": 16, "max_epochs": 2, "n_members": 2},
}
MODELS = [
    (model_class(name), SMALL.get(name, {})) for name in registry.MODELS if "abundance" in model_class(name).tasks
]


@pytest.mark.parametrize(("cls", "config"), MODELS)
class TestContract:
    def test_shapes_and_nan_rows(self, cohort, cls, config):
        X, Y = cohort.X.copy(), cohort.Y.copy()
        X[3, 0], X[7] = np.inf, np.nan
        Y[11, 1] = np.nan
        with pytest.warns(UserWarning, match="3 of 240 rows"):
            model = cls(**config).fit(X, Y, groups=cohort.groups, places=cohort.places, rng=0)
        predicted = model.predict(X, places=cohort.places)
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
        models = [
            cls(**config).fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=5) for _ in range(2)
        ]
        for name, array in models[0].weights.items():
            np.testing.assert_array_equal(array, models[1].weights[name])
        assert torch.equal(before, torch.get_rng_state())
        assert torch.get_num_threads() == threads
        np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002

    def test_rows_do_not_depend_on_each_other(self, cohort, cls, config):
        model = cls(**config).fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=0)
        some = np.arange(60, 120) if model.needs_places else np.arange(5)  # a section whole, or any rows

        def predict(rows):
            return model.predict(cohort.X[rows], places=cohort.places.rows(rows))

        everything = predict(np.arange(240))
        np.testing.assert_allclose(predict(some), everything[some], rtol=1e-5)
        np.testing.assert_allclose(predict(some[::-1]), everything[some[::-1]], rtol=1e-5)
        assert predict(some[:0]).shape == (0, 3)

    def test_constant_features_are_ignored(self, cohort, cls, config):
        X = np.hstack([cohort.X, np.full((len(cohort.X), 1), 0.1), np.zeros((len(cohort.X), 1))])
        model = cls(**config).fit(X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=0)
        shifted = X.copy()
        shifted[:, -2:] = 1e6
        np.testing.assert_array_equal(
            model.predict(X, places=cohort.places), model.predict(shifted, places=cohort.places)
        )

    def test_all_constant_is_an_error(self, cohort, cls, config):
        with pytest.raises(ValueError, match="all features are constant over the"):
            cls(**config).fit(np.ones_like(cohort.X), cohort.Y, places=cohort.places)

    def test_unfitted_and_wrong_width(self, cohort, cls, config):
        with pytest.raises(ValueError, match="not fitted"):
            cls(**config).predict(cohort.X, places=cohort.places)
        model = cls(**config).fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=0)
        with pytest.raises(ValueError, match=r"\(n, 8\)"):
            model.predict(cohort.X[:, :5], places=cohort.places)

    def test_unknown_setting_lists_the_known_ones(self, cls, config):
        with pytest.raises(TypeError, match="no setting colour; it has: .*target_transform"):
            cls(colour="red")

    def test_no_interval(self, cohort, cls, config):
        model = cls(**config, interval=None).fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=0)
        assert not model.has_interval
        with pytest.raises(ValueError, match="interval=0.9"):
            model.interval(cohort.Y)

    def test_places_are_asked_for_where_they_are_needed(self, cohort, cls, config):
        model = cls(**config, interval=None)
        if not model.needs_places:
            model.fit(cohort.X, cohort.Y, groups=cohort.groups).predict(cohort.X)
            assert model.reach_um() == 0
            return
        with pytest.raises(ValueError, match=r"where the rows lie: give places="):
            model.fit(cohort.X, cohort.Y, groups=cohort.groups)
        unknown = cohort.places._replace(xy_um=cohort.places.xy_um.copy())
        unknown.xy_um[4] = np.nan
        with pytest.raises(ValueError, match="1 of 240 rows have coordinates that are not finite"):
            model.fit(cohort.X, cohort.Y, groups=cohort.groups, places=unknown)
        with pytest.raises(ValueError, match="places are of 60 rows, X has 240"):
            model.fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places.rows(np.arange(60)))
        X = cohort.X.copy()
        X[4] = np.nan  # takes no part, so its place does not matter
        with pytest.warns(UserWarning, match="1 of 240 rows"):
            model.fit(X, cohort.Y, groups=cohort.groups, places=unknown)
        assert np.isnan(model.predict(X, places=unknown)[4]).all()
        assert np.isfinite(np.delete(model.predict(X, places=unknown), 4, axis=0)).all()
        for places, match in ((None, "give places="), (unknown, "1 of 240 rows have coordinates")):
            with pytest.raises(ValueError, match=match):
                model.predict(cohort.X, places=places)

    def test_saved_and_loaded(self, cohort, cls, config, tmp_path):
        model = cls(**config).fit(cohort.X, cohort.Y, groups=cohort.groups, places=cohort.places, rng=0)
        model.save(tmp_path)
        again = registry.load(tmp_path)
        assert again.config == model.config
        found, expected = (each.outputs(cohort.X, places=cohort.places) for each in (again, model))
        assert found.keys() == expected.keys() == {"", "_lower", "_upper", "_novelty"}
        for ending, values in expected.items():
            np.testing.assert_array_equal(found[ending], values)


def test_bad_shapes(cohort):
    with pytest.raises(ValueError, match="must have shapes"):
        Ridge().fit(cohort.X, cohort.Y[:10])
    with pytest.raises(ValueError, match="groups has shape"):
        Ridge().fit(cohort.X, cohort.Y, groups=["a"])
    with pytest.raises(ValueError, match="none of the 240 training rows"):
        Ridge().fit(np.full_like(cohort.X, np.nan), cohort.Y)


def test_registry():
    assert model_class("ridge") is Ridge
    with pytest.raises(
        ValueError,
        match="unknown model 'forest'; there are: abmil, bleep, cca, cell_transformer, common_class, component_ridge",
    ):
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
            places = cohort.places.rows(index)
            problems.append(Problem(cohort.X, cohort.Y, index, cohort.groups[index], validation, seed, places))
        together = cls.fit_together([cls(**config) for _ in problems], problems)
        for model, problem in zip(together, problems, strict=True):
            X, Y = problem.rows()
            rows = {"groups": problem.groups, "validation": problem.validation, "places": problem.places}
            alone = cls(**config).fit(X, Y, **rows, rng=problem.rng)
            assert model.facts == alone.facts
            assert model.weights.keys() == alone.weights.keys()
            for name, array in alone.weights.items():
                np.testing.assert_allclose(model.weights[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
            found, expected = (each.predict(cohort.X, places=cohort.places) for each in (model, alone))
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize(("cls", "config"), MODELS)
    def test_nothing_to_fit(self, cls, config):
        assert cls.fit_together([], []) == []

    def test_refuses_what_does_not_belong_together(self, cohort):
        problem = Problem(cohort.X, cohort.Y)
        model = Ridge()
        with pytest.raises(ValueError, match="1 models for 2 problems"):
            Ridge.fit_together([model], [problem, problem])
        with pytest.raises(ValueError, match="given twice"):
            Ridge.fit_together([model, model], [problem, problem])
        with pytest.raises(ValueError, match="one class and equal settings"):
            Ridge.fit_together([model, Ridge(sharing=0)], [problem, problem])
        with pytest.raises(ValueError, match="these are Mean, Ridge"):
            Ridge.fit_together([model, Mean()], [problem, problem])
        with pytest.raises(ValueError, match="differ in their numbers of features or targets"):
            Ridge.fit_together([model, Ridge()], [problem, Problem(cohort.X[:, 1:], cohort.Y)])
        with pytest.raises(ValueError, match="groups has shape"):
            Ridge.fit_together([model], [Problem(cohort.X, cohort.Y, np.arange(9), cohort.groups)])
