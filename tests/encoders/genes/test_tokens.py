from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix

from histocell.encoders.genes.tokens import bin_values, cell_keys, tokens_of, uniform


def test_bins_of_the_original(parity_dir):
    expected = np.load(parity_dir / "scgpt_tiny" / "expected.npz")
    rng = np.random.default_rng(0)
    for index in range(17):
        values, bins = (expected[f"bin_free_{index:02d}_{part}"] for part in ("values", "bins"))
        known = values != 0
        np.testing.assert_array_equal(bin_values(values[known], rng.random(known.sum())), bins[known])
    for index in range(6):
        values, low, high = (expected[f"bin_tie_{index:02d}_{part}"] for part in ("values", "low", "high"))
        known = values != 0
        np.testing.assert_array_equal(bin_values(values[known], np.zeros(known.sum())), high[known])
        np.testing.assert_array_equal(bin_values(values[known], np.full(known.sum(), 1 - 2**-53)), low[known])


def test_bins_keep_the_order_of_values():
    values = np.random.default_rng(0).gamma(1, 10, 300)
    bins = bin_values(values, np.random.default_rng(1).random(300))
    assert bins.min() >= 1
    assert bins.max() == 50
    assert (np.diff(bins[np.argsort(values)]) >= 0).all()


def test_uniform_numbers_are_uniform_and_of_their_gene_alone():
    genes = np.arange(20_000)
    drawn = uniform(0, 5, genes)
    assert stats.kstest(drawn, "uniform").pvalue > 0.01
    for other in (uniform(1, 5, genes), uniform(0, 6, genes), np.roll(drawn, 1)):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.03
    np.testing.assert_array_equal(uniform(0, 5, genes[[7, 3]]), drawn[[7, 3]])


@pytest.fixture
def cells():
    counts = np.random.default_rng(0).poisson(1.0, (6, 30)).astype(np.float32)
    counts[4] = 0
    return csr_matrix(counts)


def test_tokens(cells):
    ids = np.arange(100, 130)
    tokens = tokens_of(cells, 0, ids, cell=3, seed=0, max_length=100, cls=(7, -2.0))
    expressed = cells[0].indices
    assert tokens.ids[0] == 7
    assert tokens.values[0] == -2
    np.testing.assert_array_equal(tokens.ids[1:], ids[expressed])
    assert tokens_of(cells, 4, ids, cell=3, seed=0, max_length=100, cls=(7, -2.0)) is None


def test_long_cells_are_sampled_after_binning(cells):
    ids = np.arange(100, 130)
    settings = {"cell": 3, "seed": 0, "cls": (7, -2.0)}
    whole, n = tokens_of(cells, 0, ids, max_length=100, **settings), cells[0].nnz
    exact = tokens_of(cells, 0, ids, max_length=n + 1, **settings)
    np.testing.assert_array_equal(exact.ids, whole.ids)
    some = tokens_of(cells, 0, ids, max_length=9, **settings)
    assert len(some.ids) == 9
    assert len(set(some.ids)) == 9
    assert some.ids[0] == 7
    bins = dict(zip(whole.ids, whole.values, strict=True))
    assert [bins[gene] for gene in some.ids] == some.values.tolist()


def test_every_gene_is_sampled_as_often(cells):
    ids = np.arange(100, 130)
    n = cells[0].nnz
    taken = np.zeros(30)
    for cell in range(2000):
        some = tokens_of(cells, 0, ids, cell=cell, seed=0, max_length=6, cls=(7, -2.0))
        taken[some.ids[1:] - 100] += 1
    share = taken[cells[0].indices] / 2000
    assert np.abs(share - 5 / n).max() < 0.05


def test_keys_of_cells_are_those_of_their_names():
    assert cell_keys(["a", "b"])[1] == cell_keys(["b"])[0]
    assert cell_keys(["a", "b"])[0] != cell_keys(["b"])[0]
