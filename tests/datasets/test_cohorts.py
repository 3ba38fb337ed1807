from __future__ import annotations

import fnmatch
import logging
import re
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile

import histocell as hc
from histocell.datasets.cohorts import COHORTS

if TYPE_CHECKING:
    from pathlib import Path

HER2ST = [patient for patient, n in zip("ABCDEFGH", (6, 6, 6, 6, 3, 3, 3, 3), strict=True) for _ in range(n)]
STNET = [f"BC{23_000 + number // 3}" for number in range(68)]  # 22 patients of three sections, one of two
STUDY = "Spatial deconvolution, or so"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cohort of five samples, and the patients of them."""
    cohort = COHORTS["her2st"]._replace(first=150, n_patients=3, n_spots=20)
    monkeypatch.setitem(COHORTS, "small", cohort)
    return ["A", "A", "B", "B", "C"]


def write_cohort(
    folder: Path, name: str, patients: list[str | None], *, n_spots: int = 4, slides: bool = False
) -> None:
    """Samples in the layout of HEST-1k, each with a gene of its own, described in the table of samples alone."""
    samples = COHORTS[name].samples[::-1]  # as there: the last number is the first section
    for part in ("st", "wsis"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(samples):
        xy = np.column_stack([np.arange(n_spots) * 290.0 + 200, np.full(n_spots, 250.0)])
        counts = np.full((n_spots, 3), number + 1.0)
        adata = ad.AnnData(counts, obs=pd.DataFrame(index=[f"{i}x1" for i in range(n_spots)]), obsm={"spatial": xy})
        adata.var_names = ["B", f"G{number}", "A"]
        adata.write_h5ad(folder / "st" / f"{sample}.h5ad")
        if slides and number == 0:
            pixels = np.zeros((500, 290 * n_spots + 200, 3), np.uint8)
            tifffile.imwrite(folder / "wsis" / "slide.tif", pixels, tile=(256, 256), photometric="rgb")
        if slides:
            (folder / "wsis" / f"{sample}.tif").symlink_to(folder / "wsis" / "slide.tif")
    table = pd.DataFrame({"id": samples, "dataset_title": STUDY, "patient": patients})
    table["subseries"] = [f"S{number}" for number in range(len(samples))]
    table = table.assign(inter_spot_dist=200, spot_diameter=100, pixel_size_um_estimated=0.69)
    table.to_csv(folder / "HEST_v1_1_0.csv", index=False)


@pytest.mark.parametrize(("name", "patients"), [("her2st", HER2ST), ("stnet", STNET)])
def test_patients_of_a_cohort(name: str, patients: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cohort(tmp_path / "hest", name, patients, slides=True)
    monkeypatch.setattr(hc.settings, "data_dir", tmp_path)
    n_samples = len(COHORTS[name].samples)
    with pytest.warns(UserWarning, match=rf"{name}: {n_samples} of {n_samples} samples, .* where HEST-1k 1.1.0 has"):
        sdata = hc.datasets.hest_cohort(name)
    table = sdata["table"]
    assert (len(sdata.images), table.n_obs) == (n_samples, 4 * n_samples)
    per_patient = table.obs.groupby("patient", observed=True)["section"].nunique()
    assert per_patient.to_dict() == pd.Series(patients).value_counts().to_dict()
    first = table[table.obs["section"] == COHORTS[name].samples[-1]]
    assert set(first.obs["subseries"]) == {"S0"}
    assert set(first.obs["patient"]) == {patients[0]}


def test_counts_stay_with_their_genes_and_spots(small: list[str], tmp_path: Path) -> None:
    write_cohort(tmp_path, "small", small, slides=True)
    table = hc.datasets.hest_cohort("small", path=tmp_path)["table"]
    assert table.X.has_canonical_format
    for number, sample in enumerate(COHORTS["small"].samples[::-1]):
        rows = table[table.obs["section"] == sample].to_df()
        expected = pd.Series(0.0, index=table.var_names)
        expected[["A", "B", f"G{number}"]] = number + 1
        assert (rows == expected).all(axis=None)
        assert rows.shape == (4, 7)


def test_whole_cohort_is_told_without_a_warning(
    small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_cohort(tmp_path, "small", small, slides=True)
    with caplog.at_level(logging.INFO, logger="histocell"):
        hc.datasets.hest_cohort("small", path=tmp_path)
    assert "small: 5 of 5 samples, 3 patients, 20 spots" in caplog.text


def test_metadata_without_patients_are_noticed(small: list[str], tmp_path: Path) -> None:
    write_cohort(tmp_path, "small", [None] * len(small), slides=True)
    with pytest.warns(UserWarning, match="5 of 5 samples, 1 patients, 20 spots, where HEST-1k 1.1.0 has 3 patients"):
        hc.datasets.hest_cohort("small", path=tmp_path)


def test_missing_samples(small: list[str], tmp_path: Path) -> None:
    write_cohort(tmp_path, "small", small, slides=True)
    for sample in ("SPA151", "SPA152"):
        (tmp_path / "st" / f"{sample}.h5ad").unlink()
    with pytest.raises(FileNotFoundError, match=r"5 samples, 3 of them in .*/st; missing: SPA151, SPA152\. Ask"):
        hc.datasets.hest_cohort("small", path=tmp_path)
    with pytest.warns(
        UserWarning, match=r"3 of 5 samples, 2 patients, 12 spots of 3 patients and 20 spots.*SPA151, SPA152"
    ):
        sdata = hc.datasets.hest_cohort("small", path=tmp_path, partial=True)
    assert sdata["table"].obs["section"].cat.categories.tolist() == ["SPA150", "SPA153", "SPA154"]


def test_slides_that_are_missing_are_counted_once(small: list[str], tmp_path: Path) -> None:
    write_cohort(tmp_path, "small", small, slides=True)
    for sample in ("SPA151", "SPA152"):
        (tmp_path / "wsis" / f"{sample}.tif").unlink()
    with pytest.warns(
        UserWarning, match=r"2 of 5 samples have neither a slide .* nor patches .*: SPA151, SPA152"
    ) as seen:
        hc.datasets.hest_cohort("small", path=tmp_path)
    assert len([each for each in seen if each.category is UserWarning]) == 1


@pytest.mark.parametrize("name", ["her2st", "stnet"])
def test_command_brings_the_cohort_and_nothing_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hc.settings, "data_dir", tmp_path)
    with pytest.raises(FileNotFoundError) as raised:
        hc.datasets.hest_cohort(name, partial=True)
    message = str(raised.value)
    assert f'--local-dir "{tmp_path / "hest"}"' in message
    patterns = re.findall(r'"([^" ]+\*[^" ]*)"', message.partition("--include")[2])
    for part, ending in (("st", "h5ad"), ("wsis", "tif"), ("metadata", "json"), ("thumbnails", "jpg")):
        taken = [
            f"SPA{number}"
            for number in range(1, 1000)
            if any(fnmatch.fnmatch(f"{part}/SPA{number}.{ending}", pattern) for pattern in patterns)
        ]
        assert taken == ([] if part == "thumbnails" else COHORTS[name].samples)


def test_unknown_cohort() -> None:
    with pytest.raises(ValueError, match="no cohort 'xenium'; available: her2st, stnet"):
        hc.datasets.hest_cohort("xenium")
