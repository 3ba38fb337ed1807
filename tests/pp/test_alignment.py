from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from shapely.geometry import Polygon
from spatialdata.models import ShapesModel
from spatialdata.transformations import Affine, get_transformation, set_transformation

import histocell as hc
from histocell.images.transformations import matrix_to_image
from histocell.tables.placed_nuclei import _is_grid


@pytest.fixture(scope="module")
def made() -> sd.SpatialData:
    return hc.datasets.synthetic_tissue(size_px=800, rng=3)


@pytest.fixture
def sdata(made):
    """A copy whose elements can be changed."""
    shapes = {name: made[name].copy() for name in ("cells", "spots")}
    for name, frame in shapes.items():
        frame.attrs = {"transform": dict(made[name].attrs["transform"])}
    return sd.SpatialData(
        images={"he": made["he"]}, shapes=shapes, tables={name: made[name].copy() for name in ("cell_table", "table")}
    )


def move(sdata, name, matrix):
    """Coordinates of an element in all systems, as if they had been read so."""
    for system, each in get_transformation(sdata[name], get_all=True).items():
        whole = each.to_affine_matrix(("x", "y"), ("x", "y")) @ matrix
        set_transformation(sdata[name], Affine(whole, ("x", "y"), ("x", "y")), system)


def shift(x, y):
    matrix = np.eye(3)
    matrix[:2, 2] = x, y
    return matrix


SWAP = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])


def cells_of(sdata):
    """The cells as an AnnData without shapes, and the image."""
    table = sdata["cell_table"]
    adata = ad.AnnData(obs=pd.DataFrame({"mpp": 0.5}, index=table.obs_names))
    adata.obsm["spatial"] = table.obsm["spatial"].copy()
    return adata, sdata["he"].data


def test_cells_that_fit(sdata, tmp_path):
    hc.pp.check_alignment(sdata)  # the cells, not the spots
    row = hc.get.alignment(sdata).iloc[0]
    assert row["verdict"] == "fits"
    assert row["effect"] > 1
    assert row["p"] == pytest.approx(1 / (1 + row["n_shifts"]))
    assert abs(row["offset_x_um"]) < 0.2
    assert "alignment" not in sdata["table"].uns
    assert hc.get.provenance(sdata, "alignment", table_key="cell_table")["verdicts"] == {"P1S1": "fits"}
    sdata["cell_table"].write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(hc.get.alignment(back), hc.get.alignment(sdata), check_dtype=False)
    np.testing.assert_array_equal(back.uns["alignment"]["matrix"], sdata["cell_table"].uns["alignment"]["matrix"])


def test_repr_says_it_in_a_sentence(sdata):
    result = hc.pp.check_alignment(sdata, inplace=False)
    assert "alignment" not in sdata["cell_table"].uns
    assert "P1S1: fits (effect " in repr(result)
    assert f"n = {sdata['cell_table'].n_obs}" in repr(result)
    assert result.tried["map"].iloc[0] == "as it is"
    profile = result.profile.groupby("axis")
    assert (profile.apply(lambda line: line.loc[line["effect"].idxmax(), "shift_um"]) == 0).all()


def test_shift_is_measured_and_removed(sdata):
    before = sdata["cell_table"].obsm["spatial"].copy()
    move(sdata, "cells", shift(40, -24))
    sdata["cell_table"].obsm["spatial"] = before + [40.0, -24.0]
    with pytest.warns(UserWarning, match=r"P1S1 shifted: nuclei must move by x -20\.0, y \+12\.0 um"):
        hc.pp.check_alignment(sdata)
    assert hc.get.alignment(sdata).loc[0, "verdict"] == "shifted"
    hc.pp.refine_alignment(sdata)
    assert hc.get.alignment(sdata).loc[0, "verdict"] == "fits"
    np.testing.assert_allclose(sdata["cell_table"].obsm["spatial"], before, atol=0.5)
    np.testing.assert_allclose(matrix_to_image(sdata["cells"], sdata["he"]), np.eye(3), atol=0.5)
    in_um = get_transformation(sdata["cells"], "um").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(in_um, np.diag([0.5, 0.5, 1]), atol=0.25)
    record = hc.get.provenance(sdata, "spatial", table_key="cell_table")["refined"]
    np.testing.assert_allclose(np.array(record[-1]["P1S1"])[:2, 2], [-40, 24], atol=0.5)


