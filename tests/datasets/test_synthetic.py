from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
import scipy.sparse as sp
import spatialdata as sd
from spatialdata.models import get_table_keys
from spatialdata.transformations import get_transformation

import histocell as hc
from histocell._core.keys import read_provenance
from histocell.datasets._tissue.anatomy import TYPICAL, draw_anatomy, vary_subject
from histocell.datasets._tissue.cells import CELL_TYPES, place_cells
from histocell.datasets._tissue.expression import MARKERS
from histocell.datasets._tissue.fields import sample, thin_discs, upsample
from histocell.datasets._tissue.rendering import render

SIZE_PX = 800
MPP = 0.5


@pytest.fixture(scope="module")
def one() -> sd.SpatialData:
    return hc.datasets.synthetic_tissue(size_px=SIZE_PX, mpp=MPP, spot_pitch_um=60.0, spot_diameter_um=50.0, rng=7)


@pytest.fixture(scope="module")
def three() -> sd.SpatialData:
    return hc.datasets.synthetic_tissue(3, n_patients=2, size_px=600, n_genes=30, rng=7)


def pixels(sdata: sd.SpatialData, name: str = "he") -> np.ndarray:
    return np.asarray(sdata[name].data)


def test_one_section_has_plain_names(one: sd.SpatialData) -> None:
    assert set(one.images) == {"he"}
    assert set(one.shapes) == {"spots", "cells"}
    assert set(one.tables) == {"table", "cell_table"}
    assert set(one.coordinate_systems) == {"global", "um"}
    image = one["he"]
    assert image.dims == ("c", "y", "x")
    assert image.shape == (3, SIZE_PX, SIZE_PX)
    assert image.dtype == np.uint8


def test_every_element_is_scaled_to_um(one: sd.SpatialData) -> None:
    for name in ("he", "spots", "cells"):
        matrix = get_transformation(one[name], "um").to_affine_matrix(("x", "y"), ("x", "y"))
        np.testing.assert_array_equal(matrix, np.diag([MPP, MPP, 1.0]))
        identity = get_transformation(one[name], "global").to_affine_matrix(("x", "y"), ("x", "y"))
        np.testing.assert_array_equal(identity, np.eye(3))


def test_tables_annotate_their_shapes(one: sd.SpatialData) -> None:
    for key, region, instance in (("table", "spots", "spot_id"), ("cell_table", "cells", "cell_id")):
        table, shapes = one[key], one[region]
        assert get_table_keys(table)[1:] == ("region", instance)
        assert list(table.obs["region"].cat.categories) == [region]
        at = shapes.loc[table.obs[instance]]
        np.testing.assert_array_equal(np.column_stack([at.geometry.x, at.geometry.y]), table.obsm["spatial"])
        assert (table.obs["section"] == "P1S1").all()
        assert (table.obs["patient"] == "P1").all()
        assert (table.obs["mpp"] == MPP).all()
        assert table.obs_names.is_unique


