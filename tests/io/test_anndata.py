from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.sparse import random_array
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import Scale

import histocell as hc
from histocell._core.keys import read_provenance
from histocell.images.slide_image import open_image
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (260, 400)


def make(n_columns: int = 6, n_rows: int = 4, pitch: int = 50, prefix: str = "s") -> ad.AnnData:
    x, y = np.meshgrid(np.arange(n_columns) * pitch + 60, np.arange(n_rows) * pitch + 40)
    xy = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    counts = random_array((len(xy), 5), density=0.5, format="csr", rng=0, dtype=np.float32)
    names = pd.Index([f"{prefix}{i}" for i in range(len(xy))])
    return ad.AnnData(counts, obs=pd.DataFrame({"n": range(len(xy))}, index=names), obsm={"spatial": xy})


@pytest.fixture
def adata() -> ad.AnnData:
    return make()


@pytest.fixture
def image() -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.stack([x // 2, y // 2, (x + y) // 4], axis=-1).astype(np.uint8)


def test_build(adata: ad.AnnData, image: np.ndarray) -> None:
    before = adata.copy()
    sdata = hc.io.from_anndata(adata, image=image, mpp=0.5, spot_diameter_um=10, section="S1")
    table = sdata["table"]
    assert table.uns["spatialdata_attrs"] == {"region": "spots", "region_key": "region", "instance_key": "spot_id"}
    assert table.obs["mpp"].tolist() == [0.5] * 24
    assert table.obs["section"].unique().tolist() == ["S1"]
    assert read_provenance(table, "mpp")["spots"] == [0.5, "argument"]
    assert (sdata["spots"]["radius"] == 10).all()
    (region,) = Sections(sdata).regions()
    np.testing.assert_array_equal(region.centers, adata.obsm["spatial"])
    np.testing.assert_array_equal(region.image.read(10, 20, 60, 90), image[10:60, 20:90])
    assert region.mpp == 0.5
    # the AnnData of the user is as it was, and stays so when the table changes
    table.X.data[:] = -1
    assert adata.obs.columns.tolist() == ["n"]
    assert not adata.uns
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())


def test_mpp_by_argument_then_image_then_pitch(adata: ad.AnnData, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, image, photometric="rgb", resolution=(5000, 5000), resolutionunit="CENTIMETER")
    sdata = hc.io.from_anndata(adata, image=path, spot_pitch_um=100)
    assert read_provenance(sdata["table"], "mpp")["spots"] == [pytest.approx(2), "tiff"]
    with pytest.warns(UserWarning, match="2 by the distance between spots"):
        sdata = hc.io.from_anndata(adata, image=path, spot_pitch_um=100, mpp=0.5)
    assert open_image(sdata["he"]).mpp == pytest.approx(0.5)
    sdata = hc.io.from_anndata(adata, image=image, spot_pitch_um=100)
    assert read_provenance(sdata["table"], "mpp")["spots"] == [pytest.approx(2), "spot pitch"]
    with pytest.raises(ValueError, match=r"resolution of the table is unknown.*mpp=.*spot_pitch_um="):
        hc.io.from_anndata(adata, image=image)


def test_x_and_y_swapped(adata: ad.AnnData, image: np.ndarray) -> None:
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1].copy()
    with pytest.raises(ValueError, match="swapped"):
        hc.io.from_anndata(adata, image=image, mpp=0.5)


def test_spots_outside(adata: ad.AnnData, image: np.ndarray, user_sees) -> None:
    adata.obsm["spatial"][:2] += 1000
    with pytest.warns(UserWarning, match="2 of 24 spots of the table lie outside"):
        sdata = hc.io.from_anndata(adata, image=image, mpp=0.5)
    assert sdata["table"].n_obs == 24
    adata.obsm["spatial"][:13] += 1000
    with user_sees(
        "Slides", "spots mostly outside of their image", ValueError, match="11 of the 24 points of the table lie"
    ):
        hc.io.from_anndata(adata, image=image, mpp=0.5)
    adata.obsm["spatial"] += 5000
    with pytest.raises(ValueError, match="none of the 24"):
        hc.io.from_anndata(adata, image=image, mpp=0.5)


