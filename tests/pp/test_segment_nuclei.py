"""Nuclei of whole slides: each once wherever blocks end, in the right place, in shapes and table; bad input."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import spatialdata as sd
from geopandas import GeoDataFrame
from scipy import ndimage
from skimage.draw import disk
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale

import histocell as hc
from histocell.images.slide_image import open_image

SIZE = (700, 900)
RADIUS = 8


def slide(pixels: np.ndarray, mpp: float = 0.5, name: str = "he") -> sd.SpatialData:
    """A slide with these pixels."""
    to_um = {"global": Identity(), "um": Scale([mpp, mpp], axes=("x", "y"))}
    image = Image2DModel.parse(pixels.transpose(2, 0, 1), dims=("c", "y", "x"), transformations=to_um)
    return sd.SpatialData(images={name: image})


def discs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A pale slide with dark discs that do not touch, and their centres (x, y)."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*SIZE, 3), (235, 215, 230), np.uint8)
    grid = np.stack(np.meshgrid(np.arange(20, SIZE[1] - 20, 24), np.arange(20, SIZE[0] - 20, 24)), -1).reshape(-1, 2)
    centers = grid + rng.integers(-3, 4, grid.shape)
    for x, y in centers:
        pixels[disk((y, x), RADIUS, shape=SIZE)] = (90, 60, 140)
    return pixels, centers


def dark(image: np.ndarray, mpp: float) -> np.ndarray:
    """Connected dark pixels."""
    return ndimage.label(image[..., 0] < 160)[0]


def segmented(sdata: sd.SpatialData, **options: object) -> GeoDataFrame:
    options = {"method": dark, "region": None, "measure": False, **options}
    return hc.pp.segment_nuclei(sdata, inplace=False, **options)["nuclei"]


@pytest.mark.parametrize("block_px", [64, 97, 256, 2048])
def test_each_disc_is_found_once_wherever_blocks_end(block_px):
    pixels, centers = discs()
    found = segmented(slide(pixels), block_px=block_px)
    assert len(found) == len(centers)
    assert found.index.tolist() == list(range(len(centers)))
    xy = shapely.get_coordinates(shapely.centroid(found.geometry.to_numpy()))
    order = np.lexsort((centers[:, 0], centers[:, 1]))
    assert np.abs(xy - (centers[order] + 0.5)).max() < 0.01  # px k covers k to k + 1
    area = (np.hypot(*np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]) < RADIUS).sum()
    assert np.allclose(found.area, area - 0.5)


@pytest.mark.parametrize("mpp", [0.25, 0.3, 0.48, 0.8])
def test_outlines_are_in_px_of_the_slide_at_any_resolution(mpp):
    pixels, centers = discs()
    sdata = slide(pixels, mpp)
    options = {"method_mpp": 0.5}
    if mpp == 0.8:
        with pytest.warns(UserWarning, match="small or crowded nuclei may be missed"):
            found = segmented(sdata, **options)
    else:
        found = segmented(sdata, **options)
    assert len(found) == len(centers)
    xy = shapely.get_coordinates(shapely.centroid(found.geometry.to_numpy()))
    distance = np.hypot(*(xy[:, None] - (centers + 0.5)).transpose(2, 0, 1)).min(axis=1)
    assert distance.max() < 0.35 * max(0.5 / mpp, 1)
    assert np.median(found.area) == pytest.approx(np.pi * RADIUS**2, rel=0.15)


def test_blocks_that_see_other_outlines_make_no_twins_and_lose_nothing():
    """A method whose outlines and centres differ from block to block, as those of a network may."""
    pixels, centers = discs()

    def shaky(image: np.ndarray, mpp: float) -> np.ndarray:
        rng = np.random.default_rng(int(image.sum()))
        labels = ndimage.shift(dark(image, mpp), rng.integers(-3, 4, 2), order=0)
        return labels * ndimage.binary_dilation(labels > 0, iterations=int(rng.integers(1, 3)))

    for block_px in (64, 130):
        found = segmented(slide(pixels), method=shaky, block_px=block_px)
        xy = shapely.get_coordinates(shapely.centroid(found.geometry.to_numpy()))
        distance = np.hypot(*(xy[:, None] - centers).transpose(2, 0, 1))
        assert (distance < 6).sum(axis=0).tolist() == [1] * len(centers)
        assert len(found) == len(centers)


def test_watershed_sees_the_same_in_blocks_of_any_size(tissue):
    whole = hc.pp.segment_nuclei(tissue, method="watershed", inplace=False)["nuclei"]
    for block_px in (150, 333):
        parts = hc.pp.segment_nuclei(tissue, method="watershed", inplace=False, block_px=block_px)["nuclei"]
        same = set(shapely.to_wkb(whole.geometry)) & set(shapely.to_wkb(parts.geometry))
        assert len(same) >= 0.999 * max(len(whole), len(parts))


def test_no_seam_in_the_density_of_nuclei(tissue):
    """Near borders of blocks there are as many nuclei as those that one block finds there."""
    whole, parts = (
        hc.pp.segment_nuclei(tissue, inplace=False, block_px=block_px)["nucleus_table"] for block_px in (2048, 128)
    )
    near = [(np.abs((table.obsm["spatial"] + 64) % 128 - 64) < 8).any(axis=1).sum() for table in (whole, parts)]
    assert near[0] == near[1] > 100


def test_most_cells_of_the_synthetic_tissue_are_found(tissue):
    hc.pp.segment_nuclei(tissue)
    truth = shapely.get_coordinates(tissue["cells"].geometry.to_numpy())
    found = tissue["nucleus_table"].obsm["spatial"]
    distance = np.hypot(*(truth[:, None] - found).transpose(2, 0, 1)).min(axis=1)
    assert (distance * 0.5 < 3).mean() > 0.75


def test_shapes_and_table_fit_and_survive_a_file(tissue, tmp_path):
    hc.pp.segment_nuclei(tissue)
    shapes, table = tissue["nuclei"], tissue["nucleus_table"]
    assert shapely.is_valid(shapes.geometry).all()
    assert (shapely.get_type_id(shapes.geometry) == shapely.GeometryType.POLYGON).all()
    assert shapes.index.name == "nucleus_id"
    assert shapes.index.dtype == np.int64
    assert set(shapes.attrs["transform"]) == {"global", "um"}
    assert table.n_vars == 0
    assert table.obs["nucleus_id"].tolist() == shapes.index.tolist()
    assert set(table.obs["section"]) == {"he"}
    assert (table.obs["mpp"] == 0.5).all()
    assert np.allclose(table.obsm["spatial"], np.column_stack([shapes.centroid.x, shapes.centroid.y]))
    assert hc.get.provenance(table, "nuclei")["method"] == "unet"
    tissue.write(tmp_path / "tissue.zarr")
    back = sd.read_zarr(tmp_path / "tissue.zarr")
    matched = sd.match_table_to_element(back, "nuclei", "nucleus_table")
    assert matched.obs["nucleus_id"].tolist() == shapes.index.tolist()


def test_only_nuclei_centred_in_the_region():
    pixels, centers = discs()
    sdata = slide(pixels)
    box = shapely.box(100, 100, 300, 400)
    hole = shapely.box(150, 150, 200, 200)
    sdata["tumour"] = ShapesModel.parse(GeoDataFrame(geometry=[box - hole]))
    found = segmented(sdata, region="tumour", block_px=64)
    inside = shapely.contains_xy(box - hole, *(centers + 0.5).T)
    assert len(found) == inside.sum()
    sdata["tissue"] = ShapesModel.parse(GeoDataFrame(geometry=[box]))
    assert len(segmented(sdata, region="tissue")) == shapely.contains_xy(box, *(centers + 0.5).T).sum()


def test_regions_follow_their_coordinate_system():
    pixels, centers = discs()
    sdata = slide(pixels)
    box = shapely.box(100, 100, 300, 400)
    in_um = shapely.transform(box, lambda xy: xy * 0.5)
    sdata["tissue"] = ShapesModel.parse(GeoDataFrame(geometry=[in_um]), transformations={"um": Identity()})
    assert len(segmented(sdata, region="tissue")) == shapely.contains_xy(box, *(centers + 0.5).T).sum()


def test_several_slides_share_a_table():
    (a, _), (b, _) = discs(0), discs(1)
    both = sd.concatenate({"a": slide(a), "b": slide(b[::-1, :450])})
    for name in "ab":
        hc.pp.segment_nuclei(both, method=dark, region=None, image_key=f"he-{name}", measure=False)
    table = both["nucleus_table"]
    assert set(table.obs["region"]) == {"nuclei-a", "nuclei-b"}
    assert table.obs_names.is_unique
    assert table.n_obs == len(both["nuclei-a"]) + len(both["nuclei-b"])
    for name in "ab":
        rows = table[table.obs["region"] == f"nuclei-{name}"]
        assert set(rows.obs["section"]) == {name}
        assert np.allclose(rows.obsm["spatial"][:, 0], both[f"nuclei-{name}"].centroid.x)
        assert hc.get.provenance(table, f"nuclei-{name}")["method"] == "dark"


def test_what_was_computed_of_nuclei_is_not_lost_without_a_word():
    pixels, _ = discs()
    sdata = slide(pixels)
    options = {"region": None, "measure": False}
    hc.pp.segment_nuclei(sdata, method=dark, **options)
    sdata["nucleus_table"].obs["cell_type"] = "tumour"
    hc.pp.segment_nuclei(sdata, method=dark, block_px=128, **options)  # the same nuclei
    assert "cell_type" in sdata["nucleus_table"].obs

    def left(image: np.ndarray, mpp: float) -> np.ndarray:
        return np.where(np.arange(image.shape[1]) < 300, dark(image, mpp), 0)

    with pytest.raises(ValueError, match=r'obs\["cell_type"\] of theirs would be lost'):
        hc.pp.segment_nuclei(sdata, method=left, **options)
    hc.pp.segment_nuclei(sdata, method=left, overwrite=True, **options)
    assert "cell_type" not in sdata["nucleus_table"].obs
    assert len(sdata["nuclei"]) == sdata["nucleus_table"].n_obs


def test_an_image_without_tissue_outline_smaller_than_any_tissue():
    """A region of 512 px at 0.25 um: less than the smallest piece of tissue on a slide."""
    image = open_image(hc.datasets.synthetic_tissue(size_px=800, mpp=0.25, rng=3)["he"])
    pixels = image.read(100, 100, 500, 500)
    assert len(hc.pp.segment_nuclei(slide(pixels, 0.25), inplace=False)["nuclei"]) > 20


class TestBadInput:
    def test_nuclei_of_another_origin(self, user_sees):
        sdata = slide(discs()[0])
        sdata["nuclei"] = ShapesModel.parse(GeoDataFrame(geometry=[shapely.box(5, 5, 9, 9)]))
        with user_sees("Nuclei", "nuclei of a reader under the name", ValueError, match="another name"):
            hc.pp.segment_nuclei(sdata, method=dark, region=None)
        assert len(sdata["nuclei"]) == 1

    def test_blank_slide(self, user_sees):
        blank = slide(np.full((400, 500, 3), 240, np.uint8))
        with user_sees("Nuclei", "a blank slide", ValueError, match="no tissue"):
            hc.pp.segment_nuclei(blank)
        with user_sees("Nuclei", "a blank slide, all of it", ValueError, match="found no nucleus"):
            hc.pp.segment_nuclei(blank, method=dark, region=None)
        assert not blank.shapes

    @pytest.mark.parametrize(
        ("given", "ink"),
        [
            ("red pen over tissue", (200, 30, 40)),
            ("blue pen over tissue", (60, 70, 180)),
            ("grey pen over tissue", (90, 90, 90)),
        ],
    )
    def test_pen_over_tissue(self, user_sees, tissue, given, ink):
        image = np.moveaxis(np.asarray(tissue["he"].data), 0, -1)
        y, x = np.indices(image.shape[:2])
        stroke = (np.abs(y - x) < 60)[..., None]
        marked = slide(np.where(stroke, image * (np.array(ink) / 245), image).astype(np.uint8))
        with user_sees("Nuclei", given, UserWarning, match="ink"):
            hc.pp.segment_nuclei(marked, region=None, measure=False)
        assert len(marked["nuclei"]) > 100

    def test_unknown_resolution(self, user_sees):
        image = Image2DModel.parse(np.zeros((3, 300, 300), np.uint8), dims=("c", "y", "x"))
        with user_sees(
            "Nuclei", "a slide of unknown resolution", ValueError, match="resolution of image 'he' is unknown"
        ):
            hc.pp.segment_nuclei(sd.SpatialData(images={"he": image}))

    def test_thumbnail(self, user_sees):
        with user_sees("Nuclei", "a slide of 8 um per px", ValueError, match="too coarse"):
            hc.pp.segment_nuclei(slide(discs()[0], 8.0))

    def test_no_spatialdata(self, tissue):
        with pytest.raises(TypeError, match="takes a SpatialData"):
            hc.pp.segment_nuclei(tissue["table"])

    def test_missing_region(self, user_sees):
        with user_sees("Nuclei", "a region that is not there", KeyError, match="tumour"):
            hc.pp.segment_nuclei(slide(discs()[0]), region="tumour")

    def test_region_beside_the_image(self):
        sdata = slide(discs()[0])
        sdata["tissue"] = ShapesModel.parse(GeoDataFrame(geometry=[shapely.box(5000, 5000, 6000, 6000)]))
        with pytest.raises(ValueError, match="beside the image"):
            hc.pp.segment_nuclei(sdata)

    def test_blocks_beyond_the_memory(self, user_sees, monkeypatch):
        import psutil

        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**20})())
        with user_sees("Nuclei", "blocks that do not fit into the memory", ValueError, match="GiB"):
            segmented(slide(discs()[0]), block_px=8192)

    @pytest.mark.parametrize("block_px", [0, 63, -5])
    def test_tiny_blocks(self, block_px):
        with pytest.raises(ValueError, match="block_px must be at least 64"):
            segmented(slide(discs()[0]), block_px=block_px)

    def test_objects_larger_than_the_margin(self, user_sees):
        pixels = discs()[0]
        pixels[300:420] = (90, 60, 140)
        with user_sees("Nuclei", "objects larger than a nucleus can be", UserWarning, match="give a larger halo_um"):
            segmented(slide(pixels), block_px=128, halo_um=2)


class TestMeasurements:
    def test_are_of_the_nuclei(self, tissue):
        hc.pp.segment_nuclei(tissue)
        table = tissue["nucleus_table"]
        measured = table.obsm["nucleus_measurements"]
        assert np.allclose(measured["area_um2"], tissue["nuclei"].area * 0.25)
        apart = hc.pp.segment_nuclei(tissue, inplace=False)
        assert not apart.images
        assert np.allclose(apart["nucleus_table"].obsm["nucleus_measurements"], measured, equal_nan=True)

    def test_of_several_slides(self, tissue):
        both = sd.concatenate({"a": tissue.subset(["he"]), "b": tissue.subset(["he"])})
        hc.pp.segment_nuclei(both, image_key="he-a")
        hc.pp.segment_nuclei(both, image_key="he-b", settings={"sensitivity": 0.3})
        table = both["nucleus_table"]
        assert table.obsm["nucleus_measurements"]["area_um2"].notna().all()
        hc.pp.segment_nuclei(both, image_key="he-b", settings={"sensitivity": 0.6})  # nothing is lost but measurements
        table = both["nucleus_table"]
        assert table.obsm["nucleus_measurements"]["area_um2"].notna().all()
        assert set(hc.get.provenance(table, "nucleus_measurements")["slides"]) == {"nuclei-a", "nuclei-b"}
        assert (table.obs["region"] == "nuclei-b").sum() == len(both["nuclei-b"])
