from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

import histocell as hc
from histocell._core.geometry import spot_pitch
from histocell.kernels.neighbors import bin_points, rbf_radius, rbf_weights, typical_spacing


def naive_weights(xy, length_scale, cutoff, include_self):
    weights = np.exp(-(cdist(xy, xy) ** 2) / (2 * length_scale**2))
    weights[weights < cutoff] = 0
    if not include_self:
        np.fill_diagonal(weights, 0)
    return weights


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 60),
    spread=st.sampled_from([1.0, 30.0, 1e5]),
    length_scale=st.floats(0.3, 20),
    cutoff=st.floats(0.01, 0.9),
    include_self=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_weights_equal_all_distances(n, spread, length_scale, cutoff, include_self, seed):
    xy = np.random.default_rng(seed).uniform(-spread, spread, size=(n, 2))
    weights = rbf_weights(xy, length_scale=length_scale, cutoff=cutoff, include_self=include_self)
    np.testing.assert_allclose(weights.toarray(), naive_weights(xy, length_scale, cutoff, include_self), atol=1e-12)


def test_a_far_outlier_costs_no_memory():
    xy = np.array([[0.0, 0.0], [1.0, 0.0], [1e9, 1e9]])
    cells = bin_points(xy, 2.0)
    assert cells.start.size < 100
    np.testing.assert_allclose(
        rbf_weights(xy, length_scale=1.0).toarray(), naive_weights(xy, 1.0, 0.2, True), atol=1e-12
    )


def test_points_on_a_line_and_at_one_place():
    line = np.column_stack([np.arange(50.0), np.zeros(50)])
    np.testing.assert_allclose(
        rbf_weights(line, length_scale=2.0).toarray(), naive_weights(line, 2.0, 0.2, True), atol=1e-12
    )
    same = np.zeros((5, 2))
    np.testing.assert_array_equal(rbf_weights(same, length_scale=2.0).toarray(), np.ones((5, 5)))


def test_binning_is_a_permutation():
    xy = np.random.default_rng(0).uniform(size=(500, 2))
    cells = bin_points(xy, 0.1)
    np.testing.assert_array_equal(np.sort(cells.order), np.arange(500))
    np.testing.assert_array_equal(cells.xy, xy[cells.order])
    flat = cells.cell[:, 0] * cells.columns + cells.cell[:, 1]
    assert (np.diff(flat) >= 0).all()
    np.testing.assert_array_equal(np.diff(cells.start), np.bincount(flat, minlength=cells.start.size - 1))


@pytest.mark.parametrize(("length_scale", "cutoff"), [(0, 0.2), (-1, 0.2), (np.nan, 0.2), (1, 0), (1, 1), (1, 2)])
def test_impossible_kernels(length_scale, cutoff):
    with pytest.raises(ValueError, match="must"):
        rbf_radius(length_scale, cutoff)


def test_radius_inverts_the_cutoff():
    assert rbf_radius(278.68775864747175, 0.2) == pytest.approx(500.0)


def hexagons(pitch, size=40):
    row, column = np.mgrid[:size, :size]
    return np.column_stack([(column + 0.5 * (row % 2)).ravel(), (np.sqrt(3) / 2 * row).ravel()]) * pitch


def test_spacings():
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:20, :30]
    square = np.column_stack([column.ravel(), row.ravel()]) * 200.0
    jittered = square + rng.normal(scale=10, size=square.shape)
    assert typical_spacing(square, irregular=False, rng=rng) == pytest.approx(200)
    assert typical_spacing(jittered, irregular=False, rng=rng) == pytest.approx(200, rel=0.03)
    assert typical_spacing(hexagons(100.0), irregular=False, rng=rng) == pytest.approx(100)
    assert typical_spacing(hexagons(100.0), irregular=True, rng=rng) == pytest.approx(100)
    density = 4000 / 1000**2
    irregular = rng.uniform(0, 1000, size=(4000, 2))
    assert typical_spacing(irregular, irregular=True, rng=rng) == pytest.approx(
        np.sqrt(2 / np.sqrt(3) / density), rel=0.05
    )


@pytest.mark.parametrize("irregular", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_spacing_of_a_grid_is_its_pitch_however_ragged_the_tissue(share, irregular):
    """The neighbours of tiles at a margin are farther away; the pitch is what `spot_pitch` says."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:12, :12]
    tiles = np.column_stack([column.ravel(), row.ravel()]) * 112.0
    smooth = ndimage.gaussian_filter(rng.normal(size=(12, 12)), 1.5).ravel()
    tiles = tiles[smooth <= np.quantile(smooth, share)]
    found = typical_spacing(tiles, irregular=irregular, rng=rng)
    assert found == pytest.approx(112) == spot_pitch(tiles)
    rounded = np.rint(hexagons(200.3, size=12))  # px of a Visium slide
    assert typical_spacing(rounded, irregular=irregular, rng=rng) == pytest.approx(200.3, rel=0.005)


def test_spacing_of_cells_that_lie_in_pairs():
    """Two rows at each place: the nearest neighbour says nothing."""
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 1000, size=(2000, 2))
    found = typical_spacing(np.vstack([places, places]), irregular=True, rng=rng)
    assert found == pytest.approx(np.sqrt(2 / np.sqrt(3) / (4000 / 1000**2)), rel=0.1)


def test_spacing_of_spots_off_the_grid_is_as_it_was(data_dir):
    """Legacy arrays: figures of the documentation were made with these."""
    for section, spacing in {"B4": 204.24775, "C2": 201.83491, "C3": 203.90851}.items():
        table = hc.datasets.her2st(section)["table"]
        xy = table.obsm["spatial"] * table.obs["mpp"].iloc[0]
        assert typical_spacing(xy, irregular=False, rng=np.random.default_rng(0)) == pytest.approx(spacing, rel=1e-7)


def test_default_length_scale_of_tiles_is_that_of_their_pitch(data_dir):
    slide = hc.io.slide(hc.datasets.example_slide())
    for size_um in (112, 224):
        hc.pp.tiles(slide, size_um=size_um, overwrite=True)
        table = slide["tile_table"]
        table.obsm["abundance"] = np.random.default_rng(0).random((table.n_obs, 3))
        table.obs["kind"] = pd.Categorical(np.arange(table.n_obs) % 3)
        for key in ("abundance", "kind"):
            result = hc.tl.colocalization(slide, key, inplace=False)
            assert result.params["length_scale_um"] == pytest.approx(2.2 * size_um, rel=1e-6)
