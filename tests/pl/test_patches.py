from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.offsetbox import AnchoredOffsetbox
from spatialdata import bounding_box_query

import histocell as hc

EDGE_UM = 80  # patches of 40 px at 2 um/px


def captions(ax):
    return [text.get_text() for text in ax.texts]


def test_random_patches_repeat_and_lie_inside(spots, picture):
    spots.obs["patch_inside"] = np.arange(spots.n_obs) % 2 == 0
    first = hc.pl.patches(spots, n=9, image=picture, rng=3)
    again = hc.pl.patches(spots, n=9, image=picture, rng=3)
    assert len(first.images) == 9
    assert captions(first) == captions(again)
    assert set(captions(first)) <= set(spots.obs_names[::2])
    assert captions(hc.pl.patches(spots, n=9, image=picture, rng=4)) != captions(first)
    assert len(hc.pl.patches(spots, n=100, image=picture).images) == 21


def test_patches_are_those_of_the_image(spots, picture):
    names = ["3x2", "0x0"]
    ax = hc.pl.patches(spots, spots=names, image=picture, patch_px=40)
    assert captions(ax) == names
    for drawn, name in zip(ax.images, names, strict=True):
        y0, x0, y1, x1 = spots.obsm["patches"][spots.obs_names.get_loc(name)]
        np.testing.assert_array_equal(drawn.get_array(), picture[y0:y1, x0:x1])
        left, right, bottom, top = drawn.get_extent()
        assert right - left == pytest.approx(bottom - top) == 1
    assert ax.get_xlabel() == f"patches of {EDGE_UM} µm"
    assert [each for each in ax.artists if isinstance(each, AnchoredOffsetbox)]


def test_patches_do_not_overlap(spots, picture):
    ax = hc.pl.patches(spots, n=10, by="Tumour", image=picture, ncols=3)
    boxes = np.array([drawn.get_extent() for drawn in ax.images])
    for i, (left, _, bottom, top) in enumerate(boxes):
        apart = (np.abs(boxes[:, 0] - left) >= 1) | (np.abs(boxes[:, 3] - top) >= 1)
        assert apart.sum() == len(boxes) - 1, i
        assert bottom <= ax.get_ylim()[0]


@pytest.mark.parametrize("key", ["cell_abundance", None])
def test_most_and_least(spots, picture, key):
    ax = hc.pl.patches(spots, n=6, by="Endothelial Lymphatic LYVE1", key=key, image=picture)
    values = spots.obsm[key or "predicted_abundance"]["Endothelial Lymphatic LYVE1"]
    names = [text for text in captions(ax) if "x" in text and len(text) == 3]
    assert set(names[:3]) == set(values.nlargest(3, keep="all").index[:3]) or key
    np.testing.assert_allclose(values[names[:3]], values.sort_values(ascending=False).iloc[:3])
    np.testing.assert_allclose(values[names[3:]], values.sort_values().iloc[:3])
    assert f"most Endothelial Lymphatic LYVE1 ({'measured' if key else 'predicted'})" in captions(ax)


@pytest.mark.parametrize(("largest", "shown"), [(107.3, "107"), (48.6, "49"), (3.14, "3.1"), (0.012, "0.012")])
def test_values_beside_the_names_are_plain(spots, picture, largest, shown):
    spots.obsm["cell_abundance"].iloc[5, 0] = largest
    spots.obsm["cell_abundance"] = spots.obsm["cell_abundance"].clip(upper=largest)
    ax = hc.pl.patches(spots, n=2, by=spots.obsm["cell_abundance"].columns[0], key="cell_abundance", image=picture)
    assert shown in captions(ax)


def test_small_choices(spots, picture):
    spots.obsm["predicted_abundance"].iloc[1:] = np.nan
    assert len(hc.pl.patches(spots, by="Tumour", image=picture).images) == 1
    assert len(hc.pl.patches(spots, n=1, image=picture).images) == 1
    spots.obsm["predicted_abundance"].iloc[:] = np.nan
    with pytest.raises(ValueError, match="no spot of the section has a value of 'Tumour'"):
        hc.pl.patches(spots, by="Tumour", image=picture)


def test_sections(two_sections, picture):
    images = {"S1": picture, "S2": 255 - picture}
    ax = hc.pl.patches(two_sections, n=4, section="S2", image=images, rng=0)
    assert all(name.endswith("-S2") for name in captions(ax))
    assert np.mean(ax.images[0].get_array()) < 127
    with pytest.raises(KeyError, match="S3 not found; available: S1, S2"):
        hc.pl.patches(two_sections, section="S3", image=images)