def test_what_no_small_move_repairs_is_left_alone(sdata):
    move(sdata, "cells", SWAP)
    with pytest.warns(UserWarning, match="swapped: x and y swapped"):
        result = hc.pp.check_alignment(sdata, inplace=False)
    assert result.sections.loc[0, "verdict"] == "swapped"
    was = sdata["cells"].attrs["transform"].copy()
    with pytest.raises(ValueError, match=r"cannot be refined: swapped.*exchange x and y"):
        hc.pp.refine_alignment(sdata)
    assert sdata["cells"].attrs["transform"] == was


def test_similarity(sdata):
    adata, image = cells_of(sdata)
    adata.obsm["spatial"] = (truth := adata.obsm["spatial"]) * 1.03
    with pytest.raises(ValueError, match=r'wrong pixel size.*kind="similarity" turns and scales'):
        hc.pp.refine_alignment(adata, image=image)
    np.testing.assert_array_equal(adata.obsm["spatial"], truth * 1.03)
    hc.pp.refine_alignment(adata, image=image, kind="similarity")
    assert np.abs(adata.obsm["spatial"] - truth).max() < 2
    assert hc.get.alignment(adata).loc[0, "verdict"] == "fits"


def test_elements_that_belong_together(sdata):
    frame = sdata["cells"].copy()
    frame.attrs = {"transform": dict(sdata["cells"].attrs["transform"])}
    sdata["cell_rings"] = frame
    for name in ("cells", "cell_rings"):
        move(sdata, name, shift(20, 0))
    sdata["cell_table"].obsm["spatial"] += [20.0, 0.0]
    with pytest.raises(KeyError, match="no_such"):
        hc.pp.refine_alignment(sdata, table_key="cell_table", also="no_such")
    with pytest.warns(UserWarning, match=r"'cell_rings' were not moved with 'cells'; also="):
        hc.pp.refine_alignment(sdata, table_key="cell_table")
    move(sdata, "cells", shift(20, 0))
    sdata["cell_table"].obsm["spatial"] += [20.0, 0.0]
    hc.pp.refine_alignment(sdata, table_key="cell_table", also="cell_rings")
    np.testing.assert_allclose(
        matrix_to_image(sdata["cell_rings"], sdata["he"]), matrix_to_image(sdata["cells"], sdata["he"]), atol=0.5
    )


def test_stale_patches_and_other_units(sdata):
    adata, image = cells_of(sdata)
    adata.obsm["spatial"] += 16.0
    adata.obsm["patches"] = np.zeros((adata.n_obs, 4), np.int32)
    with pytest.warns(UserWarning, match=r"run hc\.pp\.patches\(data\) again"):
        hc.pp.refine_alignment(adata, image=image)
    table = sdata["cell_table"]
    table.obsm["spatial"] = table.obsm["spatial"] * 0.5  # um, as of a Xenium
    before = table.obsm["spatial"].copy()
    move(sdata, "cells", shift(20, 0))
    table.obsm["spatial"] += [10.0, 0.0]
    hc.pp.refine_alignment(sdata)
    np.testing.assert_allclose(table.obsm["spatial"], before, atol=0.3)
    move(sdata, "cells", shift(20, 0))
    table.obsm["spatial"] += 1234.0
    with pytest.warns(UserWarning, match="neither in px nor in um"):
        hc.pp.refine_alignment(sdata)


def test_polygons_without_a_table(sdata):
    ring = np.array([[-7, -7], [7, -7], [7, 7], [-7, 7]])
    xy = sdata["cell_table"].obsm["spatial"]
    import geopandas as gpd

    frame = gpd.GeoDataFrame(geometry=[Polygon(point + ring) for point in xy])
    sdata["nuclei"] = ShapesModel.parse(frame, transformations=dict(sdata["cells"].attrs["transform"]))
    del sdata.tables["cell_table"]
    del sdata.tables["table"]
    with pytest.raises(ValueError, match="no single table annotates shapes 'nuclei'"):
        hc.pp.check_alignment(sdata)
    row = hc.pp.check_alignment(sdata, inplace=False).sections.iloc[0]
    assert row["verdict"] == "fits"
    assert row["radius_um"] == pytest.approx(7 / np.sqrt(np.pi), rel=0.01)  # of the area of 14 x 14 px of 0.5 um


