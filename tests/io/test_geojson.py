from __future__ import annotations

import gzip
import json
import zipfile
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata as sd
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

import histocell as hc
from histocell.io._geojson.labels import containing

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import UserSees

MPP = 0.5
ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)


def feature(ring, *, kind: str | None = "detection", label: object = None, geometry: str = "Polygon", **properties):
    inner = {"objectType": kind} if kind else {}
    if label is not None:
        inner["classification"] = label if isinstance(label, dict | str) else {"name": label, "color": [1, 2, 3]}
    coordinates = [np.asarray(ring).tolist()] if geometry == "Polygon" else ring
    return {
        "type": "Feature",
        "id": "x",
        "geometry": {"type": geometry, "coordinates": coordinates},
        "properties": inner | properties,
    }


def circle(x: float, y: float, radius: float) -> np.ndarray:
    ring = np.column_stack([x + radius * np.cos(ANGLES), y + radius * np.sin(ANGLES)])
    return np.vstack([ring, ring[:1]])


def box(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def write(path: Path, features: list) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def slide() -> sd.SpatialData:
    """A synthetic section, 700 px of 0.5 um, with spots and cells."""
    return hc.datasets.synthetic_tissue(size_px=700, spot_pitch_um=50, spot_diameter_um=50, rng=0)


@pytest.fixture
def image_only(tissue) -> sd.SpatialData:
    return sd.SpatialData(images={"he": tissue["he"]})


def nuclei(n: int = 60, radius: float = 7.0) -> list:
    rng = np.random.default_rng(0)
    return [feature(circle(*rng.uniform(20, 680, 2), radius), label=["A", "B"][i % 2]) for i in range(n)]


def test_shapes_and_their_table(tmp_path: Path, image_only, tmp_path_factory) -> None:
    file = write(tmp_path / "cells.geojson", nuclei())
    shapes = hc.io.geojson(file, image_only)
    assert list(image_only.shapes) == ["nuclei"]
    assert image_only["nuclei"] is shapes
    assert shapes.index.name == "nucleus_id"
    assert shapes.index.tolist() == list(range(60))
    assert shapes["classification"].tolist() == ["A", "B"] * 30
    table = image_only["nucleus_table"]
    np.testing.assert_allclose(
        table.obsm["spatial"], shapely.get_coordinates(shapely.centroid(shapes.geometry.to_numpy()))
    )
    assert set(table.obs["mpp"]) == {MPP}
    assert table.obs["classification"].tolist() == ["A", "B"] * 30
    assert table.uns["spatialdata_attrs"]["region"] == "nuclei"
    hc.pp.patches(image_only, size_um=16)  # the table annotates the shapes
    image_only.write(tmp_path / "s.zarr")
    assert sd.read_zarr(tmp_path / "s.zarr")["nucleus_table"].n_obs == 60
    with pytest.raises(ValueError, match="'nuclei' exists already"):
        hc.io.geojson(file, image_only)
    few = [*nuclei(29), feature(circle(300, 300, 7))]
    hc.io.geojson(write(tmp_path / "few.geojson", few), image_only, overwrite=True)
    assert image_only["nucleus_table"].obs["classification"].isna().tolist() == [False] * 29 + [True]
    assert image_only["nucleus_table"].n_obs == len(image_only["nuclei"]) == 30


def test_several_slides_share_a_table(tmp_path: Path, tissue) -> None:
    one = sd.SpatialData(images={"he": tissue["he"]})
    both = sd.concatenate({"a": one, "b": sd.SpatialData(images={"he": tissue["he"]})})
    for name, n in {"a": 30, "b": 40}.items():
        hc.io.geojson(write(tmp_path / f"{name}.geojson", nuclei(n)), both, image_key=f"he-{name}")
    table = both["nucleus_table"]
    assert set(both.shapes) == {"nuclei-a", "nuclei-b"}
    assert table.obs["region"].value_counts().to_dict() == {"nuclei-a": 30, "nuclei-b": 40}
    assert table.obs["section"].value_counts().to_dict() == {"a": 30, "b": 40}
    table.obsm["X_own"], table.uns["types"] = np.ones((70, 2)), {"classes": ["A"]}
    hc.io.geojson(write(tmp_path / "a.geojson", nuclei(25)), both, image_key="he-a", overwrite=True)
    table = both["nucleus_table"]
    assert table.obs["region"].value_counts().to_dict() == {"nuclei-a": 25, "nuclei-b": 40}
    assert table.uns["types"] == {"classes": ["A"]}
    is_b = (table.obs["region"] == "nuclei-b").to_numpy()
    assert (table.obsm["X_own"][is_b] == 1).all()
    assert np.isnan(table.obsm["X_own"][~is_b]).all()


def test_all_that_tools_write(tmp_path: Path) -> None:
    hole = [np.asarray(box(0, 0, 100, 100)).tolist(), np.asarray(box(40, 40, 60, 60)).tolist()]
    features = [
        feature(box(0, 0, 10, 10), label={"names": ["Tumor", "Positive"]}),
        feature(
            box(20, 0, 30, 10), label="Stroma", kind="annotation", name="mine", measurements={"Nucleus: Area/px": 4.5}
        ),
        feature(
            [[box(40, 0, 50, 10)], [box(60, 0, 70, 10)]],
            geometry="MultiPolygon",
            label={"name": "Immune", "color": [9, 9, 9]},
        ),
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": hole}, "properties": None},
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[*xy, 7.0] for xy in box(80, 0, 90, 10)]]},
            "properties": {},
        },
        {
            "type": "Feature",
            "geometry": {
                "type": "GeometryCollection",
                "geometries": [{"type": "Polygon", "coordinates": [box(0, 20, 9, 29)]}],
            },
        },
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}},
        {"type": "Feature", "geometry": None, "properties": {}},
    ]
    file = tmp_path / "all.geojson"
    file.write_text(json.dumps(features))  # a list, as older versions of QuPath write it
    with pytest.warns(UserWarning, match="left out what is no polygon: 1 Point, 1 none"):
        with pytest.warns(UserWarning, match="'/' cannot be written"):
            shapes = hc.io.geojson(file, key_added="all", measurements=True)
    assert shapes["classification"].astype(object).where(shapes["classification"].notna(), None).tolist() == [
        "Tumor: Positive", "Stroma", "Immune", "Immune", None, None, None
    ]  # fmt: skip
    assert shapes["feature"].tolist() == [0, 1, 2, 2, 3, 4, 5]
    assert shapes["name"].tolist()[:2] == ["", "mine"]
    assert shapes["Nucleus: Area_px"].iloc[1] == 4.5
    assert shapes.area.tolist() == [100, 100, 100, 100, 10_000 - 400, 100, 81]
    text = json.dumps({"type": "FeatureCollection", "features": features[:1]}).encode()
    (tmp_path / "one.geojson.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "one.geojson.zip", "w") as archive:
        archive.writestr("one.geojson", text)
    for ending in ("gz", "zip"):
        assert hc.io.geojson(tmp_path / f"one.geojson.{ending}").area.tolist() == [100]
    assert hc.io.geojson(
        write(tmp_path / "x.geojson", [features[0] | {"properties": {"kind": "T"}}]), property_key="kind"
    )["classification"].tolist() == ["T"]


def test_um(tmp_path: Path, image_only) -> None:
    px = nuclei()
    um = json.loads(json.dumps(px))
    for each in um:
        each["geometry"]["coordinates"] = (np.array(each["geometry"]["coordinates"]) * MPP).tolist()
    in_px = hc.io.geojson(write(tmp_path / "px.geojson", px), image_only, key_added="one")
    in_um = hc.io.geojson(write(tmp_path / "um.geojson", um), image_only, key_added="two", units="um")
    np.testing.assert_allclose(*(shapely.get_coordinates(each.geometry.to_numpy()) for each in (in_px, in_um)))
    with pytest.raises(ValueError, match='units="um" needs the resolution'):
        hc.io.geojson(tmp_path / "um.geojson", units="um")
    with pytest.raises(ValueError, match='units must be "px" or "um"'):
        hc.io.geojson(tmp_path / "um.geojson", units="mm")


def test_units_that_are_wrong(tmp_path: Path, image_only, user_sees: UserSees) -> None:
    """At 0.25 um per px by the size alone, at 0.5 by size and place together; px as um lie off the image."""
    um = [feature(circle(x, y, 3.2)) for x, y in np.random.default_rng(1).uniform(10, 340, (40, 2))]
    file = write(tmp_path / "um.geojson", um)
    with user_sees("Cells", "GeoJSON in um that is read as px", ValueError, match="units='um': give that"):
        hc.io.geojson(file, image_only)
    assert not image_only.shapes
    with pytest.raises(ValueError, match="no nucleus or cell"):
        hc.io.geojson(file, mpp=0.25)
    px = write(tmp_path / "px.geojson", nuclei(40, radius=14))
    with pytest.raises(ValueError, match="units='px': give that"):
        hc.io.geojson(px, mpp=0.25, units="um")
    with user_sees("Cells", "GeoJSON in px that is read as um", ValueError, match="with units='px': give that"):
        hc.io.geojson(px, image_only, units="um", key_added="regions")
    with pytest.warns(UserWarning, match="unlike nuclei and cells"):
        hc.io.geojson(write(tmp_path / "large.geojson", [feature(circle(300, 300, 60))] * 25), mpp=0.5)
    regions = [feature(circle(300, 300, 100), kind="annotation")] * 25  # regions may have any size
    assert len(hc.io.geojson(write(tmp_path / "regions.geojson", regions), mpp=0.5, key_added="regions")) == 25


def test_bad_polygons(tmp_path: Path, image_only, user_sees: UserSees) -> None:
    bow_tie = [[50, 50], [80, 74], [80, 50], [50, 70], [50, 50]]
    line = [[50, 50], [80, 50], [90, 50], [50, 50]]
    features = [feature(bow_tie), feature(line), feature([[1, 1], [2, 2]]), feature(circle(200, 200, 8))]
    file = write(tmp_path / "bad.geojson", features)
    with user_sees(
        "Cells", "GeoJSON with polygons that cross themselves, and some without area", UserWarning, match="repaired"
    ):
        shapes = hc.io.geojson(file, image_only)
    assert shapely.is_valid(shapes.geometry.to_numpy()).all()
    assert (shapely.get_type_id(shapes.geometry.to_numpy()) == 3).all()
    assert len(shapes) == 2
    with user_sees("Cells", "GeoJSON without a polygon that has an area", ValueError, match="holds no polygon"):
        hc.io.geojson(write(tmp_path / "none.geojson", [feature(line)]))
    outside = [feature(circle(300, 300, 8)), feature(circle(5000, 300, 8))]
    with user_sees(
        "Cells", "GeoJSON with a polygon outside of the image", UserWarning, match="1 of 2 polygons .* outside"
    ):
        hc.io.geojson(write(tmp_path / "outside.geojson", outside), image_only, key_added="some")
    with user_sees("Cells", "GeoJSON of another slide", ValueError, match="none of the 3 points"):
        hc.io.geojson(write(tmp_path / "other.geojson", [outside[1]] * 3), image_only, key_added="other")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ('{"type": "FeatureCollection", "features": [', OSError, "damaged or truncated"),
        ('{"a": 1}', ValueError, "is no GeoJSON: .* keys a"),
        ("3", ValueError, "it holds a int"),
        ('{"type": "FeatureCollection", "features": []}', ValueError, "holds no polygon"),
        (
            '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, "a"], [1, 1], [0, 0]]]}}]',
            ValueError,
            "pairs of numbers",
        ),
        (
            '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [1, 1], [0, 0]]]}}]',
            ValueError,
            "1 vertices are no finite",
        ),
        ('[{"geometry": {"type": "Polygon"}}]', ValueError, "geometry of feature 0 is no GeoJSON: KeyError"),
        ('[{"geometry": ""}]', ValueError, "geometry of feature 0 is no GeoJSON: AttributeError"),
        ('[{"geometry": {"type": "Polygon", "coordinates": [7]}}]', ValueError, "must be a list of vertices"),
        (
            '[{"geometry": {"type": "Polygon", "coordinates": [[{}, [1, 1], [0, 0]]]}}]',
            ValueError,
            "pairs of numbers",
        ),
    ],
)
def test_bad_files(tmp_path: Path, text: str, kind, message: str) -> None:
    file = tmp_path / "bad.geojson"
    file.write_text(text)
    with pytest.raises(kind, match=message):
        hc.io.geojson(file)
    with pytest.raises(FileNotFoundError):
        hc.io.geojson(tmp_path / "none.geojson")


