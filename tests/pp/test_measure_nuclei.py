from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from anndata import AnnData
from scipy import ndimage
from scipy.spatial.distance import cdist
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale

import histocell as hc
from histocell.images.slide_image import open_image
from histocell.images.stain.estimate import stains_of
from histocell.kernels.texture import unmix
from histocell.nuclei.measuring import blocks
from histocell.nuclei.measuring.columns import NAMES, SHAPE, STAIN
from histocell.nuclei.measuring.surroundings import circle_in_rectangle

MPP = 0.5
KEY = "nucleus_measurements"


SQUARE = shapely.box(100, 100, 120, 112)
ELLIPSE = shapely.affinity.rotate(shapely.affinity.scale(shapely.Point(300, 200).buffer(10, 64), 2, 1), -30)


def with_outlines(tissue, polygons, *, name="nuclei", mpp=MPP, transformation=None, table=True):
    """The image of a tissue with other outlines on it."""
    stand_ins = gpd.GeoDataFrame({"geometry": [SQUARE] * len(polygons)})
    shapes = ShapesModel.parse(stand_ins, transformations={"global": transformation or Identity()})
    shapes["geometry"] = polygons  # also such as the model refuses, and files may hold
    image = Image2DModel.parse(
        tissue["he"].data,
        dims=("c", "y", "x"),
        transformations={"global": Identity(), "um": Scale([mpp, mpp], axes=("x", "y"))},
    )
    obs = pd.DataFrame(
        {"region": pd.Categorical([name] * len(polygons)), "nucleus_id": np.arange(len(polygons))},
        index=[f"n{i}" for i in range(len(polygons))],
    )
    parsed = TableModel.parse(AnnData(obs=obs), region=name, region_key="region", instance_key="nucleus_id")
    tables = {"nucleus_table": parsed} if table else {}
    return sd.SpatialData(images={"he": image}, shapes={name: shapes}, tables=tables)


def measured(sdata, *args, **settings) -> pd.DataFrame:
    return hc.pp.measure_nuclei(sdata, *args, inplace=False, **settings)


def stain_maps(sdata, mpp=MPP) -> np.ndarray:
    image = open_image(sdata["he"], mpp=mpp)
    stains = stains_of(image, mpp=mpp)
    return unmix(image.read(0, 0, *image.shape), stains.density, stains.unmixing)


def test_shapes_are_exact(tissue):
    frame = measured(with_outlines(tissue, [SQUARE, ELLIPSE]))
    square, ellipse = frame.loc["n0"], frame.loc["n1"]
    assert list(frame.columns) == list(NAMES)
    np.testing.assert_allclose(square["area_um2"], 240 * MPP**2)
    np.testing.assert_allclose(square["perimeter_um"], 64 * MPP)
    np.testing.assert_allclose(square[["major_axis_um", "minor_axis_um"]], 4 * MPP * np.array([20, 12]) / np.sqrt(12))
    np.testing.assert_allclose(abs(square["orientation"]), np.pi / 2)
    np.testing.assert_allclose(ellipse[["major_axis_um", "minor_axis_um"]], [40 * MPP, 20 * MPP], rtol=1e-3)
    np.testing.assert_allclose(ellipse["eccentricity"], np.sqrt(0.75), rtol=1e-3)
    np.testing.assert_allclose(frame["solidity"], 1)
    # its long axis goes up to the right: 60 degrees from downwards towards -x
    np.testing.assert_allclose(ellipse["orientation"], -np.radians(60), atol=1e-3)


def test_outline_along_px_has_the_perimeter_of_the_line_through_their_edges(tissue):
    """A disc of px: 4 / pi too long along the edges, right to 6 % through their middles."""
    y, x = np.mgrid[:60, :60]
    squares = [shapely.box(c, r, c + 1, r + 1) for r, c in zip(*np.nonzero(np.hypot(y - 30, x - 30) < 20), strict=True)]
    disc = shapely.union_all(squares)
    frame = measured(with_outlines(tissue, [shapely.affinity.translate(disc, 200, 200), SQUARE]))
    assert disc.length * MPP > 1.2 * 2 * np.pi * 20 * MPP
    np.testing.assert_allclose(frame.loc["n0", "perimeter_um"], 2 * np.pi * 20 * MPP, rtol=0.06)
    np.testing.assert_allclose(frame.loc["n0", "area_um2"], len(squares) * MPP**2)


def test_stains_are_those_of_the_px_inside(tissue):
    sdata = with_outlines(tissue, [SQUARE, ELLIPSE])
    frame, (h, e, *_) = measured(sdata), stain_maps(sdata)
    y, x = np.mgrid[: h.shape[0], : h.shape[1]] + 0.5
    masks = [shapely.contains_xy(each, x, y) for each in (SQUARE, ELLIPSE)]
    for name, mask in zip(frame.index, masks, strict=True):
        inside = [h[mask].mean(), h[mask].std(), e[mask].mean(), e[mask].std()]
        np.testing.assert_allclose(frame.loc[name, list(STAIN[:4])].astype(float), inside, rtol=1e-5)
        ring = (ndimage.distance_transform_edt(~mask) <= 3 / MPP) & ~masks[0] & ~masks[1]
        np.testing.assert_allclose(
            frame.loc[name, list(STAIN[7:])].astype(float), [h[ring].mean(), e[ring].mean()], rtol=1e-5
        )


