from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pytest
import shapely
import tifffile
from spatialdata import SpatialData, match_table_to_element
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale, Translation

import histocell as hc
from histocell.images import tissue as tissue_masks
from histocell.images.slide_image import SlideImage, open_image

if TYPE_CHECKING:
    from pathlib import Path

MPP = 0.5


@pytest.fixture
def sdata() -> SpatialData:
    """A slide of 700 x 1000 px (h x w), 0.5 um per px: a pink disk on glass, every px of it known."""
    y, x = np.mgrid[:700, :1000]
    picture = np.full((700, 1000, 3), 240, dtype=np.uint8)
    picture[(y - 350) ** 2 + (x - 450) ** 2 < 300**2] = (200, 120, 170)
    systems = {"global": Identity(), "um": Scale([MPP, MPP], axes=("y", "x"))}
    image = Image2DModel.parse(np.moveaxis(picture, -1, 0), dims=("c", "y", "x"), transformations=systems)
    return SpatialData(images={"he": image})


def add_shapes(sdata: SpatialData, boxes: np.ndarray, transformations: dict | None = None, **columns) -> None:
    """Boxes x0, y0, x1, y1 as the shapes ``squares``."""
    frame = gpd.GeoDataFrame(columns, geometry=shapely.box(*np.asarray(boxes, dtype=float).T))
    sdata.shapes["squares"] = ShapesModel.parse(frame, transformations=transformations)


def test_tiles_of_squidpy(sdata: SpatialData) -> None:
    import squidpy as sq

    mask = (np.asarray(sdata["he"].data)[1] < 200).astype(np.int16)
    sdata.labels["he_tissue"] = Labels2DModel.parse(mask, dims=("y", "x"))
    sq.experimental.im.make_tiles(sdata, "he", tile_size=(128, 128), preview=False)
    hc.pp.tiles_from_shapes(sdata, "he_tiles")
    table, theirs = sdata["tile_table"], sdata["he_tiles"]
    assert table.obs_names.tolist() == theirs["tile_id"].tolist()
    assert table.obs["tile_classification"].tolist() == theirs["tile_classification"].tolist()
    corners = np.minimum(theirs[["pixel_y0", "pixel_x0"]], (700 - 128, 1000 - 128)).to_numpy()
    np.testing.assert_array_equal(table.obsm["patches"], np.hstack([corners, corners + 128]))
    assert table.obs["patch_inside"].all()
    sdata.validate_table_in_spatialdata(table)
    assert match_table_to_element(sdata, "he_tiles", "tile_table").obs_names.equals(table.obs_names)
    hc.pp.embed_image(sdata, "morphology")
    assert np.isfinite(table.obsm["X_morphology"]).all()


def test_squares_without_ids_in_micrometres(sdata: SpatialData) -> None:
    from spatialdata.transformations import Sequence

    boxes = np.array([[10, 20, 74, 84], [110, 20, 174, 84]])  # um, from an origin of (5, 0) um
    moved = Sequence([Translation([5, 0], axes=("x", "y"))])
    add_shapes(sdata, boxes, {"um": moved}, grade=["a", "b"])
    table = hc.pp.tiles_from_shapes(sdata, "squares", inplace=False)
    assert "tile_table" not in sdata.tables
    assert table.obsm["patches"].tolist() == [[40, 30, 168, 158], [40, 230, 168, 358]]
    assert table.obsm["spatial"].tolist() == [[94, 104], [294, 104]]
    assert (table.obs_names.tolist(), table.obs["grade"].tolist()) == (["0", "1"], ["a", "b"])
    assert set(table.obs["mpp"]) == {MPP}


def test_tiles_that_the_border_cut(sdata: SpatialData) -> None:
    add_shapes(sdata, [[0, 0, 28, 100], [28, 0, 128, 100], [928, 650, 1000, 700]])
    windows = hc.pp.tiles_from_shapes(sdata, "squares", inplace=False).obsm["patches"]
    assert windows.tolist() == [[0, 0, 100, 100], [0, 28, 100, 128], [600, 900, 700, 1000]]