def test_containing_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    polygons = np.array([shapely.Point(*rng.uniform(0, 100, 2)).buffer(r) for r in rng.uniform(1, 12, 60)])
    codes = rng.integers(0, 4, 60)
    centers = rng.uniform(0, 100, (150, 2))
    outlines = shapely.buffer(shapely.points(centers), 4)
    wanted = []
    for center, outline in zip(centers, outlines, strict=True):
        around = [i for i, each in enumerate(polygons) if each.contains(shapely.Point(center))]
        within = [i for i, each in enumerate(polygons) if outline.contains(each.centroid)]
        if around:
            wanted.append(codes[min(around, key=lambda i: polygons[i].area)])
        elif within:
            wanted.append(codes[min(within, key=lambda i: polygons[i].centroid.distance(shapely.Point(center)))])
        else:
            wanted.append(-1)
    with pytest.warns(UserWarning, match="lie in several polygons"):
        assert containing(centers, outlines, polygons, codes, "x").tolist() == wanted
    assert -1 in wanted


def test_labels_of_spots(tmp_path: Path, slide, user_sees: UserSees) -> None:
    tumour = feature(box(0, 0, 345, 700), kind="annotation", label="Tumor")
    necrosis = feature(box(0, 0, 205, 305), kind="annotation", label="Necrosis")
    unnamed = feature(box(345, 0, 700, 700), kind="annotation")
    file = write(tmp_path / "regions.geojson", [tumour, necrosis, unnamed])
    table = slide["table"]
    with pytest.warns(UserWarning, match="the smallest counts"), pytest.warns(UserWarning, match="lie in no polygon"):
        hc.io.geojson(file, slide, key_added="regions", label_key="tissue_class")
    x, y = table.obsm["spatial"].T
    wanted = np.where(x > 345, None, np.where((x < 205) & (y < 305), "Necrosis", "Tumor"))
    found = table.obs["tissue_class"]
    assert found.astype(object).where(found.notna(), None).tolist() == wanted.tolist()
    with pytest.raises(ValueError, match=r'obs\["tissue_class"\] exists already'):
        hc.io.geojson(file, slide, key_added="again", label_key="tissue_class")
    assert "again" not in slide.shapes
    with user_sees("Cells", "GeoJSON without classes as labels", ValueError, match="no polygon of .* has a class"):
        hc.io.geojson(write(tmp_path / "bare.geojson", [unnamed]), slide, key_added="bare", label_key="bare")
    corner = feature(box(0, 0, 3, 3), kind="annotation", label="Fold")
    with user_sees(
        "Cells", "labels that no row lies in", UserWarning, match="none of the .* rows on 'he' lies in a polygon"
    ):
        hc.io.geojson(write(tmp_path / "corner.geojson", [corner]), slide, key_added="corner", label_key="corner")
    with pytest.raises(ValueError, match="need data="):
        hc.io.geojson(file, label_key="x")
    with pytest.raises(TypeError, match="not to AnnData"):
        hc.io.geojson(file, table)