def test_several_libraries(image: np.ndarray) -> None:
    adata = ad.concat({"a/1": make(prefix="a"), "b": make(4, prefix="b")}, label="slide")
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    sdata = hc.io.from_anndata(
        adata, image={"a/1": image, "b": 255 - image}, mpp={"a/1": 0.5, "b": 0.7}, library_key="slide"
    )
    assert set(sdata.images) == {"he-a_1", "he-b"}
    assert set(sdata.coordinate_systems) == {"global-a_1", "um-a_1", "global-b", "um-b"}
    assert sdata["table"].obs_names.tolist() == adata.obs_names.tolist()
    found = {region.name: region for region in Sections(sdata).regions()}
    assert (found["spots-a_1"].mpp, found["spots-b"].mpp) == (0.5, 0.7)
    for name, pixels in (("spots-a_1", image), ("spots-b", 255 - image)):
        np.testing.assert_array_equal(found[name].image.read(0, 0, 9, 9), pixels[:9, :9])
        np.testing.assert_array_equal(found[name].centers, adata.obsm["spatial"][found[name].rows])
    assert sdata["table"].obs["section"].astype(str).tolist() == adata.obs["slide"].astype(str).tolist()
    with pytest.raises(KeyError, match="no entry for 'b'"):
        hc.io.from_anndata(adata, image={"a/1": image}, mpp=0.5, library_key="slide")
    with pytest.raises(KeyError, match="library_key="):
        hc.io.from_anndata(adata, image=image, mpp=0.5, library_key="nothing")
    with pytest.raises(KeyError, match='nothing says which rows lie on which: give library_key="slide"'):
        hc.io.from_anndata(adata, image={"a/1": image, "b": image}, mpp=0.5)
    with pytest.raises(KeyError, match="give library_key=, the column of obs"):
        hc.io.from_anndata(adata, image={"a/1": image, "c": image}, mpp=0.5)
    with pytest.raises(ValueError, match="one image for 2 libraries"):
        hc.io.from_anndata(adata, image=image, mpp=0.5, library_key="slide")


@pytest.mark.parametrize("names", [("a b", "a/b"), ("A", "a"), ("x", "x/")])
def test_libraries_whose_names_become_one_keep_their_images(
    image: np.ndarray, names: tuple[str, str], tmp_path
) -> None:
    first, second = names
    adata = ad.concat({first: make(prefix="a"), second: make(4, prefix="b")}, label="slide")
    sdata = hc.io.from_anndata(adata, image={first: image, second: 255 - image}, mpp=0.5, library_key="slide")
    sdata.write(tmp_path / "s.zarr")
    regions = {region.section: region for region in Sections(read_zarr(tmp_path / "s.zarr")).regions()}
    assert set(regions) == set(names)
    for name, pixels in zip(names, (image, 255 - image), strict=True):
        np.testing.assert_array_equal(regions[name].image.read(0, 0, 9, 9), pixels[:9, :9])
        np.testing.assert_array_equal(regions[name].rows, np.flatnonzero(adata.obs["slide"] == name))


def test_image_that_space_ranger_names(adata: ad.AnnData, image: np.ndarray, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "he.tif", image, photometric="rgb")
    adata.uns["spatial"] = {
        "lib": {
            "metadata": {"source_image_path": str(tmp_path / "he.tif")},
            "scalefactors": {"spot_diameter_fullres": 30.0, "tissue_hires_scalef": 0.5},
            "images": {"hires": image[::2, ::2] / 255},
        }
    }
    sdata = hc.io.from_anndata(adata, mpp=0.5)
    assert open_image(sdata["he"]).shape == SHAPE
    assert sdata["spots"]["radius"].iloc[0] == 15

    (tmp_path / "he.tif").unlink()
    with pytest.warns(UserWarning, match="one of its px is 2 full-resolution px"):
        sdata = hc.io.from_anndata(adata, mpp=0.5)
    he = open_image(sdata["he"])
    assert he.shape == (130, 200)
    assert he.mpp == pytest.approx(1.0)
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], adata.obsm["spatial"] / 2)
    np.testing.assert_array_equal(he.read(0, 0, 130, 200), image[::2, ::2])
    factors = sdata["table"].uns["spatial"]["lib"]["scalefactors"]
    assert factors == {"spot_diameter_fullres": 15, "tissue_hires_scalef": 1}
    assert adata.uns["spatial"]["lib"]["scalefactors"]["tissue_hires_scalef"] == 0.5


