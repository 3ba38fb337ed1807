from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.offsetbox import AnchoredOffsetbox

import histocell as hc
from histocell._core import keys
from histocell.metrics import pearson

MPP, PITCH = 2.0, 50


def circles(ax):
    return [each for each in ax.collections if isinstance(each, EllipseCollection)]


def scalebars(ax):
    return [each for each in ax.artists if isinstance(each, AnchoredOffsetbox)]


def test_truth_stands_beside_prediction_on_one_scale(spots):
    axes = hc.pl.abundance(spots, ["Tumour", "T-cells CD4+"])
    assert axes.shape == (2, 2)
    for row, name in zip(axes, ["Tumour", "T-cells CD4+"], strict=True):
        truth, predicted = spots.obsm["cell_abundance"][name], spots.obsm["predicted_abundance"][name]
        top = max(np.percentile(truth, 99), np.percentile(predicted, 99))
        for ax, values in zip(row, [truth, predicted], strict=True):
            (drawn,) = circles(ax)
            np.testing.assert_allclose(drawn.get_array(), values)
            assert drawn.get_clim() == pytest.approx((0, top))
        assert row[0].get_title() == "measured"
        assert row[1].get_title() == f"predicted, CC {pearson(truth, predicted)[0]:.2f}"
        assert row[0].get_ylabel() == name


def test_spots_have_their_size_and_place_in_um(sdata):
    ax = hc.pl.abundance(sdata, "Tumour", truth=False)
    assert isinstance(ax, Axes)
    (drawn,) = circles(ax)
    np.testing.assert_allclose(drawn.get_offsets(), sdata["table"].obsm["spatial"] * MPP)
    np.testing.assert_allclose(drawn.get_widths(), 80.0)  # um
    assert drawn._units == "xy"
    assert ax.get_aspect() == 1
    assert np.diff(ax.get_ylim())[0] < 0, "y runs downwards"
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    (picture,) = ax.images
    left, right, bottom, top = picture.get_extent()
    assert (left, right) == ax.get_xlim()
    assert (bottom, top) == ax.get_ylim()
    assert scalebars(ax)


def test_the_image_lies_where_the_spots_are(sdata):
    """A spot that the image shows in another colour is drawn on that colour."""
    row = 17
    x, y = sdata["table"].obsm["spatial"][row]
    pixels = np.array(sdata["he"])
    pixels[:, int(y) - 9 : int(y) + 9, int(x) - 9 : int(x) + 9] = np.array([0, 255, 0])[:, None, None]
    sdata["he"].data = pixels
    ax = hc.pl.abundance(sdata, "Tumour", truth=False, image_alpha=1, size=1e-6)
    shown = ax.images[0].get_array()
    green = (shown[..., 1] > 250) & (shown[..., 0] < 5)
    left, right, bottom, top = ax.images[0].get_extent()
    height, width = green.shape
    at_y, at_x = (np.nonzero(green)[k].mean() + 0.5 for k in (0, 1))
    assert left + at_x / width * (right - left) == pytest.approx(x * MPP, abs=1.5)
    assert top + at_y / height * (bottom - top) == pytest.approx(y * MPP, abs=1.5)


def test_sections_stand_side_by_side_at_one_scale(two_sections, picture):
    far = two_sections.obs["section"] == "S2"
    two_sections.obsm["spatial"][far.to_numpy(), 1] *= 0.6
    axes = hc.pl.abundance(two_sections, "Tumour", image={"S1": picture, "S2": picture})
    assert axes.shape == (1, 4)
    assert len({round(float(np.ptp(ax.get_ylim())), 6) for ax in axes[0]}) == 1
    titles = [ax.get_title() for ax in axes[0]]
    assert titles[0] == "S1 measured"
    assert titles[1].startswith("S1 predicted\nCC ")
    assert titles[1].endswith("(train)")
    assert titles[3].startswith("S2 predicted\nCC ")
    assert "train" not in titles[3]
    assert len({circles(ax)[0].get_clim() for ax in axes[0]}) == 1
    one = hc.pl.abundance(two_sections, "Tumour", section="S2")
    assert one.shape == (1, 2)


