"""The largest eigenvalues and their vectors against numpy's, also in threads, and where LAPACK cannot be called."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from histocell.models.expression import blas, eigen


def matrix(d, rng=0):
    X = np.random.default_rng(rng).normal(size=(3 * d, d)) * np.arange(1, d + 1) ** -0.7
    return X.T @ X


def assert_same(found, A, k):
    values, vectors = np.linalg.eigh(A)
    np.testing.assert_allclose(found.values, values[-k:], rtol=1e-9, atol=1e-12 * values[-1])
    back = found.back(np.eye(k))
    np.testing.assert_allclose(back.T @ back, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(back @ back.T, vectors[:, -k:] @ vectors[:, -k:].T, atol=1e-8)
    B = np.random.default_rng(1).normal(size=(len(A), 5))
    np.testing.assert_allclose(found.onto(B), back.T @ B, atol=1e-12)


@pytest.mark.parametrize(("d", "k"), [(200, 40), (200, 1), (64, 32), (10, 10), (5, 2), (1, 1)])
def test_equals_numpy(d, k):
    assert_same(eigen.largest_eigen(matrix(d), k), matrix(d), k)


def test_only_the_upper_triangle_is_read():
    assert_same(eigen.largest_eigen(np.triu(matrix(80)) + np.tril(np.full((80, 80), np.nan), -1), 20), matrix(80), 20)


def test_threads():
    with ThreadPoolExecutor(4) as pool:
        for rng, found in enumerate(pool.map(lambda rng: eigen.largest_eigen(matrix(150, rng), 30), range(8))):
            assert_same(found, matrix(150, rng), 30)


def test_fewer_values_than_columns():
    """Rank 3: the other values are 0, and their vectors orthonormal all the same."""
    X = np.random.default_rng(0).normal(size=(3, 60))
    found = eigen.largest_eigen(X.T @ X, 10)
    np.testing.assert_allclose(found.values[:7], 0, atol=1e-12)
    back = found.back(np.eye(10))
    np.testing.assert_allclose(back.T @ back, np.eye(10), atol=1e-12)
    np.testing.assert_allclose((back * found.values) @ back.T, X.T @ X, atol=1e-10)


def test_without_calls_of_lapack(monkeypatch):
    monkeypatch.setattr(blas, "is_there", lambda: False)
    found = eigen.largest_eigen(matrix(80), 20)
    assert found.reflectors is None
    assert_same(found, matrix(80), 20)


def test_values_that_are_not_finite():
    """LAPACK is called at all, and what it says is passed on."""
    assert blas.is_there()
    with pytest.raises((np.linalg.LinAlgError, ValueError)):
        eigen.largest_eigen(np.full((20, 20), np.nan), 3)