def test_spots_lie_on_a_hexagonal_grid_inside_the_image(one: sd.SpatialData) -> None:
    spatial = one["table"].obsm["spatial"]
    assert spatial.dtype == np.float64
    assert (one["spots"]["radius"] == 25.0 / MPP).all()
    assert (spatial - 25.0 / MPP >= 0).all()
    assert (spatial + 25.0 / MPP <= SIZE_PX).all()
    distance = np.linalg.norm(spatial[:, None] - spatial[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_allclose(distance.min(axis=1), 60.0 / MPP, rtol=1e-9)


def test_abundance_is_a_recount_of_the_cells(one: sd.SpatialData) -> None:
    cells, abundance = one["cell_table"], one["table"].obsm["cell_abundance"]
    assert isinstance(abundance, pd.DataFrame)
    assert list(abundance.columns) == list(CELL_TYPES)
    assert (abundance.dtypes == np.float64).all()
    assert abundance.to_numpy().sum() > 100
    types = np.asarray(cells.obs["cell_type"])
    for (x, y), radius, (_, row) in zip(
        one["table"].obsm["spatial"], one["spots"]["radius"], abundance.iterrows(), strict=True
    ):
        inside = (cells.obsm["spatial"][:, 0] - x) ** 2 + (cells.obsm["spatial"][:, 1] - y) ** 2 <= radius**2
        for name in CELL_TYPES:
            assert row[name] == np.count_nonzero(inside & (types == name))


def test_every_type_is_there_and_nuclei_differ_in_size(one: sd.SpatialData) -> None:
    obs = one["cell_table"].obs
    assert (obs["cell_type"].value_counts() > 5).all()
    area = obs.groupby("cell_type", observed=True)["nucleus_area_um2"].median()
    assert area["tumour"] > 1.8 * area["lymphocyte"]
    np.testing.assert_allclose(
        np.pi * (one["cells"]["radius"].to_numpy() * MPP) ** 2, obs["nucleus_area_um2"].to_numpy(), rtol=1e-12
    )


def test_counts_are_raw_and_follow_the_cells(one: sd.SpatialData) -> None:
    spots, cells = one["table"], one["cell_table"]
    for table in (spots, cells):
        assert sp.issparse(table.X)
        assert table.X.format == "csr"
        assert (table.X.data >= 0).all()
        np.testing.assert_array_equal(table.X.data, np.round(table.X.data))
        assert table.var_names.is_unique
        assert table.n_vars == 200
    types = np.asarray(cells.obs["cell_type"])
    for name, markers in MARKERS.items():
        columns = cells.var_names.get_indexer(list(markers))
        mean = {t: cells.X[types == t][:, columns].mean() for t in CELL_TYPES}
        assert max(mean, key=mean.get) == name
    expected = spots.obsm["cell_abundance"]["tumour"].to_numpy()
    columns = spots.var_names.get_indexer(list(MARKERS["tumour"]))
    seen = np.asarray(spots.X[:, columns].sum(axis=1)).ravel()
    assert np.corrcoef(expected, seen)[0, 1] > 0.85


def test_same_seed_same_tissue() -> None:
    first, second, other = (hc.datasets.synthetic_tissue(size_px=400, n_genes=12, rng=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(pixels(first), pixels(second))
    for key in ("table", "cell_table"):
        np.testing.assert_array_equal(first[key].X.toarray(), second[key].X.toarray())
        np.testing.assert_array_equal(first[key].obsm["spatial"], second[key].obsm["spatial"])
        pd.testing.assert_frame_equal(first[key].obs, second[key].obs)
    assert not np.array_equal(pixels(first), pixels(other))
    assert first["cell_table"].n_obs != other["cell_table"].n_obs or not np.array_equal(
        first["cell_table"].obsm["spatial"], other["cell_table"].obsm["spatial"]
    )


def test_more_patients_leave_the_first_alone(three: sd.SpatialData) -> None:
    alone = hc.datasets.synthetic_tissue(2, n_patients=1, size_px=600, n_genes=30, rng=7)
    for name in ("he-P1S1", "he-P1S2"):
        np.testing.assert_array_equal(pixels(alone, name), pixels(three, name))


def test_a_generator_is_accepted_and_global_state_is_not_touched() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (hc.datasets.synthetic_tissue(size_px=400, n_genes=6, rng=r) for r in (5, np.random.default_rng(5)))
    np.testing.assert_array_equal(pixels(first), pixels(second))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_several_sections(three: sd.SpatialData) -> None:
    names = ["P1S1", "P1S2", "P2S1"]
    assert set(three.images) == {f"he-{n}" for n in names}
    assert set(three.shapes) == {f"{kind}-{n}" for kind in ("spots", "cells") for n in names}
    assert set(three.tables) == {"table", "cell_table"}
    assert set(three.coordinate_systems) == {f"{kind}-{n}" for kind in ("global", "um") for n in names}
    table = three["table"]
    assert list(table.obs["section"].cat.categories) == names
    assert list(table.obs["patient"].cat.categories) == ["P1", "P2"]
    assert (table.obs["region"].astype(str) == "spots-" + table.obs["section"].astype(str)).all()
    assert (table.obs["patient"].astype(str) == table.obs["section"].str[:2]).all()
    assert table.obs_names.is_unique
    for name in names:
        rows = table.obs["section"] == name
        assert set(table.obs.loc[rows, "spot_id"]) == set(three[f"spots-{name}"].index)
        scale = get_transformation(three[f"he-{name}"], f"um-{name}").to_affine_matrix(("x", "y"), ("x", "y"))
        np.testing.assert_array_equal(scale, np.diag([0.5, 0.5, 1.0]))


def test_provenance_tells_how_it_was_made(three: sd.SpatialData) -> None:
    for key in ("table", "cell_table"):
        facts = read_provenance(three[key], "synthetic")
        assert facts["n_patients"] == 2
        assert facts["size_px"] == 600
        assert set(facts["sections"]) == {"P1S1", "P1S2", "P2S1"}
        stains = np.array(facts["sections"]["P2S1"]["stains"])
        np.testing.assert_allclose(np.linalg.norm(stains, axis=1), 1.0, atol=1e-4)
        json.dumps(facts)


def test_round_trip_to_zarr(three: sd.SpatialData, tmp_path) -> None:
    three.write(tmp_path / "tissue.zarr")
    back = sd.read_zarr(tmp_path / "tissue.zarr")
    assert set(back.coordinate_systems) == set(three.coordinate_systems)
    for name in three.images:
        np.testing.assert_array_equal(pixels(back, name), pixels(three, name))
    for key in ("table", "cell_table"):
        np.testing.assert_array_equal(back[key].X.toarray(), three[key].X.toarray())
        np.testing.assert_array_equal(back[key].obsm["spatial"], three[key].obsm["spatial"])
        assert list(back[key].obs["patient"]) == list(three[key].obs["patient"])
        assert read_provenance(back[key], "synthetic") == read_provenance(three[key], "synthetic")
    pd.testing.assert_frame_equal(
        back["table"].obsm["cell_abundance"],
        three["table"].obsm["cell_abundance"],
        check_index_type=False,
        check_column_type=False,
    )


def test_table_survives_h5ad(one: sd.SpatialData, tmp_path) -> None:
    import anndata as ad

    one["table"].write_h5ad(tmp_path / "spots.h5ad")
    back = ad.read_h5ad(tmp_path / "spots.h5ad")
    assert read_provenance(back, "synthetic") == read_provenance(one["table"], "synthetic")
    np.testing.assert_array_equal(
        back.obsm["cell_abundance"].to_numpy(), one["table"].obsm["cell_abundance"].to_numpy()
    )


def test_nuclei_are_darker_than_their_surroundings(one: sd.SpatialData) -> None:
    red = ndi.gaussian_filter(pixels(one)[0].astype(float), 1.0)  # haematoxylin absorbs red, eosin hardly does
    cells = one["cell_table"]
    x, y = cells.obsm["spatial"].astype(int).T
    types = np.asarray(cells.obs["cell_type"])
    surroundings = np.median(red[red < 225])
    for name in CELL_TYPES:
        assert np.median(red[y[types == name], x[types == name]]) < surroundings - 20
    assert np.median(red[y[types == "lymphocyte"], x[types == "lymphocyte"]]) < np.median(
        red[y[types == "tumour"], x[types == "tumour"]]
    )


def test_stains_can_be_separated(one: sd.SpatialData) -> None:
    facts = read_provenance(one["table"], "synthetic")["sections"]["P1S1"]
    stains, white = np.array(facts["stains"]), np.array(facts["white"])
    image = ndi.gaussian_filter(pixels(one).astype(float), (0, 1, 1))
    density = -np.log10(np.clip(image, 1, None) / white[:, None, None]).reshape(3, -1)
    tissue = density[:, density.sum(axis=0) > 0.25]
    # two stains span a plane: the third direction holds noise only (Macenko et al. 2009)
    values, vectors = np.linalg.eigh(tissue @ tissue.T)
    assert values[0] / values.sum() < 0.002
    plane = vectors[:, 1:]
    projected = plane @ (plane.T @ stains.T)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=0), 1.0, atol=0.005)
    haematoxylin, eosin = np.linalg.lstsq(stains.T, density, rcond=None)[0].reshape(2, *image.shape[1:])
    assert np.quantile(haematoxylin, 0.01) > -0.06
    assert np.quantile(eosin, 0.01) > -0.06
    cells = one["cell_table"]
    x, y = cells.obsm["spatial"].astype(int).T
    assert np.median(haematoxylin[y, x]) > 3 * np.median(haematoxylin)
    assert np.median(eosin[y, x]) < np.median(eosin[eosin > 0.1])


def test_background_is_white_outside_the_tissue() -> None:
    rng = np.random.default_rng(0)
    anatomy = draw_anatomy(TYPICAL, 500.0, rng=rng)
    cells = place_cells(anatomy, TYPICAL, rng=rng)
    image = render(anatomy, cells, TYPICAL, size_px=1000, mpp=0.5, rng=rng)
    outside = upsample(anatomy.tissue, (1000, 1000)) < -10
    assert outside.mean() > 0.02
    np.testing.assert_allclose(image[outside].mean(axis=0), TYPICAL.white, atol=1.5)
    assert image[outside].std() < 6
    where = sample(anatomy.tissue, cells["x"].to_numpy(), cells["y"].to_numpy())
    assert (where > 0).all()


def test_cells_keep_to_their_compartments() -> None:
    rng = np.random.default_rng(1)
    anatomy = draw_anatomy(TYPICAL, 800.0, rng=rng)
    cells = place_cells(anatomy, TYPICAL, rng=rng)
    x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
    code = {name: cells["type"].to_numpy() == i for i, name in enumerate(CELL_TYPES)}
    nest = sample(anatomy.nest, x, y)
    assert (nest[code["tumour"]] > 0).mean() > 0.97
    assert (nest[code["fibroblast"]] < 0).all()
    assert (sample(anatomy.lumen, x, y) < 0).all()
    assert np.mean(sample(anatomy.immune, x, y)[code["lymphocyte"]] > 0.5) > 0.6


def test_batch_effect_switches_differences_off() -> None:
    rng = np.random.default_rng(0)
    same = vary_subject(TYPICAL, rng, spread=0.0)
    np.testing.assert_allclose(same.stains, TYPICAL.stains, atol=0.005)
    np.testing.assert_array_equal(same.white, TYPICAL.white)
    assert same.tumour == TYPICAL.tumour
    none, full = (hc.datasets.synthetic_tissue(2, size_px=400, batch_effect=b, n_genes=6, rng=2) for b in (0.0, 1.0))
    for sdata, alike in ((none, True), (full, False)):
        sections = read_provenance(sdata["table"], "synthetic")["sections"]
        assert (sections["P1S1"] == sections["P2S1"]) is alike


def test_thinned_discs_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 100, (2, 500))
    free = rng.uniform(1, 4, 500)
    keep = thin_discs(x, y, free, 100.0)
    expected: list[int] = []
    for i in range(500):
        if all((x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 >= (free[i] + free[j]) ** 2 for j in expected):
            expected.append(i)
    np.testing.assert_array_equal(np.flatnonzero(keep), expected)


def test_upsampling_is_exact_on_a_plane() -> None:
    row, col = np.mgrid[:10, :14].astype(float)
    fine_row, fine_col = np.mgrid[:40, :42]
    big = upsample(2 * row + 3 * col, (40, 42))
    expected = 2 * ((fine_row + 0.5) / 4 - 0.5) + 3 * ((fine_col + 0.5) / 3 - 0.5)
    np.testing.assert_allclose(big[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_sections": 0}, "n_sections"),
        ({"n_sections": 2, "n_patients": 3}, "n_patients"),
        ({"n_sections": 2, "n_patients": 0}, "n_patients"),
        ({"mpp": 0.0}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"spot_pitch_um": -1.0}, "spot_pitch_um"),
        ({"size_px": 100}, "size_px"),
        ({"n_genes": 3}, "n_genes"),
        ({"batch_effect": -1.0}, "batch_effect"),
    ],
)
def test_bad_parameters_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hc.datasets.synthetic_tissue(**arguments)