def test_only_test_spots_are_scored(spots):
    spots.obs["split"] = np.where(np.arange(spots.n_obs) % 2, "test", "train")
    spots.obsm["predicted_abundance"].iloc[::2] = 0.5
    truth, predicted = (spots.obsm[key]["Tumour"].iloc[1::2] for key in ("cell_abundance", "predicted_abundance"))
    axes = hc.pl.abundance(spots, "Tumour")
    assert axes[0, 1].get_title() == f"predicted, CC {pearson(truth, predicted)[0]:.2f}"


def test_too_many_sections_and_unknown_ones(two_sections):
    with pytest.raises(KeyError, match="S9 not found; available: S1, S2"):
        hc.pl.abundance(two_sections, section=["S1", "S9"])
    two_sections.obs["section"] = [f"S{i % 7}" for i in range(two_sections.n_obs)]
    with pytest.raises(ValueError, match="7 sections are too many.*section='S0'"):
        hc.pl.abundance(two_sections)
    assert plt.get_fignums() == []


def test_missing_slots_say_what_to_run(spots):
    with pytest.raises(KeyError, match="cell type B-cells not found; available: Tumour"):
        hc.pl.abundance(spots, ["Tumour", "B-cells"])
    with pytest.raises(KeyError, match=r'obsm\["other"\] not found'):
        hc.pl.abundance(spots, truth="other")
    del spots.obsm["predicted_abundance"]
    with pytest.raises(KeyError, match=r"hc\.tl\.predict_abundance"):
        hc.pl.abundance(spots)
    with pytest.raises(ValueError, match="pinkish"):
        hc.pl.abundance(spots, key="cell_abundance", cmap="pinkish")
    with pytest.raises(TypeError, match="AnnData or a SpatialData"):
        hc.pl.abundance(spots.obs)
    assert plt.get_fignums() == []


def test_no_rows(spots):
    empty = spots[spots.obs["section"] == "S9"].copy()
    with pytest.raises(ValueError, match="no spot to draw: the table has no rows"):
        hc.pl.abundance(empty, "Tumour")
    with pytest.raises(ValueError, match="no patch to show: the table has no rows"):
        hc.pl.patches(empty)
    assert plt.get_fignums() == []


def test_truth_alone(spots):
    assert isinstance(hc.pl.abundance(spots, "Tumour", key="cell_abundance"), Axes)


def test_a_type_that_was_not_measured(spots):
    del spots.obsm["cell_abundance"]["Tumour"]
    axes = hc.pl.abundance(spots, "Tumour")
    hollow = circles(axes[0, 0])[1]
    assert len(hollow.get_offsets()) == spots.n_obs
    assert hollow.get_facecolor().size == 0
    assert axes[0, 1].get_title() == "predicted"


@pytest.mark.filterwarnings("error")
def test_nan_constant_and_single_spots(spots):
    spots.obsm["predicted_abundance"].iloc[:5] = np.nan
    spots.obsm["cell_abundance"]["Tumour"] = 0.0
    axes = hc.pl.abundance(spots, ["Tumour", "α_β"])
    known, hollow = circles(axes[0, 1])
    assert (len(known.get_offsets()), len(hollow.get_offsets())) == (spots.n_obs - 5, 5)
    assert axes[0, 1].get_title() == "predicted, CC undefined"
    axes[0, 0].figure.draw_without_rendering()
    spots.obsm["predicted_abundance"]["Tumour"] = np.nan
    for rows in (slice(0, 1), slice(0, 2), slice(0, 42)):
        hc.pl.abundance(spots[rows].copy())[0, 0].figure.draw_without_rendering()
    spots.obsm["predicted_abundance"]["Tumour"] = 0.0
    ax = hc.pl.abundance(spots, "Tumour", truth=False)
    assert circles(ax)[0].get_clim() == (0, 1)