def test_section_is_always_there(adata: ad.AnnData, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "B4.ome.tif"
    tifffile.imwrite(path, image, photometric="rgb")
    cases = {"section": {"image": image}, "B4": {"image": path}, "S": {"image": path, "section": "S"}}
    for label, options in cases.items():
        assert set(hc.io.from_anndata(adata, mpp=0.5, **options)["table"].obs["section"]) == {label}
    adata.obs["section"] = ["left"] * 12 + ["right"] * 12
    assert hc.io.from_anndata(adata, mpp=0.5, image=path)["table"].obs["section"].tolist()[11:13] == ["left", "right"]


def test_without_image(adata: ad.AnnData) -> None:
    with pytest.warns(UserWarning, match="no image for the table"):
        sdata = hc.io.from_anndata(adata, spot_pitch_um=200)
    assert not sdata.images
    assert sdata["table"].obs["mpp"].iloc[0] == pytest.approx(4)


def test_columns_of_the_user_are_kept(adata: ad.AnnData, image: np.ndarray) -> None:
    adata.obs["region"] = ["cortex"] * adata.n_obs
    sdata = hc.io.from_anndata(adata, image=image, mpp=0.5)
    assert (sdata["table"].obs["region"] == "cortex").all()
    assert sdata["table"].uns["spatialdata_attrs"]["region_key"] == "histocell_region"


def test_no_coordinates(image: np.ndarray) -> None:
    adata = ad.AnnData(np.ones((3, 2), dtype=np.float32))
    with pytest.raises(KeyError, match=r'obsm\["spatial"\] not found'):
        hc.io.from_anndata(adata, image=image, mpp=1.0)


def test_there_and_back(adata: ad.AnnData, image: np.ndarray, tmp_path: Path) -> None:
    sdata = hc.io.from_anndata(adata, image=image, mpp=0.5)
    sdata.write(tmp_path / "s.zarr")
    sdata = read_zarr(tmp_path / "s.zarr")
    np.testing.assert_array_equal(open_image(sdata["he"]).read(10, 20, 60, 90), image[10:60, 20:90])
    assert open_image(sdata["he"]).mpp == 0.5
    back = hc.io.to_anndata(sdata, max_px=200)
    np.testing.assert_array_equal(back.obsm["spatial"], adata.obsm["spatial"])
    entry = back.uns["spatial"]["section"]
    assert entry["images"]["hires"].shape == (130, 200, 3)
    assert entry["scalefactors"]["tissue_hires_scalef"] == 0.5
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(25)
    back.write_h5ad(tmp_path / "a.h5ad")
    again = hc.io.from_anndata(ad.read_h5ad(tmp_path / "a.h5ad"), image=image)
    assert again["table"].obs["mpp"].iloc[0] == 0.5
    assert again["table"].uns["spatialdata_attrs"]["region_key"] == "region"


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
class TestBadInput:
    def test_no_rows(self, adata: ad.AnnData, image: np.ndarray, user_sees) -> None:
        with user_sees("Tables", "a table without rows", ValueError, match="no rows"):
            hc.io.from_anndata(adata[:0].copy(), image=image, mpp=0.5)

    def test_lengths(self, adata: ad.AnnData, image: np.ndarray, user_sees) -> None:
        with user_sees(
            "Tables", "a resolution as text", TypeError, match="must be a number .um per full-resolution px., not '0.5'"
        ):
            hc.io.from_anndata(adata, image=image, mpp="0.5")
        for options, error in (
            ({"mpp": {"the table": "0.5"}}, TypeError),
            ({"mpp": [0.5]}, TypeError),
            ({"mpp": True}, TypeError),
            ({"mpp": -0.5}, ValueError),
            ({"spot_pitch_um": "100"}, TypeError),
            ({"mpp": 0.5, "spot_diameter_um": "50"}, TypeError),
            ({"mpp": 0.5, "spot_diameter_um": -5}, ValueError),
        ):
            with pytest.raises(error, match="must be a (positive )?number|gives -0.5 um per px"):
                hc.io.from_anndata(adata, image=image, **options)
        sdata = hc.io.from_anndata(adata, image=image, mpp=np.float32(0.5))
        with pytest.raises(TypeError, match="must be a number .um per full-resolution px., not '0.5'"):
            hc.pp.patches(sdata, mpp="0.5")

    def test_names(self, adata: ad.AnnData, image: np.ndarray, user_sees) -> None:
        adata.obs_names = ["s0", "s0", *adata.obs_names[2:]]
        with user_sees("Tables", "rows of one name", ValueError, match=r"have the name of another \(s0\)"):
            hc.io.from_anndata(adata, image=image, mpp=0.5)

    def test_names_that_libraries_share_are_told_apart(self, image: np.ndarray) -> None:
        adata = ad.concat({"A": make(), "B": make()}, label="slide")
        sdata = hc.io.from_anndata(adata, image={"A": image, "B": image}, mpp=0.5, library_key="slide")
        np.testing.assert_array_equal(sdata["table"].obsm["spatial"], adata.obsm["spatial"])

    def test_several_resolutions_of_one_image(self, adata: ad.AnnData, image: np.ndarray, user_sees) -> None:
        adata.obs["mpp"] = [0.5] * 12 + [0.7] * 12
        given = "several resolutions among the rows of one image"
        with user_sees("Tables", given, ValueError, match=r"several values \(0.5, 0.7\)"):
            hc.io.from_anndata(adata, image=image, spot_pitch_um=100)
        assert set(hc.io.from_anndata(adata, image=image, mpp=0.5)["table"].obs["mpp"]) == {0.5}

    def test_a_resolution_in_words(self, adata: ad.AnnData, image: np.ndarray, user_sees) -> None:
        adata.obs["mpp"] = "half"
        with user_sees(
            "Tables", 'obs["mpp"] in words', ValueError, match="must hold numbers, um per px; it holds half"
        ):
            hc.io.from_anndata(adata, image=image)


class TestLibraries:
    """`to_anndata` calls libraries after their sections, so that scanpy, squidpy and `anndata.concat` find them."""

    def test_concatenated_sections_keep_their_images(self, tissue, tmp_path) -> None:
        import matplotlib.pyplot as plt
        import scanpy as sc
        import squidpy as sq

        plt.close("all")
        parts = {}
        for name in ("P1S1", "P2S1"):
            tissue["table"].obs["section"] = pd.Categorical([name] * tissue["table"].n_obs)
            parts[name] = hc.io.to_anndata(tissue, table_key="table", max_px=350)
            assert list(parts[name].uns["spatial"]) == [name]
        both = ad.concat(parts, index_unique="-", uns_merge="unique")
        assert set(both.uns["spatial"]) == {"P1S1", "P2S1"}
        both.write_h5ad(tmp_path / "both.h5ad")
        both = ad.read_h5ad(tmp_path / "both.h5ad")
        both.obs["tumour"] = both.obsm["cell_abundance"]["tumour"].to_numpy()
        axes = sq.pl.spatial_scatter(both, library_key="section", color="tumour", return_ax=True)
        assert len(axes) == 2
        one = both[both.obs["section"] == "P1S1"].copy()
        (ax,) = sc.pl.spatial(one, library_id="P1S1", color="tumour", show=False)
        assert ax.images[0].get_array().shape[:2] == (350, 350)
        plt.close("all")

    def test_several_sections_there_and_back(self, cohort) -> None:
        adata = hc.io.to_anndata(cohort)
        assert list(adata.uns["spatial"]) == list(dict.fromkeys(cohort["table"].obs["section"]))
        back = hc.io.from_anndata(adata)
        assert len(back.images) == 4
        np.testing.assert_allclose(back["table"].obsm["spatial"], adata.obsm["spatial"])
        again = hc.io.to_anndata(back)
        pd.testing.assert_frame_equal(again.obs[["section", "mpp"]], adata.obs[["section", "mpp"]])
        for name, entry in adata.uns["spatial"].items():
            np.testing.assert_array_equal(again.uns["spatial"][name]["images"]["hires"], entry["images"]["hires"])
            for factor, value in entry["scalefactors"].items():
                assert again.uns["spatial"][name]["scalefactors"][factor] == pytest.approx(value)

    def test_one_section_of_several(self, cohort) -> None:
        """Its rows alone are taken; `uns["spatial"]` of a subset still holds the others."""
        adata = hc.io.to_anndata(cohort)
        part = adata[adata.obs["section"] == "P2S1"].copy()
        back = hc.io.from_anndata(part)
        np.testing.assert_array_equal(back["he"], cohort["he-P2S1"])
        assert set(back["table"].obs["section"]) == {"P2S1"}
        np.testing.assert_allclose(back["table"].obsm["spatial"], part.obsm["spatial"])

    def test_the_file_of_an_image_goes_along(self, adata: ad.AnnData, image: np.ndarray, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "he.tif", image, photometric="rgb")
        sdata = hc.io.from_anndata(adata, image=tmp_path / "he.tif", mpp=0.5, section="S1")
        back = hc.io.to_anndata(sdata, max_px=100)
        again = hc.io.from_anndata(back)
        assert again["he"].shape == (3, *SHAPE)
        np.testing.assert_array_equal(again["table"].obsm["spatial"], sdata["table"].obsm["spatial"])
        hc.pp.patches(back, size_um=20)
        hc.pp.patch_qc(back)
        assert np.isfinite(back.obs["focus"]).all()

    def test_names_that_no_file_can_hold(self, tissue, tmp_path) -> None:
        tissue["table"].obs["section"] = pd.Categorical(["a/b"] * tissue["table"].n_obs)
        adata = hc.io.to_anndata(tissue, table_key="table", max_px=100)
        assert list(adata.uns["spatial"]) == ["spots"]
        adata.write_h5ad(tmp_path / "a.h5ad")

    @pytest.mark.filterwarnings("ignore:.*in rows of different slides")
    def test_regions_that_share_a_section_are_called_by_their_names(self, cohort) -> None:
        cohort["table"].obs["section"] = pd.Categorical(["one"] * cohort["table"].n_obs)
        adata = hc.io.to_anndata(cohort, max_px=100)
        assert list(adata.uns["spatial"]) == list(dict.fromkeys(cohort["table"].obs["region"]))

    def test_a_thumbnail_is_drawn_under_tiles(self, tissue) -> None:
        slide = SpatialData(images={"he": tissue["he"]})
        hc.pp.tiles(slide, size_um=56)
        expected = hc.io.to_anndata(slide)
        small = open_image(slide["he"]).thumbnail(175)
        systems = {"global": Scale([4, 4], ("x", "y")), "um": Scale([2, 2], ("x", "y"))}
        del slide.images["he"]
        pixels = np.moveaxis(small, -1, 0)
        slide.images["thumbnail"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=systems)
        adata = hc.io.to_anndata(slide)
        np.testing.assert_array_equal(adata.obsm["spatial"], expected.obsm["spatial"])
        assert set(adata.obs["mpp"]) == {0.5}
        (entry,) = adata.uns["spatial"].values()
        assert entry["images"]["hires"].shape == (175, 175, 3)
        assert entry["scalefactors"] == pytest.approx({"tissue_hires_scalef": 0.25, "spot_diameter_fullres": 112.0})
