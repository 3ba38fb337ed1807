from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import histocell as hc
from histocell.tl._colocalization.replicates import by_patient, combine, random_effects


def result_of(r, patients=None, names=None):
    r = np.asarray(r, dtype=float)
    patients = patients or [f"P{index}" for index in range(len(r))]
    names = names or [f"t{index}" for index in range(r.shape[1])]
    return {"names": names, "sections": {"names": patients, "patients": patients, "R": r}, "R": r.mean(axis=0)}


def symmetric(rng, k=6):
    values = rng.uniform(-0.4, 0.4, size=(k, k))
    return (values + values.T) / 2


class TestEvaluate:
    def test_published_maps(self, data_dir):
        """Figures of Hist2Cell's own tables: with the diagonal set to 1, and without."""
        maps = []
        for name in ("Cell2location", "Hist2Cell"):
            table = pd.read_csv(data_dir / "hist2cell_moran" / f"WSA_LngSP10193347_MoranR_{name}.csv", index_col=0)
            both = pd.concat([table, table.rename(columns={"A": "B", "B": "A"})])
            maps.append(both.pivot_table(index="A", columns="B", values="R_val"))
        maps[1] = maps[1].iloc[::-1, ::-1]  # matched by name
        found = hc.tl.evaluate_colocalization(*maps).set_index(["measure", "diagonal"])["value"]
        assert found["cosine", True] == pytest.approx(0.860, abs=5e-4)
        assert found["pearson", True] == pytest.approx(0.785, abs=5e-4)
        assert found["cosine", False] == pytest.approx(0.775, abs=5e-4)
        assert found["pearson", False] == pytest.approx(0.639, abs=5e-4)
        assert found["pooled_pearson", False] == pytest.approx(0.743, abs=5e-4)

    def test_loops(self):
        rng = np.random.default_rng(0)
        a, b = symmetric(rng), symmetric(rng)
        found = hc.tl.evaluate_colocalization(result_of([a]), result_of([b])).set_index(["measure", "diagonal"])[
            "value"
        ]
        cosine, pearson = [], []
        for i in range(6):
            x, y = np.delete(a[i], i), np.delete(b[i], i)
            cosine.append(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
            pearson.append(np.corrcoef(x, y)[0, 1])
        assert found["cosine", False] == pytest.approx(np.mean(cosine))
        assert found["pearson", False] == pytest.approx(np.mean(pearson))

    def test_a_map_is_like_itself(self):
        rng = np.random.default_rng(1)
        one = result_of([symmetric(rng) for _ in range(4)])
        found = hc.tl.evaluate_colocalization(one, one, rng=0)
        np.testing.assert_allclose(found[["value", "low", "high"]], 1)
        assert (found["n_patients"] == 4).all()

    def test_intervals_hold_the_value_and_need_patients(self):
        rng = np.random.default_rng(2)
        truth = [symmetric(rng) for _ in range(8)]
        noisy = [each + symmetric(rng) for each in truth]
        found = hc.tl.evaluate_colocalization(result_of(truth), result_of(noisy), rng=0)
        assert (found["low"] < found["value"]).all()
        assert (found["high"] > found["low"]).all()
        again = hc.tl.evaluate_colocalization(result_of(truth), result_of(noisy), rng=0)
        pd.testing.assert_frame_equal(found, again)
        one = hc.tl.evaluate_colocalization(result_of(truth[:1]), result_of(noisy[:1]))
        assert one[["low", "high"]].isna().all(axis=None)
        assert set(found["interval"]) == {"95 % over 8 patients"}
        assert set(one["interval"]) == {"none"}

    def test_few_patients_have_a_range(self):
        rng = np.random.default_rng(2)
        truth = [symmetric(rng) for _ in range(3)]
        noisy = [each + symmetric(rng) for each in truth]
        found = hc.tl.evaluate_colocalization(result_of(truth), result_of(noisy), rng=0)
        alone = [
            hc.tl.evaluate_colocalization(result_of([a]), result_of([b])) for a, b in zip(truth, noisy, strict=True)
        ]
        np.testing.assert_allclose(found["low"], np.min([each["value"] for each in alone], axis=0))
        np.testing.assert_allclose(found["high"], np.max([each["value"] for each in alone], axis=0))
        assert set(found["interval"]) == {"range of 3 patients"}

    def test_undefined_pairs_are_left_out(self):
        rng = np.random.default_rng(3)
        a = symmetric(rng)
        b = a.copy()
        b[2], b[:, 2] = np.nan, np.nan
        found = hc.tl.evaluate_colocalization(result_of([a]), result_of([b]))
        np.testing.assert_allclose(found["value"], 1)

    def test_types_that_differ(self):
        rng = np.random.default_rng(4)
        a, b = result_of([symmetric(rng)]), result_of([symmetric(rng)], names=["t0", "t1", "t2", "t3", "t4", "other"])
        with pytest.warns(UserWarning, match="compared without other, t5"):
            assert hc.tl.evaluate_colocalization(a, b)["n_types"].unique() == 5
        b["names"] = list("uvwxyz")
        with pytest.raises(ValueError, match="share 0 cell types"):
            hc.tl.evaluate_colocalization(a, b)

    def test_patients_that_differ(self):
        rng = np.random.default_rng(5)
        a = result_of([symmetric(rng), symmetric(rng)])
        b = result_of([symmetric(rng), symmetric(rng)], patients=["P0", "P7"])
        with pytest.raises(ValueError, match="different patients"):
            hc.tl.evaluate_colocalization(a, b)

    def test_data_with_a_slot(self, cohort):
        hc.tl.colocalization(cohort)
        found = hc.tl.evaluate_colocalization(cohort, cohort["table"].uns["colocalization"], rng=0)
        np.testing.assert_allclose(found["value"], 1)
        with pytest.raises(KeyError, match=r"Run hc.tl.colocalization"):
            hc.tl.evaluate_colocalization(cohort, cohort, key="other")


class TestDifference:
    @pytest.fixture
    def adata(self):
        row, column = np.mgrid[:12, :12]
        xy = np.column_stack([column.ravel(), row.ravel()]) * 100.0
        parts = []
        for patient in range(8):
            rng = np.random.default_rng(patient)
            middle = np.exp(-((xy - rng.uniform(300, 800, 2)) ** 2).sum(axis=1) / (2 * 200**2))
            noise = 0.1 * rng.random((len(xy), 3))
            partner = middle if patient < 4 else 1 - middle
            values = noise + np.column_stack([middle, partner, rng.random(len(xy))])
            names = [f"{patient}_{index}" for index in range(len(xy))]
            frame = pd.DataFrame(
                {"section": f"S{patient}", "patient": f"P{patient}", "mpp": 1.0, "arm": "xy"[patient // 4]}, index=names
            )
            part = ad.AnnData(obs=frame)
            part.obsm["spatial"] = xy
            part.obsm["cell_abundance"] = pd.DataFrame(values, index=names, columns=["a", "b", "c"])
            parts.append(part)
        adata = ad.concat(parts)
        hc.tl.colocalization(adata)
        return adata

    def test_finds_the_pair(self, adata):
        hc.tl.colocalization_difference(adata, "arm")
        frame = hc.get.colocalization(adata, "colocalization_difference").set_index(["x", "y"])
        assert frame.loc[("a", "b"), "R"] > 0.5
        assert frame.loc[("a", "b"), "p_adj"] < 0.01
        assert frame.loc[("a", "c"), "p"] > 0.01
        assert frame.columns[:3].tolist() == ["R", "R_x", "R_y"]
        np.testing.assert_allclose(frame["R"], frame["R_x"] - frame["R_y"])
        turned = hc.tl.colocalization_difference(adata, "arm", groups=("y", "x"), inplace=False)
        np.testing.assert_allclose(turned["R"], -adata.uns["colocalization_difference"]["R"])
        np.testing.assert_allclose(turned["p"], adata.uns["colocalization_difference"]["p"])

    def test_results_of_earlier_versions(self, adata):
        """They hold no expectation: R itself was tested."""
        now = hc.tl.colocalization_difference(adata, "arm", inplace=False)
        del adata.uns["colocalization"]["sections"]["expected"]
        before = hc.tl.colocalization_difference(adata, "arm", inplace=False)
        np.testing.assert_allclose(before["p"], now["p"])
        with pytest.raises(ValueError, match="confidence must be a number between 0 and 1, not 95"):
            hc.tl.colocalization_difference(adata, "arm", confidence=95)

    def test_bad_groups(self, adata):
        with pytest.raises(KeyError, match="group z not found"):
            hc.tl.colocalization_difference(adata, "arm", groups=("x", "z"))
        adata.obs["alone"] = np.where(adata.obs["patient"] == "P0", "one", "rest")
        with pytest.raises(ValueError, match="fewer than two patients"):
            hc.tl.colocalization_difference(adata, "alone")
        with pytest.raises(ValueError, match="8 groups"):
            hc.tl.colocalization_difference(adata, "patient")
        adata.obs["mixed"] = np.tile(["u", "v"], adata.n_obs // 2)
        with pytest.raises(ValueError, match="2 levels of .*not one"):
            hc.tl.colocalization_difference(adata, "mixed")


class TestRandomEffects:
    def test_equal_variances_are_a_t_test(self):
        values = np.random.default_rng(0).normal(0.3, 1, size=9)
        mean, error, df = random_effects(values[:, None, None], np.full((9, 1, 1), 1e-6))
        test = stats.ttest_1samp(values, 0)
        assert mean[0, 0] == pytest.approx(values.mean(), rel=1e-4)
        assert mean[0, 0] / error[0, 0] == pytest.approx(test.statistic, rel=1e-3)
        assert df[0, 0] == 8

    def test_calibration(self):
        rng = np.random.default_rng(1)
        for between in (0.0, 0.3):
            variance = rng.uniform(0.01, 0.2, size=(6, 1, 4000))
            values = rng.normal(size=variance.shape) * np.sqrt(variance + between**2)
            mean, error, df = random_effects(values, variance)
            assert 0.03 < np.mean(2 * stats.t.sf(np.abs(mean / error), df) < 0.05) < 0.07

    def test_one_patient_keeps_its_variance(self):
        mean, error, df = random_effects(np.array([[[0.4]]]), np.array([[[0.09]]]))
        assert (mean[0, 0], error[0, 0], df[0, 0]) == (pytest.approx(0.4), pytest.approx(0.3), np.inf)

    def test_missing_values(self):
        values, variance = np.array([0.1, np.nan, 0.3]), np.array([0.01, np.nan, 0.01])
        mean, _, df = random_effects(values, variance)
        assert mean == pytest.approx(0.2)
        assert df == 1
        nothing, *_ = random_effects(np.array([np.nan]), np.array([np.nan]))
        assert np.isnan(nothing)

    def test_patients_average_their_sections(self):
        r = np.array([0.1, 0.3, 0.5])[:, None, None]
        ones = np.ones_like(r)
        estimate, variance, _, n_eff = by_patient(r, ones, 53 * ones, np.array(["A", "A", "B"]))
        np.testing.assert_allclose(estimate.ravel(), [np.arctanh([0.1, 0.3]).mean(), np.arctanh(0.5)])
        np.testing.assert_allclose(variance.ravel(), 1 / 50)
        np.testing.assert_allclose(n_eff.ravel(), 53)
        combined = combine(r, ones, 53 * ones, np.array(["A", "A", "B"]))
        assert combined.n_patients[0, 0] == 2
        assert combined.n_eff[0, 0] == pytest.approx(106)
        low, high = combined.interval(0.95)
        assert low[0, 0] < np.tanh(combined.estimate[0, 0]) < high[0, 0]
