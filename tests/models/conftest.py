from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from histocell.models.places import Places


class Cohort(NamedTuple):
    X: np.ndarray
    Y: np.ndarray
    groups: np.ndarray
    coefficients: np.ndarray
    places: Places


def make_cohort(*, n_groups=4, n_rows=60, n_features=8, n_targets=3, noise=0.3, seed=0) -> Cohort:
    """Targets that are linear in the features, above 0, and alike in all groups."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_groups * n_rows, n_features))
    coefficients = rng.normal(size=(n_features, n_targets))
    Y = X @ coefficients + noise * rng.normal(size=(len(X), n_targets)) + 20
    groups = np.repeat([f"g{i}" for i in range(n_groups)], n_rows)
    xy = np.tile(100.0 * np.column_stack([np.arange(n_rows) // 10, np.arange(n_rows) % 10]), (n_groups, 1))
    return Cohort(X, Y, groups, coefficients, Places.of(xy, groups))


@pytest.fixture
def cohort() -> Cohort:
    return make_cohort()


@pytest.fixture
def make():
    return make_cohort