def test_rare_types_use_their_maximum(spots):
    values = np.zeros(spots.n_obs)
    values[3] = 0.02
    spots.obsm["cell_abundance"]["Tumour"] = values
    ax = hc.pl.abundance(spots, "Tumour", key="cell_abundance", vmax="p90")
    assert circles(ax)[0].get_clim() == (0, 0.02)


@pytest.mark.parametrize(
    ("vmax", "top"), [(3.0, 3.0), (2, 2.0), ({"Tumour": 0.7}, 0.7), ("p50", 0.5), ({"α_β": 1.0}, 1.0)]
)
def test_vmax(spots, vmax, top):
    ax = hc.pl.abundance(spots, "Tumour", key="cell_abundance", vmax=vmax)
    assert circles(ax)[0].get_clim() == pytest.approx((0, top))
    (bar,) = ax.child_axes
    assert bar._colorbar.extend == ("max" if top < 1 else "neither")


@pytest.mark.parametrize("vmax", ["high", "p101", "p-1"])
def test_bad_vmax(spots, vmax):
    with pytest.raises(ValueError, match="vmax must be a number, a percentile"):
        hc.pl.abundance(spots, "Tumour", vmax=vmax)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"alpha": 1.5}, "alpha must be"),
        ({"image_alpha": -1}, "image_alpha must be"),
        ({"size": 0}, "size must be a positive"),
        ({"vmax": 0}, "vmax must be a positive"),
        ({"ncols": 0}, "ncols must be at least 1"),
    ],
)
def test_bad_numbers_are_errors_before_there_is_a_figure(spots, argument, message):
    with pytest.raises(ValueError, match=message):
        hc.pl.abundance(spots, "Tumour", **argument)
    assert plt.get_fignums() == []


def test_scale_is_named_for_proportions(spots):
    shares = spots.obsm["cell_abundance"].div(spots.obsm["cell_abundance"].sum(axis=1), axis=0)
    bars = []
    for values in (shares, shares * 7):
        spots.obsm["cell_abundance"] = values
        ax = hc.pl.abundance(spots, "Tumour", key="cell_abundance")
        bars.append(ax.child_axes[0].get_ylabel())
    assert bars == ["proportion", "abundance"]


def test_truth_and_prediction_of_other_units_share_no_scale(spots):
    """Cells beside shares: the bar said "proportion" up to 30, and the prediction was blank."""
    shares = spots.obsm["cell_abundance"].div(spots.obsm["cell_abundance"].sum(axis=1), axis=0)
    spots.obsm["cell_abundance"] = shares * 7
    spots.obsm["shares"] = spots.obsm["predicted_abundance"] = shares
    spots.uns["histocell"] = {
        "cell_abundance": '{"unit": "cells per spot"}',
        "shares": '{"unit": "proportion"}',
        "predicted_abundance": '{"unit": "proportion", "target": "shares"}',
    }
    with pytest.warns(UserWarning, match="no common colour scale, so only the latter is drawn"):
        ax = hc.pl.abundance(spots, "Tumour", key="shares")
    assert ax.child_axes[0].get_ylabel() == "proportion"
    with pytest.raises(ValueError, match='"cell_abundance"] is in cells per spot'):
        hc.pl.abundance(spots, "Tumour", truth="cell_abundance")
    assert hc.pl.abundance(spots, "Tumour").shape == (1, 2)  # beside what the model was fitted on


def test_many_types_are_limited(spots):
    frame = pd.DataFrame(np.tile(np.arange(30.0), (spots.n_obs, 1)), index=spots.obs_names)
    spots.obsm["predicted_abundance"] = frame.set_axis([f"type {i}" for i in range(30)], axis=1)
    with pytest.warns(UserWarning, match="24 most abundant of 30"):
        axes = hc.pl.abundance(spots, truth=False)
    assert axes.shape == (24, 1)
    assert axes[0, 0].get_title() == "type 6"