def test_labels_of_xenium_cells(xenium: Path, tmp_path: Path) -> None:
    """Nuclei that were typed in the H&E image, not all of which hold the centre of their cell, label the cells."""
    sdata = hc.io.xenium(xenium)
    types = pd.read_csv(xenium / "cell_groups.csv", index_col=0)["group"]
    sdata["table"].obs["true_type"] = pd.Categorical(types.loc[sdata["table"].obs_names])
    hc.io.write_geojson(sdata, tmp_path / "typed.geojson", label_key="true_type")
    hc.io.geojson(tmp_path / "typed.geojson", sdata, key_added="typed", label_key="found_type")
    agree = sdata["table"].obs["found_type"].astype(str) == sdata["table"].obs["true_type"].astype(str)
    assert agree.mean() > 0.99


def test_there_and_back(xenium: Path, tmp_path: Path) -> None:
    sdata = hc.io.xenium(xenium)
    file = tmp_path / "nuclei.geojson"
    hc.io.write_geojson(sdata, file)
    back = hc.io.geojson(file, mpp=0.5)
    before = sdata["nuclei"]
    assert back["name"].tolist() == before.index.tolist()
    moved = [shapely.get_coordinates(each.geometry.to_numpy()) for each in (before, back)]
    np.testing.assert_allclose(*moved, atol=0.01)
    hc.io.write_geojson(sd.SpatialData(shapes={"nuclei": back}), tmp_path / "again.geojson")
    np.testing.assert_array_equal(
        *(
            shapely.get_coordinates(hc.io.geojson(each).geometry.to_numpy())
            for each in (file, tmp_path / "again.geojson")
        )
    )


