from __future__ import annotations

import numpy as np
import pytest

from histocell.models.alignment import search
from histocell.models.alignment.search import nearest, unit


def naive(queries, gallery, k, own=None, allowed=None):
    similar = unit(queries) @ unit(gallery).T
    similar = np.where(np.isfinite(similar), similar, -np.inf)
    if own is not None:
        similar[own[0][:, None] == own[1]] = -np.inf
    if allowed is not None:
        similar[:, ~allowed] = -np.inf
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    value = np.take_along_axis(similar, order, axis=1)
    rows = np.where(np.isfinite(value), order, -1)
    return np.pad(rows, ((0, 0), (0, k - rows.shape[1])), constant_values=-1)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize(("n", "n_queries", "k"), [(50, 7, 60), (500, 40, 10), (12, 3, 12)])
def test_as_a_full_sort_with_ties_in_blocks(n, n_queries, k, restricted, monkeypatch):
    monkeypatch.setattr(search, "_QUERIES", 16)
    monkeypatch.setattr(search, "_GALLERY", 64)
    rng = np.random.default_rng(n)
    gallery, queries = (
        rng.choice([-1.0, 1.0], size=(each, 4)) for each in (n, n_queries)
    )  # products are exact: many ties
    gallery[2] = 0
    gallery[5] = np.nan
    own = (np.arange(n_queries) % 5, np.arange(n) % 5) if restricted else None
    allowed = rng.random(n) < 0.7 if restricted else None
    found = nearest(queries, gallery, k, own=own, allowed=allowed)
    np.testing.assert_array_equal(found.rows, naive(queries, gallery, k, own, allowed))
    assert np.isnan(found.similarity[found.rows < 0]).all()
    assert np.isfinite(found.similarity[found.rows >= 0]).all()


def test_queries_that_resemble_nothing():
    found = nearest(np.array([[0.0, 0.0], [np.nan, 1.0]]), np.eye(2), 2)
    assert (found.rows == -1).all()


def test_gallery_is_read_in_slices(monkeypatch):
    class File:
        shape = (100, 3)

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            assert rows.stop - rows.start <= 32
            return np.random.default_rng(rows.start).normal(size=(rows.stop - rows.start, 3))

    monkeypatch.setattr(search, "_GALLERY", 32)
    whole = np.concatenate([File()[slice(start, min(start + 32, 100))] for start in range(0, 100, 32)])
    np.testing.assert_array_equal(nearest(np.eye(3), File(), 5).rows, naive(np.eye(3), whole, 5))


def test_index_finds_the_same():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(400, 8)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    own, allowed = (np.arange(20) % 3, np.arange(400) % 3), rng.random(400) < 0.5
    exact, index = (nearest(queries, gallery, 7, own=own, allowed=allowed, method=each) for each in search.METHODS)
    np.testing.assert_array_equal(exact.rows, index.rows)
    np.testing.assert_allclose(exact.similarity, index.similarity, atol=1e-6)


def test_unknown_method():
    with pytest.raises(ValueError, match="exact, faiss"):
        nearest(np.eye(2), np.eye(2), 1, method="annoy")
