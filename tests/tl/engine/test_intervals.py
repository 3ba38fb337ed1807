from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell.tl.engine.intervals import over_groups


def score(cohort, n_groups, **kwargs):
    """CC of a noisy prediction of sections that are shared out among `n_groups` groups."""
    table = cohort["table"].copy()
    truth = table.obsm["cell_abundance"]
    noise = np.random.default_rng(0).normal(size=truth.shape) * truth.std().to_numpy()
    table.obsm["predicted_abundance"] = truth + noise
    table.obs["group"] = pd.Categorical((np.arange(table.n_obs) % n_groups).astype(str))
    with pytest.warns(UserWarning, match="nothing is recorded"):
        scores = hc.tl.evaluate_abundance(table, group_key="group", rng=0, inplace=False, **kwargs)
    return scores.query("metric == 'cc'")


@pytest.mark.parametrize("n_groups", [2, 3, 4])
def test_few_groups_have_a_range(cohort, n_groups):
    scores = score(cohort, n_groups)
    overall = scores.query("group == 'all'").set_index("cell_type")
    each = scores.query("group != 'all'").groupby("cell_type")["value"]
    assert set(overall["interval"]) == {f"range of {n_groups} groups"}
    np.testing.assert_array_equal(overall["low"], each.min()[overall.index])
    np.testing.assert_array_equal(overall["high"], each.max()[overall.index])
    assert set(scores.query("group != 'all'")["interval"]) == {"none"}


def test_five_groups_have_an_interval(cohort):
    overall = score(cohort, 5).query("group == 'all'")
    each = score(cohort, 5).query("group != 'all'").groupby("cell_type")["value"]
    assert set(overall["interval"]) == {"95 % over 5 groups"}
    assert (overall["low"] > each.min()[overall["cell_type"]].to_numpy()).all()
    assert set(score(cohort, 5, n_bootstrap=0).query("group == 'all'")["interval"]) == {"none"}


def test_spots_of_one_group(cohort):
    scores = score(cohort, 1)
    assert set(scores["interval"]) == {"95 % over spots"}
    assert (scores["low"] < scores["value"]).all()


def test_groups_where_a_type_is_undefined_do_not_count():
    values = np.array([[0.1, 0.5, 0.5], [0.2, np.nan, np.nan], [0.3, np.nan, 0.7], *[[0.4, np.nan, np.nan]] * 4])
    low, high, names = over_groups(values, "groups", n_bootstrap=500, rng=0)
    assert names == ["95 % over 7 groups", "none", "range of 2 groups", "95 % over 7 groups"]
    assert (low[2], high[2]) == (0.5, 0.7)
    assert np.isnan([low[1], high[1]]).all()  # one group says nothing of another
    assert np.isfinite([low[[0, 3]], high[[0, 3]]]).all()


def test_names_survive_h5ad(cohort, tmp_path):
    import anndata as ad

    table = cohort["table"].copy()
    table.uns["abundance_evaluation"] = score(cohort, 2)
    table.write_h5ad(tmp_path / "a.h5ad")
    read = hc.get.scores(ad.read_h5ad(tmp_path / "a.h5ad"))
    assert set(read["interval"]) == {"range of 2 groups", "none"}