def test_shapes_that_are_no_tiles(sdata: SpatialData) -> None:
    with pytest.raises(KeyError, match=r'shapes\["squares"\] not found; available: none'):
        hc.pp.tiles_from_shapes(sdata, "squares")
    add_shapes(sdata, [[0, 0, 100, 100], [200, 200, 250, 250]])
    with pytest.raises(ValueError, match="1 of 2 have an edge of 50 px where others have 100"):
        hc.pp.tiles_from_shapes(sdata, "squares")
    add_shapes(sdata, [[2000, 0, 2100, 100]])
    with pytest.raises(ValueError, match="none of the 1 points of squares lie in the image"):
        hc.pp.tiles_from_shapes(sdata, "squares")
    add_shapes(sdata, [[0, 0, 100, 100], [0, 100, 100, 200]], tile_id=["a", "a"])
    with pytest.raises(ValueError, match="more than once: a"):
        hc.pp.tiles_from_shapes(sdata, "squares")
    add_shapes(sdata, [[0, 0, 100, 100]], {"other": Identity()})
    with pytest.raises(ValueError, match="share no coordinate system: other; global, um"):
        hc.pp.tiles_from_shapes(sdata, "squares")
    diamond = gpd.GeoDataFrame(geometry=[shapely.Polygon([(50, 0), (100, 50), (50, 100), (0, 50)])])
    sdata.shapes["squares"] = ShapesModel.parse(diamond)
    with pytest.raises(ValueError, match="no upright rectangles"):
        hc.pp.tiles_from_shapes(sdata, "squares")
    sdata.shapes["squares"] = ShapesModel.parse(np.array([[5.0, 5.0]]), geometry=0, radius=3)
    with pytest.raises(ValueError, match=r"points; .*hc\.pp\.patches"):
        hc.pp.tiles_from_shapes(sdata, "squares")
    with pytest.raises(TypeError, match="SpatialData"):
        hc.pp.tiles_from_shapes(sdata["he"])


def test_viewers_find_the_tiles(sdata: SpatialData) -> None:
    hc.pp.tiles(sdata, size_um=50)
    table = sdata["tile_table"]
    assert table.uns["spatialdata_attrs"] == {"region": "tiles", "region_key": "region", "instance_key": "tile_id"}
    sdata.validate_table_in_spatialdata(table)
    assert match_table_to_element(sdata, "tiles", "tile_table").obs_names.equals(table.obs_names)
    np.testing.assert_array_equal(
        sdata["tiles"].geometry.bounds.to_numpy(), table.obsm["patches"][:, [1, 0, 3, 2]].astype(float)
    )


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_plot_colours_the_tiles(sdata: SpatialData) -> None:
    pytest.importorskip("spatialdata_plot")
    import matplotlib.pyplot as plt

    hc.pp.tiles(sdata, size_um=50)
    sdata["tile_table"].obs["side"] = (sdata["tile_table"].obsm["spatial"][:, 0] > 450).astype(float)
    drawn = sdata.pl.render_shapes("tiles", color="side", table_name="tile_table", cmap="bwr")
    axes = drawn.pl.show(coordinate_systems="global", return_ax=True, colorbar=False)
    (shapes,) = axes.collections
    colours = {tuple(colour[:3].round(2)) for colour in shapes.get_facecolor()}
    assert colours == {(0, 0, 1), (1, 0, 0)}
    plt.close("all")


def test_tiles_lie_on_the_tissue_that_is_there(sdata: SpatialData) -> None:
    hc.pp.tiles(sdata, size_um=20)
    found = sdata["tile_table"].obs["tissue_fraction"]
    hc.pp.tissue_mask(sdata)
    hc.pp.tiles(sdata, size_um=20)
    outlined = sdata["tile_table"].obs["tissue_fraction"]
    boxes = sdata["tiles"].geometry.to_numpy()
    truth = shapely.area(shapely.intersection(boxes, shapely.union_all(sdata["tissue"].geometry))) / 40**2
    np.testing.assert_allclose(outlined, truth)
    np.testing.assert_array_equal(found, outlined)  # the same tiles whether or not the outline was written before

    # the right half is deleted by hand; in micrometres, as another tool may write it
    edited = sdata["tissue"].geometry.iloc[0].intersection(shapely.box(0, 0, 450, 700))
    frame = gpd.GeoDataFrame(geometry=[shapely.affinity.scale(edited, MPP, MPP, origin=(0, 0))])
    sdata.shapes["tissue"] = ShapesModel.parse(frame, transformations={"um": Identity()})
    hc.pp.tiles(sdata, size_um=20, min_tissue=0.6)
    half = sdata["tile_table"]
    assert (half.obsm["spatial"][:, 0] < 450).all()
    assert 0.4 < half.n_obs / len(outlined) < 0.5


