"""Tiles and many points, as they are drawn."""

from __future__ import annotations

import io

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from matplotlib.collections import EllipseCollection, PolyCollection
from skimage.color import rgb2lab
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import get_transformation

import histocell as hc

MPP = 2.0


@pytest.fixture
def tiles(sdata):
    """The 42 spots as tiles of 50 px that touch, or of the edge that was asked for."""

    def make(edge_px=50.0):
        table = sdata["table"]
        x, y = table.obsm["spatial"].T
        half = edge_px / 2
        frame = gpd.GeoDataFrame(geometry=shapely.box(x - half, y - half, x + half, y + half))
        placed = get_transformation(sdata["spots"], get_all=True)
        sdata["tiles"] = ShapesModel.parse(frame, transformations=dict(placed))
        tiles = table.copy()
        del tiles.uns["spatialdata_attrs"]
        tiles.obs["region"] = pd.Categorical(["tiles"] * tiles.n_obs)
        del sdata["table"]
        sdata["table"] = TableModel.parse(tiles, region="tiles", region_key="region", instance_key="spot_id")
        return sdata

    return make


def cells(n, *, grid=False):
    """Points at random, or on a square grid, whose value grows to the right."""
    g = np.random.default_rng(0)
    if grid:
        x, y = np.meshgrid(np.arange(int(np.sqrt(n))), np.arange(int(np.sqrt(n))))
        xy = np.column_stack([x.ravel(), y.ravel()]) * 8.0 + 0.3
    else:
        xy = g.random((n, 2)) * np.sqrt(n) * 8
    adata = AnnData(obs=pd.DataFrame({"section": "S1", "mpp": 1.0}, index=np.arange(len(xy)).astype(str)))
    adata.obsm["spatial"] = xy
    adata.obsm["predicted_abundance"] = pd.DataFrame({"a": xy[:, 0] / xy[:, 0].max()}, index=adata.obs_names)
    return adata


def rendered(ax):
    """Pixels of the axes, RGB, upper row first."""
    ax.figure.canvas.draw()
    box = ax.get_window_extent()
    height = ax.figure.bbox.height
    rows, columns = slice(int(height - box.y1) + 2, int(height - box.y0) - 2), slice(int(box.x0) + 2, int(box.x1) - 2)
    return np.asarray(ax.figure.canvas.buffer_rgba())[rows, columns, :3].astype(int)


def test_tiles_on_a_grid_are_its_pixels(tiles):
    sdata = tiles()
    xy, values = sdata["table"].obsm["spatial"] * MPP, sdata["table"].obsm["predicted_abundance"]["Tumour"]
    ax = hc.pl.abundance(sdata, "Tumour", truth=False, image=False)
    (drawn,) = ax.images
    left, right, bottom, top = drawn.get_extent()
    shown = drawn.get_array()
    step = (right - left) / shown.shape[1]
    assert step == pytest.approx(50 * MPP)
    for (x, y), value in zip(xy, values, strict=True):
        assert shown[int((y - top) // step), int((x - left) // step)] == pytest.approx(value)
    assert (left, top) == pytest.approx(xy.min(axis=0) - step / 2)
    assert (right, bottom) == pytest.approx(xy.max(axis=0) + step / 2)


@pytest.mark.parametrize("dpi", [72, 97, 100])
def test_no_seams_between_tiles(tiles, dpi):
    sdata = tiles()
    sdata["table"].obsm["predicted_abundance"]["Tumour"] = 1.0
    ax = hc.pl.abundance(sdata, "Tumour", truth=False, image=False, vmax=1.0)
    ax.figure.set_dpi(dpi)
    low, high = (
        (sdata["table"].obsm["spatial"] * MPP).min(axis=0) - 45,
        (sdata["table"].obsm["spatial"] * MPP).max(axis=0) + 45,
    )
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))  # within the tiles
    assert np.ptp(rendered(ax).reshape(-1, 3), axis=0).tolist() == [0, 0, 0]


