"""Ranks of partners beside a double loop, ties, and chance."""

from __future__ import annotations

import numpy as np
import pytest

from histocell.models.alignment import ranks
from histocell.models.alignment.base import unit


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(ranks, "_QUERIES", 7)
    monkeypatch.setattr(ranks, "_GALLERY", 11)


def test_beside_a_double_loop():
    rng = np.random.default_rng(0)
    gallery = unit(rng.normal(size=(40, 5))).astype(np.float32)
    gallery[30:34] = gallery[3]  # ties
    partners = rng.permutation(40)[:25]
    queries = unit(gallery[partners] + 0.6 * rng.normal(size=(25, 5))).astype(np.float32)
    groups = rng.integers(0, 3, 40)
    found = ranks.partner_ranks(queries, gallery, partners, groups=groups, scopes=("within", "across", "all"))
    for scope, result in found.items():
        for i, partner in enumerate(partners):
            among = {
                "within": groups == groups[partner],
                "across": groups != groups[partner],
                "all": np.ones(40, dtype=bool),
            }[scope].copy()
            among[partner] = False
            others = gallery[among].astype(float) @ queries[i].astype(float)
            mine = gallery[partner].astype(float) @ queries[i].astype(float)
            tied = np.abs(others - mine) < 1e-6
            assert result.rank[i] == 1 + (others[~tied] > mine).sum() + tied.sum() / 2
            assert result.n_candidates[i] == among.sum() + 1


def test_equal_vectors_rank_in_the_middle():
    same = unit(np.random.default_rng(0).normal(size=(1, 128))).astype(np.float32).repeat(30, axis=0)
    found = ranks.partner_ranks(same, same, np.arange(30), groups=np.zeros(30, dtype=int), scopes=("all",))["all"]
    assert (found.rank == 15.5).all()
    assert not found.recall(10).any()


def test_chance():
    result = ranks.Ranks(np.ones(2), np.array([1, 4]))
    np.testing.assert_allclose(result.chance_recall(2), [1, 0.5])
    np.testing.assert_allclose(result.chance_reciprocal(), [1, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4])
