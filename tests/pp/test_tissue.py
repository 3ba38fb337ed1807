from __future__ import annotations

import anndata as ad
import geopandas as gpd
import numpy as np
import pytest
import shapely
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale, get_transformation

import histocell as hc
from histocell.images.slide_image import open_image
from histocell.images.tissue import find_tissue, tissue_fraction

GLASS, PINK = (242, 240, 243), (205, 130, 180)


def slide(shape=(1200, 1600), mpp=1.0, seed=0) -> np.ndarray:
    """A pink ellipse with a hole on glass, a speck of dust and a black border."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.empty((*shape, 3))
    image[:] = GLASS
    body = ((y - 600) / 400) ** 2 + ((x - 800) / 600) ** 2 < 1
    hole = (y - 600) ** 2 + (x - 800) ** 2 < 150**2
    image[body & ~hole] = PINK
    image[50:70, 50:70] = (90, 90, 90)
    image[:, :20] = 0
    noise = np.random.default_rng(seed).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def as_slide(image: np.ndarray, mpp: float | None = 1.0) -> SpatialData:
    systems = {"global": Identity()} | ({"um": Scale([mpp, mpp], axes=("y", "x"))} if mpp else {})
    element = Image2DModel.parse(np.moveaxis(image, -1, 0), dims=("c", "y", "x"), transformations=systems)
    return SpatialData(images={"he": element})


def test_mask_finds_body_and_hole_but_not_dust_or_fill():
    image = open_image(slide(), mpp=1.0)
    mask = find_tissue(image)
    truth = np.pi * (400 * 600 - 150**2)
    found = mask.mask.sum() * mask.scale[0] * mask.scale[1]
    assert found == pytest.approx(truth, rel=0.05)
    dust, hole, body = tissue_fraction(
        image, None, np.array([[40, 40, 80, 80], [550, 750, 650, 850], [400, 400, 500, 500]])
    )
    assert (dust, hole, body) == (0, 0, 1)


def test_empty_and_full_slides():
    rng = np.random.default_rng(0)
    empty = np.clip(np.array(GLASS) + rng.normal(0, 2, (500, 500, 3)), 0, 255).astype(np.uint8)
    assert find_tissue(open_image(empty, mpp=1.0)).mask.mean() == 0
    assert find_tissue(open_image(np.zeros((300, 300, 3), np.uint8), mpp=1.0)).mask.mean() == 0
    with pytest.raises(ValueError, match="no tissue found"):
        hc.pp.tissue_mask(as_slide(empty))


def test_outline_has_the_area_of_the_mask_and_the_place_of_the_image():
    sdata = as_slide(slide())
    hc.pp.tissue_mask(sdata)
    tissue = sdata.shapes["tissue"]
    assert len(tissue) == 1
    assert tissue["area_um2"].sum() == pytest.approx(np.pi * (400 * 600 - 150**2), rel=0.05)
    assert len(tissue.geometry.iloc[0].interiors) == 1
    assert set(get_transformation(tissue, get_all=True)) == {"global", "um"}
    centre = tissue.geometry.iloc[0].centroid
    assert abs(centre.x - 800) < 10
    assert abs(centre.y - 600) < 10


def test_tiles_cover_tissue_and_embed():
    sdata = as_slide(slide())
    hc.pp.tiles(sdata, size_um=100, min_tissue=0.5)
    table = sdata["tile_table"]
    assert (table.obs["tissue_fraction"] >= 0.5).all()
    area = table.n_obs * 100**2
    assert area == pytest.approx(np.pi * (400 * 600 - 150**2), rel=0.15)
    windows = table.obsm["patches"]
    assert len(np.unique(windows, axis=0)) == len(windows)
    hc.pp.embed_image(sdata, "timm/resnet18", weights="random")
    assert table.obsm["X_resnet18"].shape == (table.n_obs, 512)


def test_overlapping_tiles_are_more():
    sdata = as_slide(slide())
    once = hc.pp.tiles(sdata, size_um=200, inplace=False)["tile_table"].n_obs
    twice = hc.pp.tiles(sdata, size_um=200, overlap=0.5, inplace=False)["tile_table"].n_obs
    assert 3 * once < twice < 5 * once
    assert "tile_table" not in sdata.tables


def test_tiles_say_what_is_wrong():
    with pytest.raises(ValueError, match="no tile"):
        hc.pp.tiles(as_slide(slide()), size_um=600, min_tissue=1.0)
    with pytest.raises(ValueError, match="min_tissue must be a number from 0 to 1"):
        hc.pp.tiles(as_slide(slide()), size_um=100, min_tissue=1.01)
    with pytest.raises(ValueError, match="unknown"):
        hc.pp.tiles(as_slide(slide(), mpp=None))
    with pytest.raises(ValueError, match="overlap"):
        hc.pp.tiles(as_slide(slide()), overlap=1.0)
    with pytest.raises(TypeError, match="SpatialData"):
        hc.pp.tiles(ad.AnnData(np.ones((2, 2), np.float32)))
    with pytest.raises(TypeError, match="SpatialData"):
        hc.pp.tissue_mask(ad.AnnData(np.ones((2, 2), np.float32)))


@pytest.mark.parametrize("rule", ["rgb", "edge"])
def test_qc_flags_glass_and_not_tissue(rule):
    rng = np.random.default_rng(0)
    image = slide()
    image[300:900, 300:1300] = np.clip(image[300:900, 300:1300] + rng.normal(0, 25, (600, 1000, 3)), 0, 255)
    adata = ad.AnnData(np.ones((2, 1), np.float32), obsm={"spatial": np.array([[500.0, 600.0], [1500.0, 1100.0]])})
    hc.pp.patches(adata, image=image, mpp=1.0)
    hc.pp.patch_qc(adata, rule=rule, image=image)
    assert adata.obs["patch_background"].tolist() == [False, True]
    assert adata.obs["tissue_fraction"].tolist() == [1.0, 0.0]
    assert adata.obs["focus"].iloc[0] > adata.obs["focus"].iloc[1]


def test_qc_measures_on_the_tissue_that_was_drawn():
    sdata = as_slide(slide())
    left = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 800, 1200)])
    sdata.shapes["tissue"] = ShapesModel.parse(left, transformations=get_transformation(sdata["he"], get_all=True))
    hc.pp.tiles(sdata, size_um=200, overlap=0.5, min_tissue=0.0)
    table = sdata["tile_table"]
    laid = table.obs["tissue_fraction"].copy()
    assert set(laid) == {0.0, 0.5, 1.0}
    hc.pp.patch_qc(sdata)
    np.testing.assert_array_equal(table.obs["tissue_fraction"], laid)


def test_fraction_by_outlines_equals_a_mask():
    image = open_image(slide(), mpp=1.0)
    outlines = np.array([shapely.Point(500, 500).buffer(300, quad_segs=500), shapely.box(700, 100, 900, 1000)])
    y, x = np.mgrid[:1200, :1600] + 0.5
    mask = (np.hypot(y - 500, x - 500) < 300) | ((x > 700) & (x < 900) & (y > 100) & (y < 1000))
    start = np.random.default_rng(0).integers(0, 1000, (200, 2))
    windows = np.hstack([start, start + 120])
    expected = [mask[y0:y1, x0:x1].mean() for y0, x0, y1, x1 in windows]
    share = tissue_fraction(image, outlines, windows)
    np.testing.assert_allclose(share, expected, atol=2e-3)
    assert {0.0, 1.0} < set(share)
    assert tissue_fraction(image, outlines, np.array([[1100, 1500, 1110, 1510]])).tolist() == [0.0]
    assert tissue_fraction(image, outlines[:0], windows).max() == 0


def test_focus_falls_with_blur():
    from scipy.ndimage import gaussian_filter

    sharp = np.random.default_rng(0).integers(80, 220, (300, 300, 3), dtype=np.uint8)
    soft = gaussian_filter(sharp, (2, 2, 0))
    adata = ad.AnnData(np.ones((1, 1), np.float32), obsm={"spatial": np.array([[150.0, 150.0]])})
    hc.pp.patches(adata, image=sharp, mpp=0.5)
    focus = [hc.pp.patch_qc(adata, image=image, inplace=False)["focus"].item() for image in (sharp, soft)]
    assert focus[0] > focus[1] + 1


def test_qc_needs_patches_and_a_known_rule():
    adata = ad.AnnData(np.ones((1, 1), np.float32), obsm={"spatial": np.array([[150.0, 150.0]])})
    with pytest.raises(KeyError, match=r"hc\.pp\.patches"):
        hc.pp.patch_qc(adata)
    with pytest.raises(ValueError, match="rgb"):
        hc.pp.patch_qc(adata, rule="otsu")