def test_errors_say_what_to_run(spots, picture):
    with pytest.raises(KeyError, match="spot 9x9 not found; available: 0x0"):
        hc.pl.patches(spots, spots=["0x0", "9x9"], image=picture)
    with pytest.raises(
        KeyError, match=r'cell type B-cells not found in obsm\["predicted_abundance"\]; available: Tumour'
    ):
        hc.pl.patches(spots, by="B-cells", image=picture)
    with pytest.raises(ValueError, match="no image for S1"):
        hc.pl.patches(spots)
    with pytest.raises(ValueError, match="n must be at least 1"):
        hc.pl.patches(spots, n=0, image=picture)
    del spots.obsm["patches"]
    with pytest.raises(KeyError, match=r"hc\.pp\.patches"):
        hc.pl.patches(spots, image=picture)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("n", "per_row"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 5), (7, 7), (8, 4), (9, 3), (12, 4), (16, 4)]
)
def test_patches_fill_the_sheet(spots, picture, n, per_row):
    ax = hc.pl.patches(spots, n=n, image=picture, rng=0)
    lefts = {round(drawn.get_extent()[0], 3) for drawn in ax.images}
    assert len(lefts) == per_row


def test_groups_lie_in_long_rows(spots, picture):
    ax = hc.pl.patches(spots, n=8, by="Tumour", image=picture)
    assert len({round(drawn.get_extent()[3], 3) for drawn in ax.images}) == 2


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_scalebar_lies_under_the_patches(spots, picture, n):
    ax = hc.pl.patches(spots, n=n, image=picture, rng=0, title="Mine")
    ax.figure.draw_without_rendering()
    (bar,) = (each for each in ax.artists if isinstance(each, AnchoredOffsetbox))
    box, label = bar.get_window_extent(), ax.xaxis.label.get_window_extent()
    assert box.y1 <= ax.transData.transform((0, max(drawn.get_extent()[2] for drawn in ax.images)))[1]
    assert not box.overlaps(label)
    assert ax.figure.bbox.x0 <= box.x0
    assert max(box.x1, label.x1) <= ax.figure.bbox.x1
    assert bar.length_um <= 0.75 * EDGE_UM
    assert ax.get_title() == "Mine"


def test_names_that_do_not_fit_are_left_out(spots, picture):
    _, own = plt.subplots(2, 2, figsize=(3, 3))
    ax = hc.pl.patches(spots, n=16, image=picture, rng=0, ax=own[0, 0])
    assert len(ax.images) == 16
    assert captions(ax) == []


def test_patches_of_a_slide_that_was_cut(tissue):
    hc.pp.patches(tissue, table_key="table")
    square = {"min_coordinate": [250, 250], "max_coordinate": [650, 650], "target_coordinate_system": "global"}
    cut = bounding_box_query(tissue.subset(["he", "spots", "table"]), axes=("x", "y"), **square)
    with pytest.raises(ValueError, match="does not lie on image 'he'"):
        hc.pl.patches(cut, n=2)
    hc.pp.patches(cut, size_um=20)
    assert hc.pl.patches(cut, n=2)


def test_own_axes(sdata):
    figure, own = plt.subplots()
    assert hc.pl.patches(sdata, n=2, ax=own) is own
    assert plt.get_fignums() == [figure.number]


def test_looks(sdata, looks_like):
    looks_like(hc.pl.patches(sdata, n=6, by="Tumour"), "patches")


def test_some_of_each_class(sdata):
    table = sdata["table"]
    table.obs["kind"] = pd.Categorical(
        np.where(np.arange(table.n_obs) % 3 == 0, "b", "a"), categories=["a", "b", "none"]
    )
    table.obs.loc[table.obs_names[:2], "kind"] = np.nan
    axis = hc.pl.patches(sdata, by="kind", n=8, show=False)
    texts = [text.get_text() for text in axis.texts]
    assert [text for text in texts if text in {"a", "b", "none"}] == ["a", "b"]
    assert len(axis.images) == 8
    drawn = [text for text in texts if text in set(table.obs_names)]
    assert table.obs["kind"].reindex(drawn).tolist() == ["a"] * 4 + ["b"] * 4
    table.obs["kind"] = np.nan
    with pytest.raises(ValueError, match="missing in all rows"):
        hc.pl.patches(sdata, by="kind", show=False)
