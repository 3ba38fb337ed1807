from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell._core.keys import read_provenance
from histocell._core.settings import settings
from histocell.datasets import download
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def real(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "data_dir", data_dir)
    return data_dir / "her2st"


def test_one_section(real: Path) -> None:
    sdata = hc.datasets.her2st("C2")
    table = sdata["table"]
    assert table.shape == (187, 15706)
    assert sdata["he"].shape == (3, 9911, 9274)
    assert table.obs["patient"].unique().tolist() == ["C"]
    assert table.obs["mpp"].iloc[0] == pytest.approx(0.69, abs=0.003)
    published = pd.read_csv(real / "C2" / "props_major.tsv", sep="\t", index_col=0)
    abundance = table.obsm["cell_abundance"]
    assert list(abundance) == list(published)
    assert abundance.index.equals(table.obs_names)
    np.testing.assert_allclose(abundance, published.loc[abundance.index], rtol=1e-6)
    np.testing.assert_allclose(abundance.sum(axis=1), 1, atol=1e-4)
    assert read_provenance(table, "cell_abundance")["tier"] == "major"


def test_sections_together(real: Path) -> None:
    sdata = hc.datasets.her2st(["C3", "B4"])
    table = sdata["table"]
    assert table.n_obs == 180 + 283
    assert table.obs_names.is_unique
    assert np.isfinite(table.X.data).all()
    assert table.obs["section"].value_counts().to_dict() == {"B4": 283, "C3": 180}
    alone = hc.datasets.her2st("B4")["table"]
    part = table[table.obs["section"] == "B4", alone.var_names]
    np.testing.assert_array_equal(part.X.toarray(), alone.X.toarray())
    found = {region.name: region for region in Sections(sdata).regions()}
    assert {name: region.image.shape for name, region in found.items()} == {
        "spots-C3": (9936, 9270),
        "spots-B4": (9923, 9272),
    }
    assert set(read_provenance(table, "mpp")) == {"histocell", "spots-C3", "spots-B4"}


@pytest.mark.filterwarnings("ignore:A1 has no image")
def test_labels_and_fine_types(real: Path) -> None:
    with pytest.warns(UserWarning, match="CAFs MSC/iCAF-like"):
        table = hc.datasets.her2st("A1", tier="minor")["table"]
    assert table.obsm["cell_abundance"].shape == (346, 22)
    assert "CAFs MSC_iCAF-like" in table.obsm["cell_abundance"]
    originals = read_provenance(table, "cell_abundance")["original_names"]
    assert originals == {"CAFs MSC_iCAF-like": "CAFs MSC/iCAF-like"}
    assert table.obs["pathologist"].notna().all()
    assert "invasive cancer" in table.obs["pathologist"].cat.categories
    assert table.obs["mpp"].iloc[0] == pytest.approx(0.917, abs=0.003)


def test_section_without_image(real: Path) -> None:
    with pytest.warns(UserWarning, match="C5 has no image|H2 has no image"):
        sdata = hc.datasets.her2st("H2")
    assert not sdata.images
    assert sdata["table"].n_obs == 603


@pytest.mark.parametrize("section", ["Z9", "E4", [], ["C2", "C2"]])
def test_unknown_sections(section: str) -> None:
    with pytest.raises(ValueError, match="A1, A2"):
        hc.datasets.her2st(section)
    assert len(download.SECTIONS) == 36
    with pytest.raises(ValueError, match="major, minor"):
        hc.datasets.her2st("C2", tier="subset")


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def refuse(*_: object, **__: object) -> None:
        msg = "no route to host"
        raise OSError(msg)

    monkeypatch.setattr(settings, "data_dir", tmp_path)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(ConnectionError, match=r"HISTOCELL_DATA_DIR.*her2st/"):
        hc.datasets.her2st("C2")
    with pytest.raises(ConnectionError, match=r"CMU-1-Small-Region.svs is not there.*a folder that holds slides/"):
        hc.datasets.example_slide()


def test_download(tmp_path: Path, real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is asked for once, under the name that the reader looks for."""
    import gzip
    import shutil

    import pooch

    asked = []

    def fetch(url: str, *, fname: str, path: Path, **_: object) -> None:
        asked.append(url)
        path.mkdir(parents=True, exist_ok=True)
        source = real / "C2" / fname.removesuffix(".gz") if fname.startswith("props") else real / "C2" / fname
        if fname.startswith("props"):
            (path / fname).write_bytes(gzip.compress(source.read_bytes()))
        else:
            shutil.copyfile(source, path / fname)

    expected = hc.datasets.her2st("C2")["table"]
    monkeypatch.setattr(settings, "data_dir", tmp_path)
    monkeypatch.setattr(pooch, "retrieve", fetch)
    for _ in range(2):
        sdata = hc.datasets.her2st("C2")
    assert len(asked) == 4
    assert all(url.startswith("https://raw.githubusercontent.com/almaan/her2st/") for url in asked)
    np.testing.assert_array_equal(sdata["table"].obsm["cell_abundance"], expected.obsm["cell_abundance"])


def test_slide(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the data folder is the published one; a download that is not is refused and leaves nothing."""
    import shutil

    import pooch

    monkeypatch.setattr(settings, "data_dir", data_dir)
    kept = hc.datasets.example_slide()
    assert hc.io.slide(kept)["he"].shape == (3, 2967, 2220)
    source = kept

    def fetch(url: str, output_file: str, _: object) -> None:
        assert url.startswith("https://openslide.cs.cmu.edu/")
        shutil.copyfile(source, output_file)

    monkeypatch.setattr(settings, "data_dir", tmp_path)
    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: fetch)
    assert hc.datasets.example_slide().read_bytes() == kept.read_bytes()
    assert hc.datasets.example_slide().parent == tmp_path / "slides"
    hc.datasets.example_slide().unlink()
    source = tmp_path / "page.html"
    source.write_text("please log in")
    with pytest.raises(ConnectionError, match="hash"):
        hc.datasets.example_slide()
    assert not list((tmp_path / "slides").iterdir())
