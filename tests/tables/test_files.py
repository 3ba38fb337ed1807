"""Image files of an AnnData: a path that was given once is remembered, for the rows that it was given for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import histocell as hc
from histocell.images.slide_image import open_image
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def section(tissue, tmp_path) -> tuple[ad.AnnData, Path]:
    """One section as an AnnData, and the file of its image."""
    image = open_image(tissue["he"])
    path = tmp_path / "he.png"
    Image.fromarray(image.read(0, 0, *image.shape)).save(path)
    return hc.io.to_anndata(tissue, table_key="table", max_px=0), path


def without(adata: ad.AnnData) -> None:
    del adata.obs["section"]


def two(adata: ad.AnnData) -> None:
    adata.obs["section"] = np.where(np.arange(adata.n_obs) < 10, "left", "right")


def other(adata: ad.AnnData) -> None:
    adata.obs["section"] = "another name"


@pytest.mark.parametrize("before", [None, without, two])
@pytest.mark.parametrize("after", [None, without, two, other])
def test_a_path_is_remembered_whatever_the_sections_are(before, after, section, tissue, tmp_path):
    adata, path = section
    hc.pp.patches(tissue, table_key="table")
    hc.pp.embed_image(tissue, table_key="table")
    if before is not None:
        before(adata)
    hc.pp.patches(adata, image=path)
    if after is not None and (after is not without or "section" in adata.obs):
        after(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad")
    hc.pp.embed_image(adata)
    np.testing.assert_array_equal(adata.obsm["X_morphology"], tissue["table"].obsm["X_morphology"])
    hc.pp.patch_qc(adata)
    assert hc.pl.patches(adata, n=2, rng=0, show=False) is not None
    axes = hc.pl.abundance(adata, "tumour", key="cell_abundance", show=False)
    assert all(len(ax.images) == 1 for ax in np.ravel(axes))


def test_images_by_another_column_than_the_sections(section):
    adata, path = section
    adata.obs["slide"] = np.where(np.arange(adata.n_obs) < 10, "one", "two")
    hc.pp.patches(adata, image={"one": path, "two": path}, library_key="slide")
    hc.pp.embed_image(adata)
    assert [region.name for region in Sections(adata).regions()] == ["one", "two"]
    assert Sections(adata).names == ["P1S1"]
    assert hc.pl.patches(adata, n=2, rng=0, show=False) is not None


def test_the_sections_that_a_table_had_are_remembered_in_parts_of_it(section):
    adata, path = section
    two(adata)
    hc.pp.patches(adata, image=path)
    part = adata[adata.obs["section"] == "right"].copy()
    (region,) = Sections(part).regions()
    assert region.image.path == path


@pytest.mark.parametrize("uns_merge", ["first", "unique", "same"])
def test_no_section_gets_the_path_of_another(uns_merge, section, user_sees):
    adata, path = section
    second = adata.copy()
    second.obs["section"] = "P2S1"
    second.obsm["spatial"] = second.obsm["spatial"] + 3
    hc.pp.patches(adata, image=path)
    hc.pp.patches(second, image=np.zeros((700, 700, 3), np.uint8))
    both = ad.concat({"a": adata, "b": second}, index_unique="-", uns_merge=uns_merge)
    for table in (both, both[both.obs["section"] == "P2S1"].copy()):
        if uns_merge == "first":
            with pytest.raises(ValueError, match="no image for P2S1"):
                hc.pp.embed_image(table)
    if uns_merge == "first":
        with user_sees(
            "Slides", "sections joined, one of them without a known image", ValueError, match="no image for"
        ):
            hc.pp.embed_image(both)


def test_a_section_called_as_a_word_of_ours(section):
    adata, path = section
    for name in ("patches", "table", "slot", "histocell", "files"):
        adata.obs["section"] = name
        hc.pp.patches(adata, image=path)
        (region,) = Sections(adata).regions()
        assert region.image.path == path


def test_paths_of_an_older_file(section):
    adata, path = section
    hc.pp.patches(adata, image=path)
    adata.uns["histocell"]["images"] = f'{{"histocell": "0.0.1", "P1S1": "{path}"}}'
    (region,) = Sections(adata).regions()
    assert region.image.path == path


def test_the_only_library_is_of_sections_that_it_is_not_called_after(section):
    adata, path = section
    two(adata)
    known = {"metadata": {"source_image_path": str(path)}}
    adata.uns["spatial"] = {"V1": known}
    assert [region.image.path for region in Sections(adata).regions()] == [path, path]
    adata.uns["spatial"] = {"left": known}
    with pytest.raises(ValueError, match="no image for right"):
        Sections(adata).regions()
