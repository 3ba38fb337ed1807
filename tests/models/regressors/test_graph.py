"""Neighbours of rows: by a double loop, on grids, and in parts of a graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histocell.models import Places
from histocell.models.regressors.graph import Graph, neighbor_pairs

CPU = torch.device("cpu")


def random_places(n=60, n_sections=3, seed=0) -> Places:
    rng = np.random.default_rng(seed)
    return Places.of(rng.uniform(0, 500, (n, 2)), rng.integers(0, n_sections, n).astype(str))


def test_by_a_double_loop():
    places = random_places()
    expected = [
        (j, i)
        for i in range(60)
        for j in range(60)
        if i != j and places.sections[i] == places.sections[j] and np.hypot(*(places.xy_um[i] - places.xy_um[j])) <= 120
    ]
    assert 50 < len(expected) < 1000
    np.testing.assert_array_equal(neighbor_pairs(places, 120.0).T, expected)


@pytest.mark.parametrize(("grid", "rings"), [("square", {1: 8, 2: 20}), ("hexagonal", {1: 6, 2: 18})])
def test_rings(grid, rings):
    """Jittered as real spots are; the pitch is found."""
    row, column = np.divmod(np.arange(81), 9)
    xy = np.column_stack([column + (row % 2) / 2, row * np.sqrt(3) / 2] if grid == "hexagonal" else [column, row])
    places = Places.of(200 * xy + np.random.default_rng(0).normal(0, 3, (81, 2)))
    assert places.pitch_um == pytest.approx(200, rel=0.02)
    for n_rings, expected in rings.items():
        pairs = neighbor_pairs(places, (n_rings + 0.5) * places.pitch_um)
        assert (pairs[1] == 40).sum() == expected  # the middle


def test_sections_share_nothing():
    xy = np.zeros((4, 2)) + [[0], [1], [0], [1]]
    pairs = neighbor_pairs(Places.of(xy, ["a", "a", "b", "b"]), 10.0)
    assert {tuple(pair) for pair in pairs.T} == {(0, 1), (1, 0), (2, 3), (3, 2)}
    with pytest.warns(UserWarning, match="2 pairs of rows of one section lie at the same place"):
        neighbor_pairs(Places.of(xy), 0.5)


def test_the_pitch_of_the_whole_is_that_of_its_rows():
    places = Places.of(100.0 * np.argwhere(np.ones((6, 6))), np.repeat(["a", "b"], 18))
    assert places.pitch_um == 100
    assert places.rows(np.array([0, 2, 4])).pitch_um == 100
    assert np.isnan(Places.of(np.zeros((1, 2))).pitch_um)
    for wrong in (np.zeros(3), np.zeros((3, 3))):
        with pytest.raises(ValueError, match=r"xy_um of shape \(n, 2\)"):
            Places.of(wrong)


class TestGraph:
    @pytest.fixture
    def graph(self):
        return Graph.of(np.arange(60.0)[:, None], random_places(), 120.0, CPU)

    def test_part(self, graph):
        nodes = torch.tensor([5, 3, 40, 17, 22, 8])
        part = graph.take(nodes)
        np.testing.assert_array_equal(part.x[:, 0], nodes)
        kept = {(int(a), int(b)) for a, b in graph.pairs.T if int(a) in nodes.tolist() and int(b) in nodes.tolist()}
        assert {(int(nodes[a]), int(nodes[b])) for a, b in part.pairs.T} == kept

    def test_around(self, graph):
        sees = {i: {int(j) for j, k in graph.pairs.T if int(k) == i} for i in range(60)}
        one = {7} | sees[7]
        two = one.union(*(sees[i] for i in one))
        assert set(graph.around(torch.tensor([7]), 1).tolist()) == one
        assert graph.around(torch.tensor([7]), 2).tolist() == sorted(two)

    def test_table(self, graph):
        neighbors, there = graph.table()
        for i in range(60):
            assert neighbors[i][there[i]].tolist() == [int(j) for j, k in graph.pairs.T if int(k) == i]
        alone = Graph.of(np.ones((3, 1)), Places.of(np.eye(3, 2) * 1e4), 1.0, CPU).table()
        assert alone[0].shape == alone[1].shape == (3, 0)