def test_tissue_of_one_image_among_several(sdata: SpatialData) -> None:
    several = SpatialData(images={"he-A": sdata["he"], "he-B": sdata["he"]})
    hc.pp.tissue_mask(several, image_key="he-A")
    several.shapes["tissue-A"] = ShapesModel.parse(
        gpd.GeoDataFrame(geometry=[shapely.box(400, 320, 480, 400)]), transformations={"global": Identity()}
    )
    few = hc.pp.tiles(several, size_um=20, image_key="he-A", inplace=False)["tile_table"]
    all_ = hc.pp.tiles(several, size_um=20, image_key="he-B", inplace=False)["tile_table"]
    assert few.n_obs == 4
    assert all_.n_obs > 100
    assert (set(few.obs["section"]), set(all_.obs["section"])) == ({"A"}, {"B"})
    several.shapes["tissue-A"] = ShapesModel.parse(np.array([[5.0, 5.0]]), geometry=0, radius=3)
    with pytest.raises(ValueError, match="must be polygons"):
        hc.pp.tiles(several, image_key="he-A")


def test_tissue_of_other_coordinates_is_not_that_of_the_slide(sdata: SpatialData) -> None:
    box = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 80, 80)])
    sdata.shapes["tissue"] = ShapesModel.parse(box, transformations={"another slide": Identity()})
    hc.pp.tiles(sdata, size_um=20)
    assert sdata["tile_table"].n_obs > 100


def test_section_of_tiles(sdata: SpatialData) -> None:
    hc.pp.tiles(sdata, size_um=50)
    assert set(sdata["tile_table"].obs["section"]) == {"he"}
    assert sdata["tile_table"].obs["section"].dtype == "category"
    add_shapes(sdata, [[0, 0, 100, 100], [100, 0, 200, 100]], {"global": Identity()}, section=["left", "right"])
    assert hc.pp.tiles_from_shapes(sdata, "squares", inplace=False).obs["section"].tolist() == ["left", "right"]


def test_absurd_sizes(sdata: SpatialData) -> None:
    for size_um in (0, -5, 1, np.nan):
        with pytest.raises(ValueError, match="at least 8 px|positive number"):
            hc.pp.tiles(sdata, size_um=size_um)
    with pytest.raises(ValueError, match="between 0.05 and 100"):
        hc.pp.tiles(sdata, mpp=5000)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_slide_is_read_block_by_block(levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (1100, 1500, 3), dtype=np.uint8)
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path) as tiff:
        options = {"tile": (256, 256), "photometric": "rgb"}
        metadata = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
        tiff.write(pixels, subifds=levels - 1, metadata=metadata, **options)
        if levels == 2:
            small = pixels[:1100, :1500].reshape(275, 4, 375, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8)
            tiff.write(small, subfiletype=1, **options)
    windows = []
    read = SlideImage.read

    def watched(self, y0, x0, y1, x1, **options):
        windows.append((y1 - y0, x1 - x0))
        return read(self, y0, x0, y1, x1, **options)

    monkeypatch.setattr(SlideImage, "read", watched)
    monkeypatch.setattr(tissue_masks, "BLOCK_PX", 512)
    image = open_image(hc.io.slide(path)["he"])
    density, dark = tissue_masks._density(image, 16)
    assert np.max(windows) <= 512
    assert density.shape == dark.shape == (69, 94)
    means = pixels[:1088, :1488].reshape(68, 16, 93, 16, 3).mean(axis=(1, 3))
    expected = np.maximum(-np.log10(means / np.maximum(image.background, 128)), 0).max(axis=-1)
    np.testing.assert_allclose(density[:68, :93], expected, atol=0.01)