def test_tissue_shows_through_tiles(tiles):
    sdata = tiles()
    sdata["table"].obsm["predicted_abundance"]["Tumour"] = 1.0

    def contrast(**kwargs):
        ax = hc.pl.abundance(sdata, "Tumour", truth=False, vmax=1.0, **kwargs)
        height, width, _ = (shown := rendered(ax)).shape
        return shown[height // 3 : -height // 3, width // 3 : -width // 3].std(axis=(0, 1)).max()

    assert contrast() > 8
    assert contrast(alpha=1.0) < 1
    assert contrast(alpha=0.2) > contrast() > contrast(alpha=0.9)
    assert hc.pl.abundance(sdata, "Tumour", truth=False, image=False).images[0].get_alpha() is None


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_tiles_have_the_colours_of_their_bar_on_dark_tissue(tiles, value):
    sdata = tiles()
    sdata["table"].obsm["predicted_abundance"]["Tumour"] = value

    def error(**kwargs):
        """Between the value and the one whose colour on the bar is nearest to that of the tiles."""
        ax = hc.pl.abundance(sdata, "Tumour", truth=False, vmax=1.0, **kwargs)
        shown = rendered(ax)
        height, width, _ = shown.shape
        seen = shown[height // 3 : -height // 3, width // 3 : -width // 3].mean(axis=(0, 1))
        (bar,) = ax.child_axes
        colors = bar._colorbar.cmap(np.linspace(0, 1, 256))[:, :3]
        nearest = np.argmin(np.linalg.norm(rgb2lab(colors) - rgb2lab(seen / 255), axis=1))
        return abs(nearest / 255 - value)

    assert error() < 0.1
    if 0 < value < 1:
        assert error() < error(image_alpha=1, alpha=0.6)


def test_tissue_is_grey_under_tiles_unless_its_opacity_is_given(tiles, spots, picture):
    under = hc.pl.abundance(tiles(), "Tumour", truth=False).images[0]
    assert (under.get_array().ndim, under.get_alpha()) == (2, 0.8)
    under = hc.pl.abundance(spots, "Tumour", truth=False, image=picture).images[0]
    assert (under.get_array().ndim, under.get_alpha()) == (3, 0.45)


def test_the_colour_bar_of_tiles_is_as_they_look_on_white(tiles):
    with plt.style.context("dark_background"):
        ax = hc.pl.abundance(tiles(), "Tumour", truth=False, alpha=0.5)
        (bar,) = ax.child_axes
        shown = rendered(bar)
    highest, lowest = np.array(ax.images[1].get_cmap()([1.0, 0.0]))[:, :3] * 255
    assert shown[1, 2] == pytest.approx((highest + 255) / 2, abs=3)
    assert shown[-2, 2] == pytest.approx((lowest + 255) / 2, abs=3)


def test_tiles_with_gaps_off_the_grid_or_unknown(tiles):
    sdata = tiles(30.0)
    ax = hc.pl.abundance(sdata, "Tumour", truth=False)
    (drawn,) = (each for each in ax.collections if isinstance(each, PolyCollection))
    np.testing.assert_allclose(np.ptp(drawn.get_paths()[0].vertices[:4], axis=0), 30 * MPP)
    np.testing.assert_allclose(drawn.get_paths()[0].vertices[:4].mean(axis=0), sdata["table"].obsm["spatial"][0] * MPP)


def test_unknown_tiles_are_hollow(tiles):
    sdata = tiles()
    sdata["table"].obsm["predicted_abundance"].iloc[:5] = np.nan
    ax = hc.pl.abundance(sdata, "Tumour", truth=False, image=False)
    (hollow,) = (each for each in ax.collections if isinstance(each, PolyCollection))
    assert len(hollow.get_paths()) == 5
    assert hollow.get_facecolor().size == 0
    assert ax.images[0].get_array().count() == sdata["table"].n_obs - 5


def test_tiles_whose_px_are_rounded_still_lie_on_a_grid(tiles):
    sdata = tiles()
    shapes = sdata["tiles"].copy()
    xy = np.round(np.column_stack([np.arange(42) % 7, np.arange(42) // 7]) * 49.44 + 60)
    shapes.geometry = shapely.box(*(xy - 25).T, *(xy + 25).T)
    sdata["tiles"] = shapes
    ax = hc.pl.abundance(sdata, "Tumour", truth=False, image=False)
    assert ax.images[0].get_array().shape == (6, 7)


def test_many_points_at_random_fill_the_map(tmp_path):
    ax = hc.pl.abundance(cells(20_000), "a")
    (drawn,) = (each for each in ax.collections if isinstance(each, EllipseCollection))
    assert drawn.get_rasterized()
    right = rendered(ax)[:, -80:-20]
    assert (right.min(axis=-1) < 200).mean() > 0.5, "pale where the value is high"
    pdf = io.BytesIO()
    ax.figure.savefig(pdf, format="pdf")
    assert pdf.tell() < 500_000


def test_points_too_many_to_be_told_apart_are_their_means():
    adata = cells(300_000)
    ax = hc.pl.abundance(adata, "a")
    (drawn,) = ax.images
    assert not ax.collections
    pixels, (left, right, _, top) = drawn.get_array(), drawn.get_extent()
    step = (right - left) / pixels.shape[1]
    xy, values = adata.obsm["spatial"], adata.obsm["predicted_abundance"]["a"].to_numpy()
    for row, column in [(0, 0), (100, 50), (pixels.shape[0] // 2, pixels.shape[1] // 3)]:
        x0, y0 = left + column * step, top + row * step
        inside = (xy[:, 0] >= x0) & (xy[:, 0] < x0 + step) & (xy[:, 1] >= y0) & (xy[:, 1] < y0 + step)
        assert inside.any()
        assert pixels[row, column] == pytest.approx(values[inside].mean())
    assert pixels.mask.mean() < 0.05
    assert step * ax.get_window_extent().width / np.ptp(ax.get_xlim()) < 2.5  # px


def test_many_points_on_a_grid_are_pixels():
    ax = hc.pl.abundance(cells(10_000, grid=True), "a")
    assert ax.images[0].get_array().shape == (100, 100)
    assert np.diff(ax.images[0].get_array(), axis=1).min() > 0


def test_many_points_without_a_value_are_grey():
    adata = cells(10_000, grid=True)
    adata.obsm["predicted_abundance"].loc[adata.obsm["spatial"][:, 0] < 400] = np.nan
    shown = rendered(hc.pl.abundance(adata, "a"))
    height, width, _ = shown.shape
    assert shown[height // 2, width // 4].tolist() == [178, 178, 178]


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_points_at_one_place(n):
    adata = cells(4)[:2].copy()
    adata = AnnData(obs=pd.DataFrame({"mpp": 1.0}, index=[str(i) for i in range(n)]))
    adata.obsm["spatial"] = np.full((n, 2), 50.0)
    adata.obsm["predicted_abundance"] = pd.DataFrame({"a": np.ones(n)}, index=adata.obs_names)
    hc.pl.abundance(adata).figure.draw_without_rendering()
    adata.obsm["spatial"][0] += 30  # all but one
    hc.pl.abundance(adata).figure.draw_without_rendering()
    assert plt.get_fignums()