def test_bad_input(sdata):
    adata, image = cells_of(sdata)
    with pytest.raises(ValueError, match="at least 20 nuclei are needed in each section: .* has 19"):
        hc.pp.check_alignment(adata[:19].copy(), image=image)
    with pytest.raises(ValueError, match="lie on a grid, as spots and bins do"):
        hc.pp.check_alignment(sdata, table_key="table")
    with pytest.raises(ValueError, match="max_shift_um must be at least 50"):
        hc.pp.check_alignment(adata, image=image, max_shift_um=10)
    with pytest.raises(ValueError, match="radius_um must be a positive number"):
        hc.pp.check_alignment(adata, image=image, radius_um=-1)
    with pytest.raises(KeyError, match="shapes 'nuclei' not found; available: cells, spots"):
        hc.pp.check_alignment(sdata, shapes_key="nuclei")
    with pytest.raises(TypeError, match="shapes_key= is for a SpatialData"):
        hc.pp.check_alignment(adata, shapes_key="nuclei", image=image)
    with pytest.raises(ValueError, match="kind must be"):
        hc.pp.refine_alignment(adata, image=image, kind="affine")
    with pytest.raises(KeyError, match=r"Run hc\.pp\.check_alignment\(data\) first"):
        hc.get.alignment(adata)
    with pytest.raises(KeyError, match=r"Run hc\.pp\.check_alignment\(data\) first"):
        hc.get.alignment(sdata)
    adata.obsm["spatial"][3] = np.nan
    with pytest.raises(ValueError, match="not finite in 1 rows"):
        hc.pp.check_alignment(adata, image=image)
    adata.obs["mpp"] = np.nan
    adata.obsm["spatial"][3] = 0
    with pytest.raises(ValueError, match="resolution .* unknown"):
        hc.pp.check_alignment(adata, image=np.asarray(image))
    del sdata.images["he"]
    with pytest.raises(ValueError, match="no image lies under region 'cells'"):
        hc.pp.check_alignment(sdata)


def test_what_is_no_he_says_so(sdata):
    adata, image = cells_of(sdata)
    pixels = np.asarray(image)
    with pytest.warns(UserWarning, match="does not look like"), pytest.warns(UserWarning, match="brighter under the"):
        result = hc.pp.check_alignment(adata, image=255 - pixels, inplace=False)
    assert result.sections.loc[0, "verdict"] == "unrelated"
    with pytest.warns(UserWarning, match="there is no tissue under"):
        hc.pp.check_alignment(adata, image=np.full_like(pixels, 240), inplace=False)
    adata.obsm["spatial"] += 1e5
    with pytest.warns(UserWarning, match=r"none of \d+ nuclei lies on the image of 800 x 800 px"):
        hc.pp.check_alignment(adata, image=image, inplace=False)


def test_brown_stain_is_told_from_the_density(sdata):
    """Nuclei of an IHC image are dark, too: the check holds, and says what it looked at."""
    adata, image = cells_of(sdata)
    density = np.log(250 / np.maximum(np.asarray(image, dtype=float), 1)).mean(axis=0)
    brown = 245 * np.exp(-density * np.array([0.6, 1.1, 1.6])[:, None, None])
    with pytest.warns(UserWarning, match="does not look like haematoxylin and eosin"):
        result = hc.pp.check_alignment(adata, image=brown.astype(np.uint8), inplace=False)
    assert result.sections.loc[0, "verdict"] == "fits"
    assert not result.sections.loc[0, "stains_estimated"]


def test_few_cells_far_apart_are_no_grid(data_dir):
    adata = ad.read_h5ad(data_dir / "xenium_ncbi858" / "NCBI858_xy.h5ad")
    for seed in range(40):
        rows = np.random.default_rng(seed).permutation(200)[:20]
        assert not _is_grid(adata.obsm["spatial"][rows], 2.125)


@pytest.mark.parametrize(("change", "verdict"), [(lambda xy: xy, "fits"), (lambda xy: xy[:, ::-1], "swapped")])
def test_real_xenium(data_dir, change, verdict):
    folder = data_dir / "xenium_ncbi858"
    adata = ad.read_h5ad(folder / "NCBI858_xy.h5ad")
    adata.obsm["spatial"] = change(adata.obsm["spatial"]).copy()
    options = {"image": folder / "NCBI858.jpg", "mpp": 2.125, "max_shift_um": 100, "inplace": False}
    if verdict == "fits":
        row = hc.pp.check_alignment(adata, **options).sections.iloc[0]
        assert row["p"] < 0.003
        assert np.hypot(row["offset_x_um"], row["offset_y_um"]) < 2.125
    else:
        with pytest.warns(UserWarning, match="swapped"):
            row = hc.pp.check_alignment(adata, **options).sections.iloc[0]
    assert row["verdict"] == verdict