def test_own_axes_are_used_and_not_shown(spots, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    monkeypatch.setattr(plt, "isinteractive", lambda: True)
    figure, own = plt.subplots(2, 2)
    axes = hc.pl.abundance(spots, ["Tumour", "α_β"], ax=own)
    assert axes[1, 0] is own[1, 0]
    assert plt.get_fignums() == [figure.number]
    assert shown == []
    with pytest.raises(ValueError, match="ax holds 4 axes; 1 cell types x 2 maps"):
        hc.pl.abundance(spots, "Tumour", ax=own)
    assert hc.pl.abundance(spots, "Tumour", show=False) is not None
    assert shown == []
    assert hc.pl.abundance(spots, "Tumour") is not None
    assert shown == [True]
    assert hc.pl.abundance(spots, "Tumour", show=True) is None


def test_unknown_resolution_means_no_scalebar(spots):
    del spots.obs["mpp"]
    ax = hc.pl.abundance(spots, "Tumour", truth=False)
    np.testing.assert_allclose(circles(ax)[0].get_offsets(), spots.obsm["spatial"])
    np.testing.assert_allclose(circles(ax)[0].get_widths(), 0.55 * PITCH)
    assert not scalebars(ax)


def test_spot_diameter_of_space_ranger(spots):
    spots.uns["spatial"] = {"S1": {"scalefactors": {"spot_diameter_fullres": 31.0}}}
    ax = hc.pl.abundance(spots, "Tumour", truth=False, size=2)
    np.testing.assert_allclose(circles(ax)[0].get_widths(), 2 * 31.0 * MPP)


def test_the_section_is_named_where_one_is_shown(spots, two_sections):
    assert hc.pl.abundance(spots, "Tumour", key="cell_abundance").get_title() == "S1, Tumour"
    axes = hc.pl.abundance(spots, "Tumour")
    assert axes[0, 0].figure.get_suptitle() == "S1"
    assert hc.pl.abundance(two_sections, "Tumour", section="S2")[0, 0].figure.get_suptitle() == "S2"
    assert hc.pl.abundance(two_sections, "Tumour")[0, 0].figure.get_suptitle() == ""
    _, own = plt.subplots(2, 2)
    axes = hc.pl.abundance(spots, ["Tumour", "α_β"], ax=own)
    assert [ax.get_title() for ax in axes[:, 0]] == ["S1 measured"] * 2
    assert axes[0, 0].figure.get_suptitle() == "", "the title of the user's figure is the user's"
    del spots.obs["section"]
    assert hc.pl.abundance(spots, "Tumour", key="cell_abundance").get_title() == "Tumour"
    spots.uns["spatial"] = {"V10": {}}
    assert hc.pl.abundance(spots, "Tumour", key="cell_abundance").get_title() == "V10, Tumour"


def test_shapes_are_no_section(sdata):
    del sdata["table"].obs["section"]
    assert hc.pl.abundance(sdata, "Tumour", key="cell_abundance").get_title() == "Tumour"


def test_title(spots):
    assert hc.pl.abundance(spots, "Tumour", truth=False, title="Mine").get_title() == "Mine"
    assert hc.pl.abundance(spots, "Tumour", truth=False, title="").get_title() == "Tumour"
    assert hc.pl.abundance(spots, "Tumour", title="Mine")[0, 0].figure.get_suptitle() == "Mine"
    _, own = plt.subplots(2)
    axes = hc.pl.abundance(spots, ["Tumour", "α_β"], truth=False, title="Mine", ax=own)
    assert [ax.get_title() for ax in axes.flat] == ["Mine, Tumour", "Mine, α_β"]


def test_truth_and_prediction_are_of_one_size_on_the_users_axes(sdata):
    figure, own = plt.subplots(2, 2, figsize=(6, 6))
    hc.pl.abundance(sdata, ["Tumour", "α_β"], ax=own)  # the title of one has a line more
    figure.draw_without_rendering()
    for row in own:
        first, second = (ax.get_window_extent() for ax in row)
        assert first.size == pytest.approx(second.size)
        assert (first.y0, first.y1) == pytest.approx((second.y0, second.y1))
        assert first.x1 < second.x0


def test_a_colour_bar_stays_in_its_part_of_a_subfigure(sdata):
    figure = plt.figure(figsize=(8, 3))
    left, right = figure.subfigures(1, 2)
    own = left.subplots()
    right.subplots()
    hc.pl.abundance(sdata, "Tumour", truth=False, ax=own)
    figure.draw_without_rendering()
    (bar,) = own.child_axes
    assert bar.get_tightbbox().x1 <= left.bbox.x1
    assert own.get_window_extent().width > 0.3 * left.bbox.width


@pytest.mark.parametrize("size", [(4, 4), (6, 6), (9, 3)])
@pytest.mark.parametrize("layout", [None, "constrained"])
def test_a_map_stays_in_the_place_of_the_users_axes(sdata, size, layout, assert_inside):
    figure, own = plt.subplots(2, 2, figsize=size, layout=layout)
    places = [ax.get_position().bounds for ax in own.flat]
    sdata["table"].obs["section"] = "a slide with a long name"
    hc.pl.abundance(sdata, "Tumour", truth=False, ax=own[0, 0])
    assert_inside(own[0, 0], own.flat[1:])
    if not layout:
        assert [ax.get_position().bounds for ax in own.flat[1:]] == places[1:]


@pytest.mark.parametrize(
    ("kind", "section"),
    [(kind, "CMU-1-Small-Region") for kind in ("2 x 2", "3 in", "constrained")]
    + [(kind, "TCGA-05-4244-01Z-00-DX1.d4ff32cd-38cf-40ea-8213") for kind in ("2 x 2", "3 in")],
)
def test_a_long_title_stays_on_the_figure(sdata, kind, section, user_axes, assert_inside):
    ax, others = user_axes(kind)
    sdata["table"].obs["section"] = section
    hc.pl.abundance(sdata, "Tumour", truth=False, ax=ax)
    assert_inside(ax, others)
    assert ax.get_title() in {f"{section}, Tumour", f"{section}\nTumour"}


def test_the_scalebar_covers_no_data_and_has_its_length(sdata):
    ax = hc.pl.abundance(sdata, "Tumour", truth=False)
    ax.figure.draw_without_rendering()
    (bar,) = scalebars(ax)
    assert bar.get_window_extent().y1 <= ax.get_window_extent().y0
    (line,) = bar.findobj(mpl.lines.Line2D)
    (text,) = (each.get_text() for each in bar.findobj(mpl.text.Text) if each.get_text())
    drawn_px = np.ptp(line.get_transform().transform(line.get_xydata())[:, 0])
    um_per_px = np.ptp(ax.get_xlim()) / ax.get_window_extent().width
    assert text == "100 µm"
    assert drawn_px * um_per_px == pytest.approx(100)


def test_maps_of_one_scale_share_a_scalebar_and_others_have_their_own(two_sections):
    maps = hc.pl.abundance(two_sections, ["Tumour", "α_β"])
    assert [len(scalebars(ax)) for ax in maps.flat] == [0, 0, 0, 0, 1, 0, 0, 0]
    _, own = plt.subplots(4, figsize=(3, 9))
    assert [len(scalebars(ax)) for ax in hc.pl.abundance(two_sections, "Tumour", ax=own).flat] == [1] * 4
    far = (two_sections.obs["section"] == "S2").to_numpy()
    two_sections.obsm["spatial"][far] *= 10  # one section is a tenth of the other
    maps = hc.pl.abundance(two_sections, "Tumour")
    maps[0, 0].figure.draw_without_rendering()
    assert [len(scalebars(ax)) for ax in maps.flat] == [1] * 4
    assert maps[0, 2].get_window_extent().height == pytest.approx(maps[0, 0].get_window_extent().height, rel=0.02)
    assert {scalebars(ax)[0].length_um for ax in maps[0, :2]} == {100}
    assert {scalebars(ax)[0].length_um for ax in maps[0, 2:]} == {1000}
    two_sections.obs.loc[far, "mpp"] = np.nan  # px beside um
    two_sections.obsm["spatial"][far] /= 10
    maps = hc.pl.abundance(two_sections, "Tumour")
    assert [len(scalebars(ax)) for ax in maps.flat] == [1, 1, 0, 0]


def test_text_has_the_size_that_the_user_set(spots):
    def sizes():
        ax = hc.pl.abundance(spots, "Tumour", truth=False)
        return ax.title.get_size(), ax.child_axes[0].yaxis.label.get_size(), ax.figure.get_figwidth()

    ours = sizes()
    assert ours[:2] == (8, 8)
    with plt.rc_context({"font.size": 14}):
        title, label, width = sizes()
    assert (title, label) == pytest.approx((14 * 1.2, 14))  # "large" and "medium", as matplotlib has them
    assert width > ours[2]
    with plt.rc_context({"axes.labelsize": 11}):
        assert sizes()[:2] == (8, 11)


def test_a_single_map_is_as_wide_as_a_column(sdata, spots):
    spots.obsm["spatial"][:, 0] = spots.obsm["spatial"][:, 0] * 0.4
    high = hc.pl.abundance(spots, "Tumour", truth=False).figure.get_size_inches()
    square = hc.pl.abundance(sdata, "Tumour", truth=False).figure.get_size_inches()
    assert 3 < high[0] < square[0] < 5
    assert max(*high, *square) < 5


def test_tissue_fades_to_white_on_a_dark_style(sdata):
    def brightness():
        ax = hc.pl.abundance(sdata, "Tumour", truth=False, size=1e-6)
        ax.figure.canvas.draw()
        box = ax.get_window_extent()
        pixels = np.asarray(ax.figure.canvas.buffer_rgba())[::-1, :, :3]
        return pixels[int(box.y0) + 5 : int(box.y1) - 5, int(box.x0) + 5 : int(box.x1) - 5].mean()

    light = brightness()
    with plt.style.context("dark_background"):
        assert brightness() == pytest.approx(light, abs=2)


def test_data_is_not_changed(spots):
    before = spots.copy()
    hc.pl.abundance(spots)
    pd.testing.assert_frame_equal(spots.obsm["predicted_abundance"], before.obsm["predicted_abundance"])
    pd.testing.assert_frame_equal(spots.obs, before.obs)
    assert set(spots.uns) == set(before.uns)


def test_several_predictions_stand_beside_the_truth(spots, looks_like):
    truth, predicted = spots.obsm["cell_abundance"], spots.obsm["predicted_abundance"]
    spots.obsm["predicted_abundance_ridge"] = predicted * 0.5 + 1
    keys.write_provenance(spots, "predicted_abundance", model="mlp", baselines=["ridge"])
    slots = ["predicted_abundance", "predicted_abundance_ridge"]
    axes = hc.pl.abundance(spots, ["Tumour", "T-cells CD4+"], key=slots)
    assert axes.shape == (2, 3)
    cc = pearson(truth["Tumour"], predicted["Tumour"])[0]
    assert [ax.get_title() for ax in axes[0]] == ["measured", f"mlp, CC {cc:.2f}", f"ridge, CC {cc:.2f}"]
    limits = [drawn.get_clim() for ax in axes[0] for drawn in circles(ax)]
    assert len(set(limits)) == 1
    assert len(limits) == 3
    looks_like(axes[0, 0], "abundance_models")
    named = hc.pl.abundance(spots, "Tumour", key={"CONCH + UNI": slots[0], "Hist2Cell": slots[1]}, truth=False)
    assert [ax.get_title() for ax in named[0]] == ["CONCH + UNI", "Hist2Cell"]
    np.testing.assert_allclose(circles(named[0, 1])[0].get_array(), predicted["Tumour"] * 0.5 + 1)


def test_slots_that_cannot_be_compared(spots):
    spots.obsm["other"] = spots.obsm["predicted_abundance"].rename(columns=str.upper)
    with pytest.raises(ValueError, match="share no cell type"):
        hc.pl.abundance(spots, key=["predicted_abundance", "other"])
    with pytest.raises(ValueError, match="mapping from names to slots"):
        hc.pl.abundance(spots, key=[])
    with pytest.raises(KeyError, match=r'obsm\["none"\] not found'):
        hc.pl.abundance(spots, key=["predicted_abundance", "none"])
    spots.obsm["other"] = spots.obsm["predicted_abundance"]
    for slot, unit in (("predicted_abundance", "cells per spot"), ("other", "proportion")):
        keys.write_provenance(spots, slot, unit=unit)
    with pytest.raises(ValueError, match="no common colour scale"):
        hc.pl.abundance(spots, key=["predicted_abundance", "other"], truth=False)


def test_spots_of_a_dense_grid_hide_no_other(sdata):
    """Circles of 80 um, 60 um apart, are drawn as large as their distance."""
    sdata["table"].obsm["spatial"] *= 0.6
    shapes = sdata["spots"]
    shapes["geometry"] = shapes.scale(0.6, 0.6, origin=(0, 0))
    (drawn,) = circles(hc.pl.abundance(sdata, "Tumour", truth=False))
    np.testing.assert_allclose(drawn.get_widths(), 60)


def test_looks(sdata, looks_like):
    axes = hc.pl.abundance(sdata, ["Tumour", "Endothelial Lymphatic LYVE1"], figsize=(5, 4))
    looks_like(axes[0, 0], "abundance")


def test_looks_without_image(two_sections, looks_like):
    two_sections.obsm["predicted_abundance"].iloc[::9] = np.nan
    axes = hc.pl.abundance(two_sections, ["Tumour", "T-cells CD4+"], cmap=mpl.colormaps["magma_r"], figsize=(7, 3.2))
    looks_like(axes[0, 0], "abundance_plain")


def test_style_leaves_the_rest_of_the_settings_alone():
    import matplotlib as mpl

    from histocell.pl._style import styled

    before = dict(mpl.rcParams)
    with styled(created=True):
        mpl.rcParams["interactive"] = True  # as a notebook's backend does at the first figure
    assert mpl.rcParams["interactive"]
    mpl.rcParams["interactive"] = before["interactive"]
    assert dict(mpl.rcParams) == before


def test_predictions_of_unknown_tissue_lie_under_a_veil(spots):
    spots.obs["predicted_abundance_novelty"] = np.where(np.arange(spots.n_obs) < 5, 3.0, 1.0)
    plain = hc.pl.abundance(spots, "Tumour")
    axes = hc.pl.abundance(spots, "Tumour", veil_novelty=1.5)
    measured, predicted = (len(circles(ax)) - len(circles(other)) for ax, other in zip(axes[0], plain[0], strict=True))
    assert (measured, predicted) == (0, 1)  # what was measured stays as it is
    veil = circles(axes[0, 1])[-1]
    assert len(veil.get_offsets()) == 5
    assert veil.get_alpha() == 0.75
    assert f"{5 / spots.n_obs:.0%} veiled" in axes[0, 1].get_title()
    assert "veiled" not in axes[0, 0].get_title()
    assert len(circles(hc.pl.abundance(spots, "Tumour", veil_novelty=5)[0, 1])) == len(circles(plain[0, 1]))
    with pytest.raises(ValueError, match="veil_novelty"):
        hc.pl.abundance(spots, veil_novelty=-1)
    del spots.obs["predicted_abundance_novelty"]
    with pytest.raises(KeyError, match="predicted_abundance_novelty.*not found.*predict_abundance"):
        hc.pl.abundance(spots, veil_novelty=1.5)
    plt.close("all")