def test_dark_nuclei_are_dark_and_their_surroundings_are_not(tissue):
    hc.pp.measure_nuclei(tissue, "cells")
    frame = hc.get.nuclei(tissue)
    mean = frame.groupby("cell_type", observed=True)["haematoxylin_mean"].mean()
    assert mean["lymphocyte"] > 1.5 * mean["tumour"]
    assert (frame["haematoxylin_mean"] > 1.3 * frame["ring_haematoxylin_mean"]).mean() > 0.9
    xy = tissue["cell_table"].obsm["spatial"] * MPP
    np.testing.assert_allclose(frame[["x_um", "y_um"]], xy, atol=1e-6)
    apart = cdist(xy, xy)
    np.testing.assert_allclose(frame["density_per_mm2"] * 0, 0)
    middle = ((xy > 50) & (xy < 700 * MPP - 50)).all(axis=1)
    np.testing.assert_allclose(
        frame["density_per_mm2"][middle], (apart <= 50).sum(axis=1)[middle] / (np.pi * 0.05**2), rtol=1e-9
    )
    np.fill_diagonal(apart, np.inf)
    np.testing.assert_allclose(frame["nearest_um"], apart.min(axis=1), rtol=1e-9)


def test_circle_at_a_border_and_in_a_corner():
    points = np.array([[50.0, 50], [0, 50], [0, 0], [-20, 50], [200, 200]])
    found = circle_in_rectangle(points, 10.0, (100.0, 100.0))
    np.testing.assert_allclose(found, np.pi * 100 * np.array([1, 0.5, 0.25, 0, 0]), atol=0.2)


@pytest.mark.parametrize("block_px", [64, 333])
def test_blocks_change_nothing(tissue, block_px, monkeypatch):
    whole = measured(tissue, "cells", resolution_um=0.7)
    monkeypatch.setattr(blocks.Raster.__init__, "__defaults__", (block_px,))
    parts = measured(tissue, "cells", resolution_um=0.7)
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(parts[list(SHAPE)], whole[list(SHAPE)])


def test_shapes_in_another_coordinate_system_are_brought_to_the_image(tissue):
    """Outlines in um, turned by a quarter and moved, as those of a Xenium may be."""
    polygons = [SQUARE, ELLIPSE]
    matrix = np.array([[0, 2.0, 30], [-2.0, 0, 600], [0, 0, 1]])
    back = np.linalg.inv(matrix)
    turned = [shapely.transform(each, lambda xy: xy @ back[:2, :2].T + back[:2, 2]) for each in polygons]
    affine = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    other = measured(with_outlines(tissue, turned, transformation=affine))
    np.testing.assert_allclose(other, measured(with_outlines(tissue, polygons)), rtol=1e-6, atol=1e-6)


def test_odd_outlines_are_counted(tissue, user_sees):
    bow = shapely.Polygon([(50, 50), (70, 70), (70, 50), (50, 70)])
    two = shapely.MultiPolygon([shapely.box(300, 300, 310, 310), shapely.box(320, 300, 330, 310)])
    far, tiny, large = shapely.box(900, 900, 920, 920), shapely.box(10.1, 10.1, 10.3, 10.3), shapely.box(0, 0, 690, 690)
    sdata = with_outlines(tissue, [SQUARE, bow, shapely.Polygon(), None, two, far, tiny, large])
    with user_sees(
        "Nuclei", "outlines that are empty, cross themselves or lie elsewhere", UserWarning, match="of 8 outlines"
    ):
        hc.pp.measure_nuclei(sdata)
    frame = sdata["nucleus_table"].obsm[KEY]
    known = frame.notna()
    assert known.loc["n0"].all()
    np.testing.assert_allclose(frame.loc["n1", "area_um2"], 200 * MPP**2)  # both triangles
    assert not known.loc[["n2", "n3"]].any(axis=None)
    np.testing.assert_allclose(frame.loc["n4", "area_um2"], 200 * MPP**2)
    for name in ("n5", "n6", "n7"):
        assert known.loc[name, list(SHAPE)].all()
        assert not known.loc[name, list(STAIN)].any()
    odd = hc.get.provenance(sdata, KEY)["slides"]["nuclei"]["odd"]
    assert sorted(odd.values()) == [1, 1, 1, 1, 2, 2]  # the triangles are two parts, too


def test_overlapping_outlines_each_have_their_px(tissue):
    sdata = with_outlines(tissue, [SQUARE, SQUARE, ELLIPSE])
    with pytest.warns(UserWarning, match="2 share more than 5% of their px with others"):
        frame = measured(sdata)
    pd.testing.assert_series_equal(frame.loc["n0"], frame.loc["n1"], check_names=False)
    assert frame.loc["n0", "nearest_um"] == 0


