from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from spatialdata import SpatialData, match_table_to_element, read_zarr

import histocell as hc
from histocell._core import keys
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLIDE = "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def wsi(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real slide that LazySlide tiled and embedded; the features are the mean colours of the tiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazyslide = pytest.importorskip("lazyslide")
        wsidata = pytest.importorskip("wsidata")
        folder = tmp_path_factory.mktemp("lazyslide")
        shutil.copy(data_dir / "slides" / SLIDE, folder)
        wsi = wsidata.open_wsi(folder / SLIDE)
        lazyslide.pp.find_tissues(wsi)
        lazyslide.pp.tile_tissues(wsi, 128, mpp=1.0)
        lazyslide.tl.feature_extraction(
            wsi, lambda images: images.float().mean(dim=(1, 2)), model_name="colour", device="cpu", pbar=False
        )
        wsi.write()
        yield wsi
        wsi.close()


def check_features(sdata: SpatialData) -> None:
    """The embedding of each row is the colour of the slide in the window of the row."""
    table = sdata["tile_table"]
    image = open_image(sdata["he"])
    colours = [image.read(*window).mean(axis=(0, 1)) for window in table.obsm["patches"]]
    np.testing.assert_allclose(table.obsm["X_colour"], colours, atol=1.0)
    assert np.ptp(colours, axis=0).min() > 20


@pytest.mark.parametrize("form", ["store", "object"])
def test_a_real_store(wsi: Any, form: str, tmp_path: Path) -> None:
    sdata = hc.io.lazyslide(wsi.wsi_store if form == "store" else wsi)
    theirs, table = wsi.shapes["tiles"], sdata["tile_table"]
    assert table.obs["tile_id"].tolist() == theirs["tile_id"].tolist()
    assert len(table) > 10
    np.testing.assert_array_equal(table.obsm["patches"][:, [1, 0, 3, 2]], theirs.geometry.bounds.to_numpy())
    np.testing.assert_allclose(table.obsm["spatial"], np.column_stack([theirs.centroid.x, theirs.centroid.y]))
    np.testing.assert_array_equal(table.obsm["X_colour"], wsi.tables["colour_tiles"].X)
    assert table.obsm["X_colour"].dtype == np.float32
    assert set(table.obs["section"]) == {SLIDE.removesuffix(".svs")}
    check_features(sdata)
    assert set(table.obs["mpp"]) == {0.499}
    facts = keys.read_provenance(table, "X_colour")
    assert (facts["encoder"], facts["library"], facts["mpp"]) == ("colour", "lazyslide", 1.0)
    assert keys.read_provenance(table, "patches")["size_um"] == pytest.approx(128, abs=0.5)
    sdata.validate_table_in_spatialdata(table)
    assert match_table_to_element(sdata, "tiles", "tile_table").n_obs == len(theirs)
    hc.pp.embed_image(sdata, "morphology")
    assert np.isfinite(table.obsm["X_morphology"]).all()
    sdata.write(tmp_path / "ours.zarr")
    again = read_zarr(tmp_path / "ours.zarr")
    np.testing.assert_array_equal(again["tile_table"].obsm["X_colour"], table.obsm["X_colour"])
    assert again.attrs["tile_spec"]["tiles"]["mpp"] == 1.0


def test_features_are_joined_by_tile(wsi: Any) -> None:
    mixed = wsi.to_spatialdata()
    rows = np.random.default_rng(0).permutation(mixed["colour_tiles"].n_obs)[2:]
    mixed = SpatialData(
        shapes=mixed.shapes, tables={"colour_tiles": mixed["colour_tiles"][rows].copy()}, attrs=mixed.attrs
    )
    with pytest.warns(UserWarning, match="2 of .* tiles have no features of 'colour'"):
        sdata = hc.io.lazyslide(mixed, image=wsi.reader.file)
    table = sdata["tile_table"]
    has = np.isfinite(table.obsm["X_colour"]).all(axis=1)
    assert set(np.flatnonzero(has)) == set(rows)
    np.testing.assert_array_equal(table.obsm["X_colour"][has], wsi.tables["colour_tiles"].X[has])


def test_without_a_slide(wsi: Any, tmp_path: Path) -> None:
    moved = tmp_path / "moved.zarr"
    shutil.copytree(wsi.wsi_store, moved)
    with pytest.warns(UserWarning, match="none beside it; give image="):
        sdata = hc.io.lazyslide(moved, mpp=0.25)
    assert not sdata.images
    assert set(sdata["tile_table"].obs["mpp"]) == {0.25}


def test_what_is_wrong(wsi: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        hc.io.lazyslide(tmp_path / "none.zarr")
    (tmp_path / "half.zarr").mkdir()
    with pytest.raises(ValueError, match="half written"):
        hc.io.lazyslide(tmp_path / "half.zarr")
    with pytest.raises(KeyError, match="available: .*tiles.*tile_tissues"):
        hc.io.lazyslide(wsi, tiles="tiles_20x")
    with pytest.raises(ValueError, match=r"10 x 20 px, the slide of the store 2220 x 2967 px"):
        hc.io.lazyslide(wsi, image=np.zeros((20, 10, 3), np.uint8))
    with pytest.raises(ValueError, match="tiles_from_shapes"):
        hc.io.lazyslide(SpatialData())


@pytest.mark.filterwarnings("ignore")
def test_lazyslide_takes_our_tiles(wsi: Any) -> None:
    import lazyslide
    import wsidata

    sdata = hc.io.slide(wsi.reader.file)
    hc.pp.tiles(sdata)
    opened = wsidata.open_wsi(sdata, image_key="he")
    colour = lambda images: images.float().mean(dim=(1, 2))
    lazyslide.tl.feature_extraction(opened, colour, model_name="colour", device="cpu", pbar=False)
    opened.set_mpp(0.499)
    back = hc.io.lazyslide(opened)
    assert back["tile_table"].obs_names.tolist() == sdata["tile_table"].obs_names.tolist()
    inside = back["tile_table"].obs["patch_inside"].to_numpy()
    back.tables["tile_table"] = back["tile_table"][inside].copy()
    check_features(back)