def test_what_qupath_reads(xenium: Path, tmp_path: Path) -> None:
    sdata = hc.io.xenium(xenium)
    table = sdata["table"]
    table.obs["kind"] = pd.Categorical(np.where(np.arange(table.n_obs) % 2, "B cell", 'T "helper"'))
    table.obs.loc[table.obs_names[0], "kind"] = np.nan
    table.uns["kind_colors"] = ["#ff0000", "#00ff7fff"]
    file = tmp_path / "cells.geojson"
    hc.io.write_geojson(sdata, file, shapes_key="cells", label_key="kind", object_type="annotation")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    first, second, third = content["features"][:3]
    assert first["properties"] == {"objectType": "annotation", "name": table.obs_names[0], "isLocked": False}
    assert second["properties"]["classification"] == {"name": "B cell", "color": [255, 0, 0]}
    assert third["properties"]["classification"] == {"name": 'T "helper"', "color": [0, 255, 127]}
    assert len({each["id"] for each in content["features"]}) == table.n_obs
    assert second["geometry"]["type"] == "Polygon"
    again = hc.io.geojson(file, key_added="cells")
    assert again["classification"].astype(object).tolist()[1:3] == ["B cell", 'T "helper"']


def test_nothing_is_overwritten(xenium: Path, tmp_path: Path, user_sees: UserSees) -> None:
    sdata = hc.io.xenium(xenium)
    file = tmp_path / "mine.geojson"
    file.write_text("mine")
    with user_sees("Cells", "a GeoJSON file that is there already", FileExistsError, match="overwrite=True"):
        hc.io.write_geojson(sdata, file)
    assert file.read_text() == "mine"
    hc.io.write_geojson(sdata, file, overwrite=True)
    assert len(hc.io.geojson(file)) == len(sdata["nuclei"])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.geojson", "xenium"]
    hc.io.write_geojson(sdata, tmp_path / "new" / "n.geojson")  # the folder is made


