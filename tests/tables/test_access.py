from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale

from histocell.tables import access
from histocell.tables.sections import Sections


def section(value: int, xy: np.ndarray, *, mpp: float | None = 0.5, image_transform=None) -> sd.SpatialData:
    """A section whose image is one grey `value`, so that one can tell which image a row got."""
    systems = {"global": image_transform or Identity()}
    if mpp:
        systems["um"] = Scale([mpp, mpp], axes=("y", "x"))
    ids = [f"s{i}" for i in range(len(xy))]
    image = Image2DModel.parse(np.full((3, 80, 120), value, np.uint8), dims=("c", "y", "x"), transformations=systems)
    shapes = ShapesModel.parse(xy, geometry=0, radius=5.0, index=pd.Index(ids), transformations={"global": Identity()})
    table = ad.AnnData(
        np.ones((len(xy), 2), np.float32),
        obs=pd.DataFrame({"region": pd.Categorical(["spots"] * len(xy)), "spot_id": ids}, index=ids),
        obsm={"spatial": xy.astype(float)},
    )
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")
    return sd.SpatialData(images={"he": image}, shapes={"spots": shapes}, tables={"table": table})


XY = np.array([[10.0, 20.0], [100.0, 30.0], [50.0, 70.0]])


def test_table_by_itself_or_by_name(tissue):
    adata = ad.AnnData(np.ones((2, 2), np.float32))
    assert access.get_table(adata) is adata
    assert access.get_table(tissue) is tissue["table"]
    assert access.get_table(tissue, "cell_table") is tissue["cell_table"]
    with pytest.raises(KeyError, match="available: "):
        access.get_table(tissue, "nope")
    with pytest.raises(TypeError, match="AnnData or a SpatialData"):
        access.get_table(np.ones(3))
    with pytest.raises(ValueError, match="no table"):
        access.get_table(sd.SpatialData())


def test_each_row_finds_the_image_of_its_section_whatever_the_order():
    both = sd.concatenate({"A": section(10, XY), "B": section(200, XY)}, concatenate_tables=True)
    order = [3, 0, 5, 1, 4, 2]
    both.tables["table"] = both["table"][order].copy()
    found = {region.name: region for region in Sections(both).regions()}
    assert set(found) == {"spots-A", "spots-B"}
    for name, value in (("spots-A", 10), ("spots-B", 200)):
        region = found[name]
        assert (both["table"].obs["region"].iloc[region.rows] == name).all()
        assert region.image.read(0, 0, 4, 4).max() == value
        assert region.mpp == 0.5
        assert np.allclose(region.centers, both["table"].obsm["spatial"][region.rows])


def test_shapes_in_another_order_than_the_table_are_joined_by_name():
    sdata = section(10, XY)
    sdata.shapes["spots"] = sdata.shapes["spots"].iloc[::-1]
    (region,) = Sections(sdata).regions()
    assert np.allclose(region.centers, XY)


def test_spots_are_placed_by_the_transformation_of_the_image():
    # the image is twice as coarse as "global" and shifted
    matrix = Affine([[2, 0, 6], [0, 2, 4], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    (region,) = Sections(section(10, XY, image_transform=matrix)).regions()
    assert np.allclose(region.centers, (XY - [6, 4]) / 2)


def test_missing_shape_and_missing_image_are_told():
    sdata = section(10, XY)
    sdata.shapes["spots"] = sdata.shapes["spots"].iloc[:2]
    with pytest.raises(ValueError, match="1 rows of the table have no shape"):
        Sections(sdata).regions()
    sdata = section(10, XY)
    del sdata.images["he"]
    with pytest.raises(ValueError, match="no image lies"):
        Sections(sdata).regions()
    assert Sections(sdata).regions(need_image=False)[0].image is None


def test_several_images_ask_for_a_choice():
    sdata = section(10, XY)
    other = section(99, XY).images["he"]
    sdata.images["scan1"], sdata.images["scan2"] = other, other
    del sdata.images["he"]
    with pytest.raises(ValueError, match="several images"):
        Sections(sdata).regions()
    assert Sections(sdata).regions(image_key="scan2")[0].image.read(0, 0, 2, 2).max() == 99
    with pytest.raises(KeyError, match="not found"):
        Sections(sdata).regions(image_key="scan3")
    with pytest.raises(ValueError, match="image= is for AnnData"):
        Sections(sdata).regions(image=np.zeros((4, 4, 3), np.uint8))


def test_anndata_with_an_image_for_each_library():
    adata = ad.AnnData(
        np.ones((4, 1), np.float32),
        obs=pd.DataFrame({"section": pd.Categorical(["B", "A", "B", "A"])}, index=list("wxyz")),
        obsm={"spatial": np.full((4, 2), 5.0)},
    )
    images = {name: np.full((20, 20, 3), value, np.uint8) for name, value in (("A", 10), ("B", 200))}
    found = {region.name: region for region in Sections(adata, mpp={"A": 0.5, "B": 0.7}).regions(image=images)}
    assert found["A"].rows.tolist() == [1, 3]
    assert found["B"].image.read(0, 0, 2, 2).max() == 200
    assert found["B"].mpp == 0.7
    with pytest.raises(ValueError, match="one image for 2 libraries"):
        Sections(adata, library_key="section").regions(image=images["A"])
    with pytest.raises(KeyError, match="no entry for 'B'"):
        Sections(adata).regions(image={"A": images["A"]})
    with pytest.raises(KeyError, match="available: section"):
        Sections(adata, library_key="slide").regions(image=images)
    with pytest.raises(ValueError, match="no image for"):
        Sections(adata).regions()


def test_broken_coordinates():
    adata = ad.AnnData(np.ones((3, 1), np.float32))
    with pytest.raises(KeyError, match="spatial"):
        access.coordinates(adata)
    adata.obsm["spatial"] = np.array([[1.0, 2], [np.nan, 3], [4, 5]])
    with pytest.raises(ValueError, match="not finite in 1 rows"):
        access.coordinates(adata)


def test_row_labels():
    adata = ad.AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame({"patient": ["a", None]}, index=["x", "y"]))
    with pytest.raises(ValueError, match="missing in 1 rows"):
        access.row_labels(adata, "patient")
    with pytest.raises(KeyError, match="available: patient"):
        access.row_labels(adata, "section")


def test_slides_of_one_name_are_told_apart():
    parts = {name: section(value, XY) for name, value in {"a": 10, "b": 200}.items()}
    for part in parts.values():
        part["table"].obs["section"] = pd.Categorical(["HE"] * len(XY))
    both = sd.concatenate(parts, concatenate_tables=True)
    with pytest.warns(UserWarning, match=r"'HE' in rows of different slides \(spots-a, spots-b\).*name them apart"):
        assert Sections(both).names == ["HE"]
    both["table"].obs["section"] = both["table"].obs["region"]
    assert Sections(both).names == ["spots-a", "spots-b"]


def test_regions_of_one_slide_share_its_name():
    sdata = section(10, XY)
    sdata.shapes["more"] = sdata["spots"]
    sdata["table"].obs["region"] = pd.Categorical(["spots", "spots", "more"])
    sdata["table"].obs["section"] = "HE"
    sdata["table"].uns["spatialdata_attrs"]["region"] = ["spots", "more"]
    assert Sections(sdata).names == ["HE"]
