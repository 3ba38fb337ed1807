"""The probe over HEST-Bench's folder and over a cohort, against a naive loop; and what it refuses."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import histocell as hc
from histocell import metrics
from histocell.bench.probing import hest_folder
from histocell.encoders import registry

GENES = [f"G{i}" for i in range(5)]
pytestmark = pytest.mark.filterwarnings("ignore:.* components, as there are no 256")


def naive(train, test, n_components=30):
    X, Y = (np.concatenate([each[k] for each in train]).astype(np.float64) for k in (0, 1))
    X_test, Y_test = (np.concatenate([each[k] for each in test]).astype(np.float64) for k in (0, 1))
    reduce = make_pipeline(StandardScaler(), PCA(n_components, svd_solver="full"))
    T = reduce.fit_transform(X)
    ridge = Ridge(100 / (T.shape[1] * Y.shape[1]), fit_intercept=False, solver="cholesky").fit(T, Y)
    return metrics.pearson(Y_test, ridge.predict(reduce.transform(X_test)))


def test_a_folder_of_hest_bench(hest):
    bench, given, arrays = hest.bench, hest.given, hest.arrays
    scores = hc.bench.probe(bench, given, n_bootstrap=50)
    first = scores[scores["task"] == "IDC"]
    values = []
    for name in arrays:
        expected = naive([arrays[other] for other in arrays if other != name], [arrays[name]])
        mine = first[(first["group"] == name)].set_index("gene")
        np.testing.assert_allclose(mine.loc[GENES, "value"], expected, atol=1e-6)  # targets are float32
        assert mine.loc["mean", "value"] == pytest.approx(expected.mean(), abs=1e-6)
        assert mine["n_spots"].unique() == len(arrays[name][0])
        values.append(expected.mean())
    total = first.query("group == 'all' and gene == 'mean'").iloc[0]
    assert total["value"] == pytest.approx(np.mean(values), abs=1e-6)
    assert (total["interval"], total["low"]) == ("range of 3 groups", pytest.approx(min(values), abs=1e-6))
    means = scores.query("group == 'all' and gene == 'mean'").set_index("task")["value"]
    assert means["all"] == pytest.approx((means["IDC"] + means["SKCM"]) / 2)
    assert (scores["metric"] == "pearson").all()
    assert hc.bench.probe(bench / "SKCM", given, n_bootstrap=50)["task"].unique() == "SKCM"


def test_protocols_and_encoders_side_by_side(hest, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", {})
    bench, given = hest.bench, hest.given
    names = ["hest", "hest-cv", "hest-no-pca", "hest-cv-no-pca"]
    small = hc.encoders.EncoderSpec(
        name="small", library="timm", arch="vit_tiny_patch16_224", input_px=32, arch_kwargs={"img_size": 32, "depth": 1}
    )
    hc.encoders.register(small)
    encoder = hc.encoders.load("small", weights="random", device="cpu")
    scores = hc.bench.probe(bench, {**given, "small": encoder}, protocol=names, tasks="SKCM", n_bootstrap=50)
    assert list(scores["model"].unique()) == names
    assert list(scores["features"].unique()) == ["given", "small"]
    means = scores.query("group == 'all' and gene == 'mean'").set_index(["features", "model"])["value"]
    assert means["given", "hest"] > 0.15 > abs(means["small", "hest"])  # noise of random images
    # one training sample: the penalty is chosen on stretches of it
    chosen = scores.query("model == 'hest-cv' and features == 'given' and group == 'SKCM0'")["alpha"].iloc[0]
    assert chosen != 100 / (30 * 5)


def test_genes_by_name_and_compare(cohort):
    cohort["table"].obsm["X_noise"] = np.random.default_rng(0).normal(size=(cohort["table"].n_obs, 20))
    scores = hc.bench.probe(cohort, protocol="hest-cv", genes=10, n_bootstrap=50)
    assert set(scores["features"]) == {"X_morphology", "X_noise"}
    assert scores["gene"].nunique() == 11
    with pytest.warns(UserWarning, match="too few for a test"):
        tests = hc.bench.compare(scores, ("hest-cv", "X_noise"), cell_type="mean", n_bootstrap=50)
    assert tests["difference"].item() > 0.1
    assert tests["n_groups"].item() == 4
    abundance = hc.bench.probe(cohort, "morphology", target="cell_abundance", n_bootstrap=50)
    assert set(abundance["gene"]) == {*cohort["table"].obsm["cell_abundance"].columns, "mean"}
    both = scores.assign(task="a"), scores.assign(task="b")
    with pytest.raises(ValueError, match="the table holds 2 tasks; choose one"):
        hc.bench.compare(pd.concat(both))


def test_a_killed_run_repeats_no_finished_sample(hest, tmp_path, monkeypatch, user_sees):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._registry()))
    small = hc.encoders.EncoderSpec(name="small", library="timm", arch="resnet10t", license="MIT", input_px=32)
    hc.encoders.register(small)
    encoder = hc.encoders.load("small", weights="random", device="cpu")
    without = hc.bench.probe(hest.bench, encoder, tasks="IDC", n_bootstrap=20)
    options = {"tasks": "IDC", "n_bootstrap": 20, "store": tmp_path / "store"}
    embedded, encode = [], hest_folder.encode

    def killed_in_the_third(encoder, images):
        if len(embedded) == 2:
            raise KeyboardInterrupt
        embedded.append(len(images))
        return encode(encoder, images)

    monkeypatch.setattr(hest_folder, "encode", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        hc.bench.probe(hest.bench, encoder, **options)
    assert embedded == [60, 80]
    again = []
    monkeypatch.setattr(
        hest_folder, "encode", lambda encoder, images: again.append(len(images)) or encode(encoder, images)
    )
    for expected in ([40], []):  # the third sample, then none
        again.clear()
        pd.testing.assert_frame_equal(hc.bench.probe(hest.bench, encoder, **options), without)
        assert again == expected
    other = hc.encoders.load("small", weights="random", rng=1, device="cpu")
    with user_sees("Probes", "a store with embeddings of other weights", ValueError, match="holds features of other"):
        hc.bench.probe(hest.bench, other, **options)
    hest.write_sample(hest.bench / "IDC", "IDC1", np.random.default_rng(9), n=60)
    with pytest.raises(ValueError, match="patches is .*, now "):
        hc.bench.probe(hest.bench, encoder, **options)
    with pytest.raises(ValueError, match="store= keeps what encoders embed"):
        hc.bench.probe(hest.bench, hest.given, **options)


def test_a_constant_gene_is_stated_and_not_averaged_away(hest, user_sees):
    bench, given = hest.bench, hest.given
    rng = np.random.default_rng(5)
    hest.write_sample(bench / "IDC", "IDC1", rng, n=60, constant=[4 - 2])
    match = r"IDC, given: G2 or the prediction of it is constant in fold 'IDC1'.*would be NaN"
    with user_sees("Probes", "a gene that is constant in a test fold", UserWarning, match=match):
        scores = hc.bench.probe(bench, given, tasks="IDC", n_bootstrap=50)
    fold = scores[scores["group"] == "IDC1"].set_index("gene")
    assert np.isnan(fold.loc["G2", "value"])
    assert fold.loc["mean", "n_undefined"] == 1
    assert fold.loc["mean", "value"] == pytest.approx(fold.loc[["G0", "G1", "G3", "G4"], "value"].mean())
    assert scores.query("group == 'all' and gene == 'G2'")["n_undefined"].item() == 1


def test_folders_that_are_none(hest, user_sees):
    bench, given = hest.bench, hest.given
    with user_sees("Probes", "a folder without splits", FileNotFoundError, match="no task in"):
        hc.bench.probe(given["given"], given)
    with pytest.raises(FileNotFoundError, match="tasks COAD are not in .*; there are IDC, SKCM"):
        hc.bench.probe(bench, given, tasks="COAD")
    (bench / "IDC" / "splits" / "test_1.csv").rename(bench / "test_1.csv")
    with pytest.raises(FileNotFoundError, match=r"test_1\.csv not found; every train"):
        hc.bench.probe(bench, given)
    pd.DataFrame({"sample_id": ["IDC1"]}).to_csv(bench / "IDC" / "splits" / "test_1.csv")
    with pytest.raises(ValueError, match="has no column patches_path, expr_path"):
        hc.bench.probe(bench, given)


def test_samples_and_genes_that_are_missing(hest, user_sees):
    bench, given = hest.bench, hest.given
    (bench / "SKCM" / "adata" / "SKCM1.h5ad").unlink()
    with pytest.raises(FileNotFoundError, match=r"sample 'SKCM1' of 'SKCM' needs .*SKCM1\.h5ad, which is not there"):
        hc.bench.probe(bench, given)
    (given["given"] / "IDC" / "IDC2.h5").rename(given["given"] / "IDC2.away")
    with user_sees(
        "Probes", "embeddings of a sample are not there", FileNotFoundError, match="no embeddings of 'given' for"
    ):
        hc.bench.probe(bench, given, tasks="IDC")
    (given["given"] / "IDC2.away").rename(given["given"] / "IDC" / "IDC2.h5")
    match = "1 of the 2 genes of the panel are not in sample 'IDC1': NOPE"
    with user_sees("Probes", "a gene that a sample lacks", KeyError, match=match):
        hc.bench.probe(bench, given, tasks="IDC", genes=["G1", "NOPE"])
    (bench / "IDC" / "var_50genes.json").write_text('{"genes": 3}')
    with pytest.raises(ValueError, match="var_50genes.json must be"):
        hc.bench.probe(bench, given, tasks="IDC")


def test_patients_on_both_sides(hest, user_sees):
    bench, given, arrays = hest.bench, hest.given, hest.arrays
    with user_sees("Probes", "a patient on both sides of a fold", ValueError, match="P lies on both sides of fold"):
        hc.bench.probe(bench, given, tasks="IDC", patients={"IDC0": "P", "IDC1": "P"})
    hest.write_splits(bench / "IDC", [(list(arrays), ["IDC0"])])
    with pytest.raises(ValueError, match="IDC0 lies on both sides of fold 'IDC0'"):
        hc.bench.probe(bench, given, tasks="IDC")


def test_rows_that_do_not_match(hest, user_sees):
    bench, given = hest.bench, hest.given
    path = given["given"] / "IDC" / "IDC0.h5"
    shutil.copy(path, path.with_suffix(".copy"))
    with h5py.File(path, "a") as file:
        barcodes = file["barcodes"][:]
        barcodes[3] = b"other"
        file["barcodes"][...] = barcodes
    with user_sees(
        "Probes", "embeddings of other barcodes", ValueError, match="has no embedding of 1 of the 40 patches"
    ):
        hc.bench.probe(bench, given, tasks="IDC")
    with h5py.File(path, "a") as file:
        del file["barcodes"]
        file["barcodes"] = barcodes[:-2]
    with pytest.raises(ValueError, match="has 40 embeddings and 38 barcodes"):
        hc.bench.probe(bench, given, tasks="IDC")
    shutil.copy(path.with_suffix(".copy"), path)
    with h5py.File(path, "a") as file:
        values = file["embeddings"][:]
        values[2, 2] = np.nan
        file["embeddings"][...] = values
    match = "embeddings of 'given' are NaN or infinite in 1 of 40 rows of sample 'IDC0'"
    with user_sees("Probes", "embeddings with NaN", ValueError, match=match):
        hc.bench.probe(bench, given, tasks="IDC")
    shutil.copy(path.with_suffix(".copy"), path)
    table = bench / "IDC" / "adata" / "IDC0.h5ad"
    adata = read_h5ad(table)
    adata[5:].write_h5ad(table)
    with pytest.raises(ValueError, match=r"barcodes of the patches of 'IDC0' are not in IDC0\.h5ad"):
        hc.bench.probe(bench, given, tasks="IDC")
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(table)
    with user_sees("Probes", "normalised counts", ValueError, match="does not hold raw counts"):
        hc.bench.probe(bench, given, tasks="IDC")


def test_cohorts_that_cannot_be_probed(cohort):
    table = cohort["table"]
    with pytest.raises(KeyError, match="X_uni"):
        hc.bench.probe(cohort, "X_uni")
    table.obs["half"] = np.where(np.arange(table.n_obs) % 2, "a", "b")
    with pytest.raises(ValueError, match="holds 2 levels"):
        hc.bench.probe(cohort, group_key="half")
    table.obs["fold"] = table.obs["section"].astype(str)
    table.obs["person"] = np.where(table.obs["section"] == table.obs["section"].unique()[0], "A", "B")
    with pytest.raises(ValueError, match=r"B lies in several folds of obs\[\"fold\"\]"):
        hc.bench.probe(cohort, group_key="person", fold_key="fold")
    table.obs["one"] = "x"
    with pytest.raises(ValueError, match="and there is one"):
        hc.bench.probe(cohort, fold_key="one")
    with pytest.raises(ValueError, match="protocol must be of hest, hest-cv"):
        hc.bench.probe(cohort, protocol="ridge")
    with pytest.raises(ValueError, match="tasks= is for a folder of HEST-Bench"):
        hc.bench.probe(cohort, tasks="IDC")
    table.obsm["X_morphology"][:7] = np.nan
    with pytest.warns(UserWarning, match="7 of .* rows are left out"):
        hc.bench.probe(cohort, genes=5, n_bootstrap=20)


def test_a_list_of_genes_as_json(hest):
    bench, given = hest.bench, hest.given
    (bench / "IDC" / "var_50genes.json").write_text(json.dumps(GENES))
    hc.bench.probe(bench, given, tasks="IDC", n_bootstrap=20)
