from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import permutation_test

import histocell as hc
from histocell.bench.comparison import sign_flip_p


def made(values, metric="cc", features="X_uni"):
    """Scores of each model in each group."""
    rows = [
        {"model": model, "features": features, "group": group, "cell_type": "mean", "metric": metric, "value": value}
        for model, each in values.items()
        for group, value in zip([*(f"P{i}" for i in range(len(each))), "all"], [*each, np.mean(each)], strict=True)
    ]
    return pd.DataFrame(rows).assign(low=np.nan, high=np.nan, interval="none")


@pytest.mark.parametrize("n", [1, 2, 5, 8, 12])
def test_p_by_a_loop_over_all_signs(n):
    difference = np.random.default_rng(n).normal(0.3, 1, n)
    signs = np.array(list(product([1, -1], repeat=n)))
    expected = np.mean([abs((one * difference).mean()) >= abs(difference.mean()) - 1e-12 for one in signs])
    assert sign_flip_p(difference, n_permutations=10, rng=0) == expected


def test_p_is_that_of_scipy():
    a, b = np.random.default_rng(0).normal(size=(2, 9)) + [[0.6], [0]]
    found = permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True
    )
    assert sign_flip_p(a - b, n_permutations=10, rng=0) == pytest.approx(found.pvalue)


def test_p_of_many_groups_is_drawn_and_never_zero():
    assert sign_flip_p(np.ones(30), n_permutations=99, rng=0) == 0.01
    drawn = sign_flip_p(np.random.default_rng(0).normal(0.3, 1, 13), n_permutations=20_000, rng=0)
    signs = np.array(list(product([1, -1], repeat=13)))
    difference = np.random.default_rng(0).normal(0.3, 1, 13)
    assert drawn == pytest.approx((np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).mean(), abs=0.01)


def test_p_is_uniform_where_models_are_alike():
    rng = np.random.default_rng(0)
    p = [sign_flip_p(rng.normal(size=8), n_permutations=10, rng=0) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.04)


def test_no_difference_at_all():
    assert sign_flip_p(np.zeros(6), n_permutations=10, rng=0) == 1


def test_compare():
    rng = np.random.default_rng(0)
    base = rng.normal(0.3, 0.1, 8)
    scores = made({"mean": base - 0.1, "ridge": base, "mlp": base + 0.05 + rng.normal(0, 0.01, 8)})
    table = hc.bench.compare(scores, rng=0)
    assert list(zip(table["model"], table["reference"], strict=True)) == [
        ("ridge", "mean"),
        ("mlp", "mean"),
        ("mlp", "ridge"),
    ]
    assert table["difference"].iloc[0] == pytest.approx(0.1)
    assert (table["n_groups"] == 8).all()
    assert (table["p"] == 2 / 2**8).all()
    assert (table["least_p"] == 2 / 2**8).all()
    assert (table["p_adj"] == 2 / 2**8).all()
    assert (table["interval"] == "95 % over 8 groups").all()
    assert ((table["low"] <= table["difference"]) & (table["difference"] <= table["high"])).all()
    # pairing takes out what the groups share
    assert (table["high"] - table["low"]).max() < 0.05
    one = hc.bench.compare(scores, "ridge", metric="cc")
    assert one["model"].tolist() == ["mean", "mlp"]
    assert one["difference"].iloc[0] == pytest.approx(-0.1)


def test_groups_without_a_score_do_not_count():
    scores = made({"a": [0.1, 0.2, np.nan, 0.4, 0.5, 0.6], "b": [0.0, np.nan, 0.2, 0.3, 0.4, 0.5]})
    with pytest.warns(UserWarning, match="4 groups are too few for a test: p cannot be below 0.125"):
        row = hc.bench.compare(scores).iloc[0]
    assert row["n_groups"] == 4
    assert row["difference"] == pytest.approx(-0.1)
    assert row["interval"] == "range of 4 groups"
    nothing = made({"a": [0.1, np.nan] * 3, "b": [np.nan, 0.1] * 3})
    with pytest.warns(UserWarning, match="0 groups"):
        row = hc.bench.compare(nothing).iloc[0]
    assert np.isnan([row["p"], row["p_adj"], row["difference"], row["least_p"]]).all()


def test_features_are_told_apart():
    values = {"ridge": np.arange(6.0)}
    scores = pd.concat([made(values), made({"ridge": np.arange(6.0) + 1}, features="X_conch")], ignore_index=True)
    row = hc.bench.compare(scores).iloc[0]
    assert (row["features"], row["reference_features"], row["difference"]) == ("X_conch", "X_uni", 1)
    row = hc.bench.compare(scores, ("ridge", "X_conch")).iloc[0]
    assert (row["features"], row["difference"]) == ("X_uni", -1)
    with pytest.raises(ValueError, match="several sets of features"):
        hc.bench.compare(scores, "ridge")


def test_errors():
    scores = made({"a": [0.1, 0.2], "b": [0.2, 0.3]})
    with pytest.raises(KeyError, match="metric l2 is not in the scores; available: cc"):
        hc.bench.compare(scores, metric="l2")
    with pytest.raises(KeyError, match="cell type T cells is not"):
        hc.bench.compare(scores, cell_type="T cells")
    with pytest.raises(KeyError, match="reference c is not"):
        hc.bench.compare(scores, "c")
    with pytest.raises(ValueError, match="has one model, a"):
        hc.bench.compare(scores[scores["model"] == "a"])
    with pytest.raises(ValueError, match="fewer than two"):
        hc.bench.compare(scores[scores["group"] == "all"])
    with pytest.raises(ValueError, match="several scores of 'a'"):
        hc.bench.compare(pd.concat([scores, scores]))
    with pytest.raises(ValueError, match="column value not found"):
        hc.bench.compare(scores.drop(columns="value"))
    with pytest.raises(TypeError, match="must be the data frame"):
        hc.bench.compare({"a": 1})
