"""Several slides in one SpatialData: one table of their tiles, nothing lost without a word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import tifffile
from spatialdata import SpatialData, match_table_to_element, read_zarr

import histocell as hc
from histocell.images.slide_image import open_image
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from pathlib import Path

SIZE_UM = 56.0


def write_slides(sdata: SpatialData, folder: Path) -> dict[str, Path]:
    """Two slides of 0.5 um per px, one the other upside down."""
    image = open_image(sdata["he"])
    pixels = image.read(0, 0, *image.shape)
    paths = {name: folder / f"{name}.tif" for name in "ab"}
    for path, array in zip(paths.values(), (pixels, pixels[::-1]), strict=True):
        options = {"photometric": "rgb", "tile": (128, 128)}
        tifffile.imwrite(path, array, resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **options)
    return paths


@pytest.fixture
def paths(tissue: SpatialData, tmp_path: Path) -> dict[str, Path]:
    return write_slides(tissue, tmp_path)


def joined(paths: dict[str, Path], how: str = "concatenate") -> SpatialData:
    slides = {name: hc.io.slide(path, section=name) for name, path in paths.items()}
    if how == "concatenate":
        return sd.concatenate(slides.values())
    if how == "with suffixes":
        return sd.concatenate({name: hc.io.slide(path) for name, path in paths.items()})
    both = slides["a"]
    both.images["he-b"] = slides["b"]["he-b"]
    return both


@pytest.fixture
def both(paths) -> SpatialData:
    return joined(paths)


def alone(path: Path, **options) -> SpatialData:
    sdata = hc.io.slide(path)
    hc.pp.tissue_mask(sdata)
    hc.pp.tiles(sdata, size_um=SIZE_UM)
    hc.pp.embed_image(sdata, **options)
    return sdata


@pytest.mark.parametrize("how", ["concatenate", "with suffixes", "by hand"])
def test_one_table_holds_the_tiles_of_all_slides(how, paths, tmp_path):
    both = joined(paths, how)
    for key in ("he-a", "he-b"):
        hc.pp.tissue_mask(both, image_key=key)
        hc.pp.tiles(both, image_key=key, size_um=SIZE_UM)
    assert set(both.shapes) == {"tissue-a", "tissue-b", "tiles-a", "tiles-b"}
    hc.pp.embed_image(both)
    both.write(tmp_path / "both.zarr")
    table = read_zarr(tmp_path / "both.zarr")["tile_table"]
    assert table.obs_names.is_unique
    assert table.obs_names[table.obs["section"] == "b"].str.endswith("-b").all()
    for name, path in paths.items():
        own = table[table.obs["section"] == name]
        expected = alone(path)["tile_table"]
        assert set(own.obs["region"]) == {f"tiles-{name}"}
        for slot in ("patches", "spatial", "X_morphology"):
            np.testing.assert_array_equal(own.obsm[slot], expected.obsm[slot])
        assert len(match_table_to_element(both, f"tiles-{name}", "tile_table")) == own.n_obs


def test_the_next_slide_keeps_what_is_there(both):
    hc.pp.tiles(both, image_key="he-a", size_um=SIZE_UM)
    table = both["tile_table"]
    hc.pp.embed_image(both)
    table.obs["checked"] = True
    table.obsm["cell_abundance"] = pd.DataFrame({"tumour": 1.0, "stroma": 0.0}, index=table.obs_names)
    table.obsp["connectivities"] = np.eye(table.n_obs)
    table.uns["note"] = "mine"
    before, n = np.array(table.obsm["X_morphology"]), table.n_obs
    with pytest.warns(UserWarning, match=r'have no obsm\["X_morphology"\], obsm\["cell_abundance"\] yet'):
        hc.pp.tiles(both, image_key="he-b", size_um=SIZE_UM)
    table = both["tile_table"]
    np.testing.assert_array_equal(table.obsm["X_morphology"][:n], before)
    assert np.isnan(table.obsm["X_morphology"][n:]).all()
    assert table.obsm["cell_abundance"]["tumour"].notna().sum() == n
    assert table.obs["checked"].dtype == "boolean"
    assert table.uns["note"] == "mine"
    assert table.obsp["connectivities"].shape == (table.n_obs, table.n_obs)
    assert table.obsm["patches"].dtype == np.int32
    hc.pp.embed_image(both)
    assert np.isfinite(both["tile_table"].obsm["X_morphology"]).all()


def test_a_stored_and_read_table_is_extended(both, tmp_path):
    hc.pp.tiles(both, image_key="he-a", size_um=SIZE_UM)
    hc.pp.embed_image(both, store=tmp_path / "features", lazy=True)
    both["tile_table"].obs["checked"] = True
    with pytest.warns(UserWarning, match="no obsm"):
        hc.pp.tiles(both, image_key="he-b", size_um=SIZE_UM)
    both.write(tmp_path / "both.zarr")
    back = read_zarr(tmp_path / "both.zarr")["tile_table"]
    assert np.isfinite(np.asarray(back.obsm["X_morphology"])).all(axis=1).sum() == (back.obs["section"] == "a").sum()


def test_other_tiles_are_laid_where_nothing_is_lost(both):
    for size_um in (112, SIZE_UM):
        hc.pp.tiles(both, image_key="he-a", size_um=size_um)
    assert set(np.ptp(both["tile_table"].obsm["patches"][:, ::2], axis=1)) == {112}


def test_other_tiles_take_no_embedding_along(both, user_sees):
    hc.pp.tiles(both, image_key="he-a", size_um=SIZE_UM)
    hc.pp.embed_image(both)
    before = both["tile_table"].copy()
    with user_sees("Slides", "other tiles on a slide that is embedded", ValueError, match="would be lost"):
        hc.pp.tiles(both, image_key="he-a", size_um=112)
    pd.testing.assert_frame_equal(both["tile_table"].obs, before.obs)
    assert len(both["tiles-a"]) == before.n_obs
    beside = hc.pp.tiles(both, image_key="he-a", size_um=112, inplace=False)
    assert beside["tile_table"].n_obs < before.n_obs
    hc.pp.tiles(both, image_key="he-a", size_um=112, overwrite=True)
    assert set(both["tile_table"].obsm) == {"spatial", "patches"}
    assert len(both["tiles-a"]) == both["tile_table"].n_obs == beside["tile_table"].n_obs


def test_the_same_tiles_change_nothing(both):
    hc.pp.tiles(both, image_key="he-a", size_um=SIZE_UM)
    hc.pp.embed_image(both)
    before = np.array(both["tile_table"].obsm["X_morphology"])
    hc.pp.tiles(both, image_key="he-a", size_um=SIZE_UM)
    hc.pp.tiles_from_shapes(both, "tiles-a", image_key="he-a")
    np.testing.assert_array_equal(both["tile_table"].obsm["X_morphology"], before)


def test_tiles_of_one_slide_are_replaced_beside_those_of_another(both):
    for key in ("he-a", "he-b"):
        hc.pp.tiles(both, image_key=key, size_um=SIZE_UM)
    hc.pp.embed_image(both)
    table = both["tile_table"]
    kept = np.array(table.obsm["X_morphology"])[table.obs["section"] == "a"]
    with pytest.raises(ValueError, match=r"'tiles-b' would be replaced by others, and obsm\[\"X_morphology\"\]"):
        hc.pp.tiles(both, image_key="he-b", size_um=SIZE_UM, overlap=0.5)
    with pytest.warns(UserWarning, match="'tiles-b' have no"):
        hc.pp.tiles(both, image_key="he-b", size_um=SIZE_UM, overlap=0.5, overwrite=True)
    table = both["tile_table"]
    np.testing.assert_array_equal(table.obsm["X_morphology"][table.obs["section"] == "a"], kept)
    assert (table.obs["section"] == "b").sum() > 2 * len(kept)
    assert table.obs_names.is_unique


def test_all_tiles_of_a_table_have_one_size(both, user_sees):
    hc.pp.tiles(both, image_key="he-a", size_um=SIZE_UM)
    with user_sees("Slides", "tiles of two sizes in one table", ValueError, match="56 um of other slides"):
        hc.pp.tiles(both, image_key="he-b", size_um=112)
    assert set(both["tile_table"].obs["section"]) == {"a"}
    assert "tiles-b" not in both.shapes


def test_a_table_of_two_sizes_is_not_embedded(paths, user_sees):
    parts = {}
    for (name, path), size_um in zip(paths.items(), (SIZE_UM, 112), strict=True):
        parts[name] = hc.io.slide(path)
        hc.pp.tiles(parts[name], size_um=size_um)
    both = sd.concatenate(parts, concatenate_tables=True)
    with user_sees("Slides", "slides with tiles of two sizes, joined and embedded", ValueError, match="of one size"):
        hc.pp.embed_image(both)


def test_the_size_of_tiles_survives_a_concatenation(paths):
    parts = {}
    for name, path in paths.items():
        parts[name] = hc.io.slide(path, mpp=0.499)  # 112 um are 224.4 px, of which tiles have 224
        hc.pp.tiles(parts[name])
        hc.pp.embed_image(parts[name])
    expected = np.vstack([parts[name]["tile_table"].obsm["X_morphology"] for name in paths])
    both = sd.concatenate(parts, concatenate_tables=True)
    hc.pp.embed_image(both)
    np.testing.assert_array_equal(both["tile_table"].obsm["X_morphology"], expected)
    assert hc.get.provenance(both, "X_morphology")["size_um"] == 112


def test_tiles_of_another_tool_on_several_slides(both, user_sees):
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    hc.pp.tiles(both, image_key="he-a", size_um=50)
    systems = get_transformation(both["he-b"], get_all=True)
    squares = gpd.GeoDataFrame({"tile_id": ["x", "y"]}, geometry=shapely.box([0, 100], 0, [100, 200], 100))
    both.shapes["squares"] = ShapesModel.parse(squares, transformations=systems)
    with user_sees("Slides", "tiles indexed by numbers beside tiles indexed by names", TypeError, match="one kind"):
        hc.pp.tiles_from_shapes(both, "squares", image_key="he-b")
    both.shapes["squares"].index = ["p", "q"]
    hc.pp.tiles_from_shapes(both, "squares", image_key="he-b")
    table = both["tile_table"]
    assert table.obs["section"].tolist()[-2:] == ["b", "b"]
    for name in ("tiles-a", "squares"):
        assert len(match_table_to_element(both, name, "tile_table")) == (table.obs["region"] == name).sum()
    hc.pp.embed_image(both)
    assert np.isfinite(both["tile_table"].obsm["X_morphology"]).all()


def test_tiles_of_another_name_replace_those_of_the_slide(both):
    for key in ("he-a", "he-b"):
        hc.pp.tiles(both, image_key=key, size_um=50)
    grid = hc.pp.tiles(both, image_key="he-b", size_um=50, overlap=0.2, inplace=False)["tiles-b"]
    both.shapes["grid"] = grid
    hc.pp.tiles_from_shapes(both, "grid", image_key="he-b")
    table = both["tile_table"]
    assert set(table.obs["region"]) == {"tiles-a", "grid"}
    assert (table.obs["section"] == "b").sum() == len(grid)
    hc.pp.embed_image(both)
    with pytest.raises(ValueError, match="the tiles 'grid' would be replaced"):
        hc.pp.tiles(both, image_key="he-b", size_um=50)


def test_a_table_of_something_else_is_not_replaced(both):
    from anndata import AnnData

    both.tables["tile_table"] = AnnData(np.ones((2, 1), np.float32))
    with pytest.raises(ValueError, match="give it another name"):
        hc.pp.tiles(both, image_key="he-a", size_um=SIZE_UM)


def test_a_slide_that_comes_later_leaves_the_names_of_the_first(paths):
    sdata = hc.io.slide(paths["a"])
    hc.pp.tiles(sdata, size_um=SIZE_UM)
    sdata.images["second"] = hc.io.slide(paths["b"])["he"]  # in the same coordinate system
    hc.pp.tiles(sdata, size_um=SIZE_UM, image_key="second")
    hc.pp.tiles(sdata, size_um=SIZE_UM, image_key="he")
    hc.pp.embed_image(sdata)
    table = sdata["tile_table"]
    assert table.obs[["region", "section"]].drop_duplicates().to_numpy().tolist() == [
        ["tiles", "a"],
        ["tiles-second", "second"],
    ]
    for name, path in (("a", paths["a"]), ("second", paths["b"])):
        expected = alone(path)["tile_table"].obsm["X_morphology"]
        np.testing.assert_array_equal(table.obsm["X_morphology"][table.obs["section"] == name], expected)


def test_a_slide_of_a_hand_made_spatialdata_keeps_plain_names(tissue):
    sdata = SpatialData(images={"scan": tissue["he"]})
    hc.pp.tissue_mask(sdata)
    hc.pp.tiles(sdata, size_um=SIZE_UM)
    assert set(sdata.shapes) == {"tissue", "tiles"}


@pytest.mark.filterwarnings("ignore:the training rows are one group:UserWarning")  # which is right
@pytest.mark.parametrize("uns_merge", [None, "same"])
def test_two_slides_from_end_to_end(uns_merge, paths, tmp_path):
    """Tissue, tiles, embedding, fit, prediction, scores, co-localization, maps and files of two slides in one object."""
    both = joined(paths)
    for key in ("he-a", "he-b"):
        hc.pp.tissue_mask(both, image_key=key)
        hc.pp.tiles(both, image_key=key, size_um=SIZE_UM)
        hc.pp.normalize_stain(both, image_key=key)
    hc.pp.embed_image(both)
    journey(both, tmp_path)
    # the same from two objects, each a slide of its own
    parts = {name: alone(path) for name, path in paths.items()}
    apart = sd.concatenate(parts, concatenate_tables=True, uns_merge=uns_merge)
    journey(apart, tmp_path)
    for slot in ("predicted_abundance", "X_morphology"):
        np.testing.assert_allclose(
            np.asarray(apart["tile_table"].obsm[slot]), np.asarray(both["tile_table"].obsm[slot])
        )


def journey(sdata: SpatialData, folder: Path) -> None:
    table = sdata["tile_table"]
    features = np.asarray(table.obsm["X_morphology"])[:, :3]
    features = (features - features.min(axis=0)) / np.ptp(features, axis=0)
    table.obsm["cell_abundance"] = pd.DataFrame(features, columns=["one", "two", "three"], index=table.obs_names)
    hc.pp.split(sdata, by="section", test=["b"])
    hc.tl.fit_abundance(sdata, "X_morphology", model="ridge")
    with pytest.warns(UserWarning, match=r"1 of 2 sections lie outside of what the model has seen: b"):
        hc.tl.predict_abundance(sdata)
    assert np.isfinite(hc.get.abundance(sdata).to_numpy()).all()
    scores = hc.tl.evaluate_abundance(sdata, n_bootstrap=20, rng=0, inplace=False)
    assert len(scores)
    hc.tl.colocalization(sdata, "predicted_abundance")
    axes = hc.pl.abundance(sdata, "one", show=False)
    titles = " ".join(ax.get_title() for ax in np.ravel(axes))
    assert re.search(r"\ba\b", titles)
    assert re.search(r"\bb\b", titles)
    assert hc.pl.patches(sdata, n=4, rng=0, show=False) is not None
    hc.models.load(sdata).save(folder / "model", overwrite=True)
    path = folder / f"{id(sdata)}.zarr"
    sdata.write(path)
    back = read_zarr(path)
    with pytest.warns(UserWarning, match="lie outside"):
        hc.tl.predict_abundance(back, model=folder / "model")
    np.testing.assert_allclose(hc.get.abundance(back), hc.get.abundance(sdata), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:the training rows are one group:UserWarning")
@pytest.mark.parametrize("uns_merge", [None, "same"])
def test_cohort_results_from_end_to_end(uns_merge, paths, tmp_path):
    """Two results of a cohort in one object: thumbnails are drawn, never computed on; the slides come back."""
    report = hc.pp.embed_cohort(list(paths.values()), out=tmp_path / "out", size_um=SIZE_UM)
    parts = {name: read_zarr(path) for name, path in zip("ab", report["output"], strict=True)}
    tables = {name: part["tile_table"].copy() for name, part in parts.items()}
    both = sd.concatenate(parts, concatenate_tables=True, uns_merge=uns_merge)
    both["tile_table"].obsm["X_morphology"] = np.asarray(both["tile_table"].obsm["X_morphology"])
    before = both["tile_table"].obsm["X_morphology"].copy()
    with pytest.raises(ValueError, match="'thumbnail-a' is a thumbnail"):
        hc.pp.embed_image(both)
    for verb in (hc.pp.tissue_mask, hc.pp.tiles, hc.pp.normalize_stain):
        with pytest.raises(ValueError, match="is a thumbnail"):
            verb(both)
    for name, path in paths.items():
        both.images[f"he-{name}"] = hc.io.slide(path, section=name)[f"he-{name}"]
    hc.pp.embed_image(both)
    np.testing.assert_array_equal(both["tile_table"].obsm["X_morphology"], before)
    journey(both, tmp_path)
    for name in paths:
        del both.images[f"he-{name}"]
    axes = hc.pl.abundance(both, "one", show=False)
    for ax in np.ravel(axes):
        assert ax.get_ylim()[0] - ax.get_ylim()[1] == pytest.approx(350, abs=30)  # um: 700 px of 0.5 um
        assert len(ax.images) == 2  # the thumbnail, and the tiles on it
    # their tables alone
    alone = ad.concat(tables, index_unique="-")
    hc.pp.embed_image(alone, image=paths)
    np.testing.assert_array_equal(alone.obsm["X_morphology"], before)
    axes = hc.pl.abundance(
        both["tile_table"], "one", image={name: str(path) for name, path in paths.items()}, show=False
    )
    assert all(len(ax.images) == 1 for ax in np.ravel(axes))


def test_joined_sections_of_spots_go_on_as_they_were(cohort, tmp_path):
    hc.pp.normalize_stain(cohort, image_key="he-P1S1")
    before = np.array(cohort["table"].obsm["X_morphology"])
    assert [region.key for region in Sections(cohort).regions()] == [f"he-P{n}S1" for n in range(1, 5)]
    hc.pp.patches(cohort)
    hc.pp.embed_image(cohort)
    np.testing.assert_array_equal(cohort["table"].obsm["X_morphology"], before)