def test_lines_are_no_nuclei(tissue, user_sees):
    sdata = with_outlines(tissue, [SQUARE])
    sdata.shapes["nuclei"].geometry = [shapely.LineString([(0, 0), (5, 5)])]
    with user_sees("Nuclei", "shapes that are lines", ValueError, match="no polygons but of type LineString"):
        hc.pp.measure_nuclei(sdata)


def test_what_is_not_there(tissue, user_sees):
    with user_sees("Nuclei", "no shapes of nuclei", KeyError, match="segment_nuclei"):
        hc.pp.measure_nuclei(tissue)
    with pytest.raises(TypeError, match="takes a SpatialData"):
        hc.pp.measure_nuclei(tissue["table"])
    sdata = with_outlines(tissue, [SQUARE], table=False)
    with user_sees("Nuclei", "outlines without a table", ValueError, match="no table annotates"):
        hc.pp.measure_nuclei(sdata)
    assert list(measured(sdata).index) == [0]


def test_image_of_unknown_resolution(tissue, user_sees):
    sdata = with_outlines(tissue, [SQUARE])
    sdata.images["he"] = Image2DModel.parse(tissue["he"].data, dims=("c", "y", "x"))
    with user_sees("Nuclei", "an image of unknown resolution", ValueError, match="resolution of image 'he' is unknown"):
        hc.pp.measure_nuclei(sdata)
    assert measured(sdata, mpp=0.25).loc["n0", "area_um2"] == 240 / 16


def test_image_that_is_no_he(tissue, user_sees):
    sdata = with_outlines(tissue, [SQUARE])
    grey = np.random.default_rng(0).integers(40, 60, (3, 700, 700)).astype(np.uint8)
    systems = dict(sdata["he"].attrs["transform"])
    sdata.images["he"] = Image2DModel.parse(grey, dims=("c", "y", "x"), transformations=systems)
    with user_sees("Nuclei", "a fluorescence image", UserWarning, match="too little tissue, or does not look like H&E"):
        hc.pp.measure_nuclei(sdata)
    assert hc.get.provenance(sdata, KEY)["slides"]["nuclei"]["stain_estimated"] is False


def test_table_of_cells_takes_measurements_of_nuclei(tissue):
    """As of a Xenium: the table annotates the cells, the nuclei have the same names, some cells have none."""
    tissue.shapes["nuclei"] = tissue.shapes["cells"].iloc[5:].iloc[::-1]
    with pytest.warns(UserWarning, match="5 of .* rows of the table have no shape in 'nuclei'"):
        hc.pp.measure_nuclei(tissue, table_key="cell_table")
    frame = tissue["cell_table"].obsm[KEY]
    assert frame.iloc[:5].isna().all(axis=None)
    whole = measured(tissue, "cells")
    pd.testing.assert_frame_equal(frame[list(SHAPE)].iloc[5:], whole[list(SHAPE)].iloc[5:])


def test_xenium_needs_no_table_named(tmp_path):
    """Its nuclei have the names of the cells; shapes that are numbered match no table by chance."""
    sdata = hc.io.xenium(hc.datasets.synthetic_xenium(tmp_path / "xenium", size_px=600))
    sdata["nuclei"].geometry = sdata["nuclei"].geometry.buffer(-0.5)  # its neighbours overlap a little
    hc.pp.measure_nuclei(sdata)
    area = hc.get.nuclei(sdata)["area_um2"]
    nuclei = sdata["nuclei"].loc[sdata["table"].obs[sdata["table"].uns["spatialdata_attrs"]["instance_key"]]]
    mpp = sdata["table"].obs["mpp"].to_numpy()
    assert np.corrcoef(area, nuclei.area * mpp**2)[0, 1] > 0.9999


def test_slides_are_measured_together_or_one_by_one(tmp_path):
    sdata = hc.datasets.synthetic_tissue(2, size_px=400, spot_pitch_um=50, spot_diameter_um=50)
    hc.pp.measure_nuclei(sdata, "cells-P1S1")
    table = sdata["cell_table"]
    first = (table.obs["section"] == "P1S1").to_numpy()
    assert table.obsm[KEY].loc[first, "area_um2"].notna().all()
    assert table.obsm[KEY].loc[~first].isna().all(axis=None)
    hc.pp.measure_nuclei(sdata, "cells-P2S1")
    one_by_one = table.obsm[KEY].copy()
    hc.pp.measure_nuclei(sdata, "cells")
    pd.testing.assert_frame_equal(table.obsm[KEY], one_by_one)
    assert sorted(hc.get.provenance(sdata, KEY, table_key="cell_table")["slides"]) == ["cells-P1S1", "cells-P2S1"]
    sdata.write(tmp_path / "sections.zarr")
    again = sd.read_zarr(tmp_path / "sections.zarr")
    pd.testing.assert_frame_equal(hc.get.nuclei(again), hc.get.nuclei(sdata))