def test_writing_bad_input(slide, tmp_path: Path) -> None:
    file = tmp_path / "a.geojson"
    with pytest.raises(ValueError, match="are no polygons"):
        hc.io.write_geojson(slide, file, shapes_key="spots")
    with pytest.raises(KeyError, match=r'shapes\["nuclei"\] not found'):
        hc.io.write_geojson(slide, file)
    with pytest.raises(TypeError, match="takes a SpatialData"):
        hc.io.write_geojson(slide["table"], file)
    frame = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)])
    slide["boxes"] = ShapesModel.parse(frame, transformations={"global": Identity()})
    with pytest.raises(ValueError, match="object_type must be"):
        hc.io.write_geojson(slide, file, shapes_key="boxes", object_type="tile")
    with pytest.raises(KeyError, match=r'obs\["kind"\] not found'):
        hc.io.write_geojson(slide, file, shapes_key="boxes", label_key="kind", table_key="table")
    assert not file.exists()


def test_shapes_in_other_units_are_written_in_px(image_only, tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame(geometry=[shapely.box(10, 20, 30, 40)])
    image_only["boxes"] = ShapesModel.parse(frame, transformations={"um": Identity()})  # in um
    hc.io.write_geojson(image_only, tmp_path / "a.geojson", shapes_key="boxes")
    assert hc.io.geojson(tmp_path / "a.geojson").total_bounds.tolist() == [20, 40, 60, 80]
