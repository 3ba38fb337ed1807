"""What an image is: a slide, its thumbnail or its normalised copy, told by the data and not by names."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata as sd
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, get_transformation, set_transformation

import histocell as hc
from histocell.tables.sections import Sections
from histocell.tables.slides import beside_image, open_slide, slide_keys, source_key

FACTOR = 3.0


@pytest.fixture
def thumbnailed(tissue) -> SpatialData:
    """A tiled, embedded section whose slide was replaced by a copy of a third of its size, as a cohort leaves it."""
    del tissue.tables["table"], tissue.tables["cell_table"]
    for name in list(tissue.shapes):
        del tissue.shapes[name]
    hc.pp.tiles(tissue, size_um=56)
    hc.pp.embed_image(tissue)
    return with_thumbnail(tissue)


def with_thumbnail(sdata: SpatialData, name: str = "thumbnail") -> SpatialData:
    slide = sdata.images.pop("he")
    pixels = np.asarray(slide.data)[:, :: int(FACTOR), :: int(FACTOR)]
    edge = slide.shape[1] / pixels.shape[1]
    systems = {
        system: Sequence([Scale([edge, edge], axes=("x", "y")), to_system])
        for system, to_system in get_transformation(slide, get_all=True).items()
    }
    sdata.images[name] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=systems)
    return sdata


@pytest.mark.parametrize("name", ["thumbnail", "overview", "he"])
@pytest.mark.parametrize("stored", [False, True])
def test_a_thumbnail_is_told_by_its_transformation(name, stored, thumbnailed, tmp_path):
    sdata = thumbnailed
    sdata.images[name] = sdata.images.pop("thumbnail")
    if stored:
        sdata.write(tmp_path / "slide.zarr")
        sdata = read_zarr(tmp_path / "slide.zarr")
    for data in (sdata, sdata.subset([name, "tiles", "tile_table"])):
        assert slide_keys(data) == slide_keys(data, data["tiles"]) == []
        with pytest.raises(ValueError, match="is a thumbnail, too coarse to compute on"):
            Sections(data).regions()
        with pytest.raises(ValueError, match="is a thumbnail, too coarse to compute on"):
            open_slide(data, "tiles", None, None)


def test_a_thumbnail_has_its_own_resolution(thumbnailed):
    edge = 700 / thumbnailed["thumbnail"].shape[1]
    (region,) = Sections(thumbnailed).regions(need_image=False, thumbnails=True)
    assert region.mpp == pytest.approx(0.5 * edge)
    np.testing.assert_allclose(region.centers * edge, thumbnailed["tile_table"].obsm["spatial"], atol=0.5)
    # what is measured is still in px of the slide
    sections = Sections(thumbnailed)
    assert set(sections.mpp()) == {0.5}
    np.testing.assert_array_equal(sections.coordinates_px(), thumbnailed["tile_table"].obsm["spatial"])
    assert open_slide(thumbnailed, "tiles", "thumbnail", None).mpp == pytest.approx(0.5 * edge)


@pytest.mark.filterwarnings("ignore:.*in rows of different slides")
@pytest.mark.parametrize("merged", [False, True])
def test_concatenated_thumbnails_are_no_slides(merged, thumbnailed, tmp_path):
    thumbnailed.write(tmp_path / "a.zarr")
    parts = {name: read_zarr(tmp_path / "a.zarr") for name in "ab"}
    both = sd.concatenate(parts, concatenate_tables=True, merge_coordinate_systems_on_name=merged)
    table = both["tile_table"]
    before = np.array(table.obsm["X_morphology"])
    assert set(both.images) == {"thumbnail-a", "thumbnail-b"}
    with pytest.raises(ValueError, match=r'images\["he-a"\] = hc\.io\.slide\(path') as error:
        hc.pp.embed_image(both)
    assert ('section="a"' in str(error.value)) == (not merged)
    with pytest.raises(ValueError, match="does not lie on image 'thumbnail-a'"):
        hc.pp.embed_image(both, image_key={f"tiles-{name}": f"thumbnail-{name}" for name in "ab"})
    with pytest.raises(ValueError, match="too coarse for patches"):
        hc.pp.patches(both, image_key={f"tiles-{name}": f"thumbnail-{name}" for name in "ab"})
    np.testing.assert_array_equal(table.obsm["X_morphology"], before)
    assert set(table.obs["mpp"]) == {0.5}


@pytest.mark.filterwarnings("ignore:.*in rows of different slides")
def test_concatenated_thumbnails_are_drawn_in_their_place(thumbnailed, tmp_path):
    expected = hc.pl.abundance(_fractions(thumbnailed), "tissue", key="fractions", show=False)
    thumbnailed.write(tmp_path / "a.zarr")
    both = sd.concatenate({name: read_zarr(tmp_path / "a.zarr") for name in "ab"}, concatenate_tables=True)
    axes = hc.pl.abundance(both, "tissue", key="fractions", show=False)
    for ax in np.ravel(axes):
        np.testing.assert_allclose([*ax.get_xlim(), *ax.get_ylim()], [*expected.get_xlim(), *expected.get_ylim()])
        assert ax.get_ylim()[0] <= 360  # um: 700 px of 0.5 um and half a tile
        assert len(ax.images) == 2  # the thumbnail, and the tiles on it


def _fractions(sdata: SpatialData) -> SpatialData:
    import pandas as pd

    table = sdata["tile_table"]
    table.obsm["fractions"] = pd.DataFrame({"tissue": table.obs["tissue_fraction"]})
    return sdata


def test_the_slide_is_taken_where_it_is_brought_back(thumbnailed, tissue):
    slide = hc.datasets.synthetic_tissue(size_px=700, spot_pitch_um=50, spot_diameter_um=50, rng=0)["he"]
    thumbnailed.images["he"] = slide
    before = np.array(thumbnailed["tile_table"].obsm["X_morphology"])
    (region,) = Sections(thumbnailed).regions()
    assert (region.key, region.mpp, region.thumbnail) == ("he", 0.5, False)
    hc.pp.embed_image(thumbnailed)
    np.testing.assert_array_equal(thumbnailed["tile_table"].obsm["X_morphology"], before)


def test_another_slide_is_not_taken_for_the_one_of_a_thumbnail(thumbnailed):
    thumbnailed.images["he"] = hc.datasets.synthetic_tissue(size_px=900, rng=1)["he"]
    with pytest.raises(
        ValueError, match=r"'he' has 900 x 900 px, and that of 'thumbnail' .* had 700 x 700: it is another"
    ):
        hc.pp.embed_image(thumbnailed)
    hc.pp.embed_image(thumbnailed, image_key="he")


def test_an_aligned_slide_is_no_thumbnail(tissue):
    # brought onto another slide of half its px: its own spots came along
    matrix = Affine([[2, 0, 6], [0, 2, 4], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    for element in (tissue["he"], tissue["spots"]):
        set_transformation(element, matrix, "global")
    (region,) = Sections(tissue).regions()
    assert not region.thumbnail
    np.testing.assert_allclose(region.centers, tissue["table"].obsm["spatial"])


def test_an_image_without_resolution_is_no_thumbnail():
    image = Image2DModel.parse(np.zeros((3, 40, 40), np.uint8), transformations={"global": Scale([4, 4], ("x", "y"))})
    assert slide_keys(SpatialData(images={"he": image})) == ["he"]


class TestNormalised:
    """Every step takes the slide, not a normalised copy of it."""

    def test_the_slide_is_preferred(self, tissue):
        hc.pp.normalize_stain(tissue)
        hc.pp.normalize_stain(tissue, key_added="by_eye")
        for method in ("reinhard", "vahadane"):
            hc.pp.normalize_stain(tissue, method=method)
        assert slide_keys(tissue) == ["he"]
        hc.pp.tissue_mask(tissue)
        hc.pp.tiles(tissue, size_um=56)
        assert {region.key for region in Sections(tissue, table_key="tile_table").regions()} == {"he"}
        assert {region.key for region in Sections(tissue, table_key="table").regions()} == {"he"}
        hc.pp.patches(tissue, table_key="table")
        hc.pp.embed_image(tissue, table_key="table", key_added="X_slide")
        hc.pp.embed_image(tissue, table_key="table", key_added="X_normalised", image_key="he_macenko")
        slide, normalised = (tissue["table"].obsm[f"X_{key}"] for key in ("slide", "normalised"))
        assert np.abs(slide - normalised).max() > 0.01

    def test_of_any_name(self, tissue):
        tissue.images["scan"] = tissue.images.pop("he")
        hc.pp.normalize_stain(tissue, key_added="norm")
        hc.pp.normalize_stain(tissue)
        hc.pp.tiles(tissue, size_um=56)
        assert slide_keys(tissue) == ["scan"]
        assert set(tissue.shapes) >= {"tiles"}
        assert set(tissue["tile_table"].obs["section"]) == {"scan"}

    @pytest.mark.filterwarnings("ignore:.*in rows of different slides")
    def test_of_concatenated_sections(self, tissue, tmp_path):
        hc.pp.normalize_stain(tissue)
        tissue.write(tmp_path / "a.zarr")
        parts = {name: read_zarr(tmp_path / "a.zarr") for name in "ab"}
        both = sd.concatenate(parts, concatenate_tables=True)
        assert slide_keys(both) == ["he-a", "he-b"]
        keys = {region.key for region in Sections(both, table_key="table").regions()}
        assert keys == {"he-a", "he-b"}
        hc.pp.normalize_stain(both, image_key="he-a", key_added="he-a_macenko")
        assert source_key(both, "he-a_macenko") == source_key(both, "he_macenko-a") == "he-a"
        assert beside_image(both, "tissue", "he-a_macenko") == "tissue-a"

    def test_in_place_of_the_slide(self, tissue):
        hc.pp.normalize_stain(tissue, key_added="copy")
        hc.pp.normalize_stain(tissue, image_key="copy", key_added="he")
        hc.pp.normalize_stain(tissue, key_added="he")
        assert slide_keys(tissue) == ["he"]
        assert source_key(tissue, "copy") == "he"

    def test_a_normalised_copy_without_its_slide_is_what_there_is(self, tissue):
        hc.pp.normalize_stain(tissue)
        del tissue.images["he"]
        assert slide_keys(tissue) == ["he_macenko"]

    def test_the_tissue_of_a_slide_is_that_of_its_copies(self, tissue):
        hc.pp.tissue_mask(tissue)
        hc.pp.normalize_stain(tissue)
        tissue.shapes["tissue"] = tissue["tissue"].assign(
            geometry=tissue["tissue"].geometry.intersection(_left_half(tissue))
        )
        by_slide, by_copy = (
            hc.pp.tiles(tissue, size_um=56, image_key=key, inplace=False)["tile_table"] for key in ("he", "he_macenko")
        )
        np.testing.assert_array_equal(by_slide.obsm["patches"], by_copy.obsm["patches"])
        assert set(by_copy.obs["section"]) == set(by_slide.obs["section"])


def _left_half(sdata: SpatialData):
    import shapely

    return shapely.box(0, 0, sdata["he"].shape[2] / 2, sdata["he"].shape[1])


def test_slides_of_any_names_have_tissue_of_their_own(tissue):
    sdata = SpatialData(images={"one": tissue["he"], "two": tissue["he"]})
    assert get_transformation(tissue["he"], "global") == Identity()
    for key in ("one", "two"):
        hc.pp.tissue_mask(sdata, image_key=key)
        hc.pp.tiles(sdata, image_key=key, size_um=56)
    assert set(sdata.shapes) == {"tissue-one", "tissue-two", "tiles-one", "tiles-two"}
    assert [region.key for region in Sections(sdata).regions()] == ["one", "two"]
    assert set(sdata["tile_table"].obs["section"]) == {"one", "two"}
    with pytest.raises(ValueError, match="has: one, two"):
        hc.pp.tissue_mask(sdata)
