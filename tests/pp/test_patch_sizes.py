"""Patches of impossible sizes, and rows that lie on no image."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

import histocell as hc
from histocell._core.geometry import square_windows
from histocell.images.slide_image import open_image

NOT_A_SIZE = [np.inf, -np.inf, np.nan, -5, 0, "112", None, True]


def test_a_row_without_region(tissue, user_sees) -> None:
    """Its patch was whatever lay in memory."""
    table = tissue["table"]
    hc.pp.patches(tissue)
    key = table.uns["spatialdata_attrs"]["region_key"]
    labels = table.obs[key].astype(object)
    labels.iloc[:2] = np.nan
    table.obs[key] = pd.Categorical(labels)
    with user_sees("Slides", "rows of a SpatialData without a region", ValueError, match=r"missing in 2 rows \(spot0"):
        hc.pp.patches(tissue)
    with pytest.raises(ValueError, match="missing in 2 rows"):
        hc.pp.embed_image(tissue)
    with pytest.raises(ValueError, match="missing in 2 rows"):
        hc.io.to_anndata(tissue)
    del table.obs[key]
    with pytest.raises(KeyError, match=r'obs\["region"\] not found'):
        hc.pp.patches(tissue)


@pytest.mark.parametrize("size_um", NOT_A_SIZE)
def test_what_is_no_size(tissue, size_um: object) -> None:
    """Infinity gave windows of -2147483648; None a bare TypeError."""
    for function in (hc.pp.patches, hc.pp.tiles):
        with pytest.raises((TypeError, ValueError), match="size_um must be a positive number"):
            function(tissue, size_um=size_um)
    with pytest.raises((TypeError, ValueError), match="size_um must be a positive number"):
        hc.pp.embed_patches(tissue, "timm/resnet18", size_um=size_um)
    assert "patches" not in tissue["table"].obsm


def test_sizes_beyond_the_slide(tissue, user_sees) -> None:
    with user_sees("Slides", "patches smaller than a px", ValueError, match="they need at least 1 px"):
        hc.pp.patches(tissue, size_um=1e-9)
    with user_sees(
        "Slides", "patches larger than the slide", ValueError, match="larger than the image .* 350 x 350 um"
    ):
        hc.pp.patches(tissue, size_um=10_000)
    with pytest.raises(ValueError, match="larger than the image .* 350 x 350 um"):
        hc.pp.tiles(tissue, size_um=10_000)
    with pytest.raises(ValueError, match="need at least 8 px"):
        hc.pp.tiles(tissue, size_um=1e-9)
    hc.pp.patches(tissue, size_um=350)  # as large as the slide


@pytest.mark.parametrize("encoder", ["morphology", "module"])
def test_patches_of_ones_own_beyond_the_slide(tissue, encoder: str) -> None:
    """One of 10,000 um took 2 GB, one of 100,000 um all there was."""
    import torch

    hc.pp.patches(tissue)
    table = tissue["table"]
    table.obsm["patches"] = square_windows(table.obsm["spatial"], 200_000)
    del table.uns["histocell"]
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(ValueError, match=r"size_um=100000 are larger than the image"):
        hc.pp.embed_image(tissue, "morphology" if encoder == "morphology" else module)


def test_direct_calls(tissue) -> None:
    image = open_image(tissue["he"])
    with pytest.raises(ValueError, match="larger than the image"):
        hc.encoders.load("morphology").embed(image, np.array([[100.0, 100.0]]), mpp=0.5, size_um=5000)


def test_tiles_without_area(tissue) -> None:
    hc.pp.tiles(tissue, size_um=56, min_tissue=0)
    boxes = gpd.GeoDataFrame(geometry=[*tissue["tiles"].geometry[:3], shapely.Polygon()])
    boxes.attrs = tissue["tiles"].attrs
    tissue.shapes["tiles"] = boxes
    with pytest.raises(ValueError, match="empty geometries"):
        hc.pp.tiles_from_shapes(tissue)


def test_windows_far_outside_do_not_wrap() -> None:
    windows = square_windows([[2.0**32 + 100, -1e300], [50, 60]], 20)
    assert windows[1].tolist() == [50, 40, 70, 60]
    assert (np.abs(windows[0].astype(float)) >= 2**30 - 20).all()
