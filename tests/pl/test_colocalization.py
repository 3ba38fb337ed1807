from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from scipy.cluster import hierarchy

import histocell as hc

TYPES = ["Tumour", "T-cells CD4+", "α_β", "Endothelial Lymphatic LYVE1", "B"]


def result(rng=0, shift=0.0):
    generator = np.random.default_rng(rng)
    r = generator.uniform(-0.2, 0.2, size=(5, 5)) + shift
    r = (r + r.T) / 2
    r[0, 1] = r[1, 0] = 0.5
    r[0, 4] = r[4, 0] = -0.4
    np.fill_diagonal(r, 0.9)
    p = np.where(np.abs(r) > 0.3, 0.001, 0.5)
    np.fill_diagonal(p, np.nan)
    sections = {"names": ["S1"], "patients": ["S1"], "R": r[None]}
    names = np.array(TYPES, dtype=object)
    return {"R": r, "p_adj": p, "names": names, "sections": sections, "params": '{"key": "cell_abundance"}'}


def many(k, rng=0):
    """A result of k types with long names."""
    generator = np.random.default_rng(rng)
    loadings = generator.normal(size=(k, 4))
    r = loadings @ loadings.T / np.abs(loadings @ loadings.T).max() / 2
    p = np.where(np.abs(r) > 0.1, 0.001, 0.5)
    names = np.array([f"Endothelial Lymphatic LYVE1 {index}" for index in range(k)], dtype=object)
    return {"R": r, "p_adj": p, "names": names, "params": "{}"}


@pytest.fixture
def adata(spots):
    spots.uns["colocalization"] = result()
    spots.uns["colocalization_truth"] = result(1)
    return spots


def matrix(ax):
    (image,) = ax.images
    return image.get_array(), [label.get_text() for label in ax.get_yticklabels()], image


def columns(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


class TestMap:
    def test_values_sit_under_their_names(self, adata):
        ax = hc.pl.colocalization(adata)
        values, names, image = matrix(ax)
        assert sorted(names) == sorted(TYPES)
        assert names == columns(ax)
        expected = pd.DataFrame(adata.uns["colocalization"]["R"], TYPES, TYPES).loc[names, names].to_numpy().copy()
        np.fill_diagonal(expected, np.nan)
        np.testing.assert_array_equal(np.ma.filled(values, np.nan), expected)
        assert image.get_clim() == (-0.5, 0.5)

    def test_dots_mark_significant_pairs(self, adata):
        ax = hc.pl.colocalization(adata, linkage=False)
        assert matrix(ax)[1] == TYPES
        (dots,) = ax.collections
        assert {tuple(place) for place in dots.get_offsets().astype(int)} == {(0, 1), (1, 0), (0, 4), (4, 0)}
        plain = hc.pl.colocalization(adata, significance=None)
        assert not plain.collections

    def test_without_significant_pairs_it_says_so(self, adata):
        adata.uns["colocalization"]["p_adj"][:] = 0.5
        ax = hc.pl.colocalization(adata, show=False)
        texts = [text.get_text() for text in ax.figure.findobj(plt.Text)]
        assert "no adjusted\np ≤ 0.05" in texts
        plt.close(ax.figure)

    def test_maps_to_compare_share_order_and_scale(self, adata):
        axes = hc.pl.colocalization(adata, ["colocalization_truth", "colocalization"], title=["truth", "prediction"])
        assert [ax.get_title() for ax in axes] == ["truth", "prediction"]
        assert columns(axes[0]) == columns(axes[1]) == matrix(axes[1])[1]
        assert matrix(axes[0])[2].get_clim() == matrix(axes[1])[2].get_clim()
        own = hc.pl.colocalization(adata, "colocalization_truth")
        assert columns(own) == columns(axes[0])
        other = hc.pl.colocalization(adata, "colocalization", linkage="colocalization_truth")
        assert columns(other) == columns(axes[0])

    def test_given_linkage(self, adata):
        tree = hierarchy.average(np.random.default_rng(3).uniform(size=(5, 2)))
        ax = hc.pl.colocalization(adata, linkage=tree)
        assert columns(ax) == [TYPES[index] for index in hierarchy.leaves_list(tree)]
        with pytest.raises(ValueError, match="linkage of 5 cell types"):
            hc.pl.colocalization(adata, linkage=tree[:2])

    def test_chosen_types(self, adata):
        ax = hc.pl.colocalization(adata, cell_types=TYPES[:3], linkage=False)
        assert columns(ax) == TYPES[:3]
        with pytest.raises(KeyError, match="cell type z not found"):
            hc.pl.colocalization(adata, cell_types=["z"])
        with pytest.raises(ValueError, match="at least two"):
            hc.pl.colocalization(adata, cell_types=TYPES[:1])

    def test_undefined_pairs(self, adata):
        for part in ("R", "p_adj"):
            adata.uns["colocalization"][part][2] = np.nan
            adata.uns["colocalization"][part][:, 2] = np.nan
        values, names, _ = matrix(hc.pl.colocalization(adata))
        assert np.isnan(np.ma.filled(values, np.nan)[names.index(TYPES[2])]).all()

    def test_axes_of_the_user(self, adata):
        _, ax = plt.subplots()
        assert hc.pl.colocalization(adata, ax=ax) is ax
        with pytest.raises(ValueError, match="ax holds 1 axes; there are 2 results"):
            hc.pl.colocalization(adata, ["colocalization", "colocalization_truth"], ax=ax)

    @pytest.mark.parametrize("kind", ["2 x 2", "3 in", "constrained"])
    @pytest.mark.parametrize("k", [2, 5, 12, 30])
    def test_names_and_colour_bar_have_room(self, adata, kind, k, user_axes, assert_inside, assert_apart):
        adata.uns["colocalization"] = many(k)
        ax, others = user_axes(kind)
        hc.pl.colocalization(adata, ax=ax)
        assert_inside(ax, others)
        assert_apart(ax.get_yticklabels())
        assert_apart(ax.get_xticklabels())
        (bar,) = ax.child_axes
        for name in [*ax.get_yticklabels(), *ax.get_xticklabels()]:
            assert not bar.get_tightbbox().overlaps(name.get_window_extent())
        (dots,) = ax.collections
        cell = ax.get_window_extent().width / k * 72 / ax.figure.dpi
        assert 0.2 * cell < np.sqrt(dots.get_sizes()[0]) or np.sqrt(dots.get_sizes()[0]) == 6

    def test_difference_names_its_groups(self, adata):
        params = json.dumps({"first": "treated", "second": "control"})
        adata.uns["difference"] = result() | {"R_first": 0, "R_second": 0, "params": params}
        ax = hc.pl.colocalization(adata, "difference")
        assert "R, treated − control" in [each.get_ylabel() for each in ax.figure.axes]
        ax = hc.pl.colocalization_network(adata, "difference", title="arms")
        assert ax.get_legend().get_title().get_text() == "R, treated − control, adjusted p ≤ 0.05"
        assert ax.get_title() == "arms"

    def test_agreement_with_the_truth(self, adata):
        """Cosine and correlation without the diagonal, as it is not drawn."""
        hc.tl.colocalization(adata, "predicted_abundance", key_added="predicted", rng=0)
        hc.tl.colocalization(adata, key_added="measured", rng=0)
        scores = hc.tl.evaluate_colocalization(adata.uns["measured"], adata.uns["predicted"])
        wanted = scores[~scores["diagonal"]].set_index("measure")["value"]
        text = f"cosine {wanted['cosine']:.2f}, correlation {wanted['pearson']:.2f}"
        axes = hc.pl.colocalization(adata, ["measured", "predicted"], scores=scores, title=["truth", "mlp"])
        assert [ax.get_title() for ax in axes] == ["truth", f"mlp\n{text}"]
        axes = hc.pl.colocalization(adata, ["measured", "predicted", "measured"], scores={"predicted": scores})
        assert axes[1].get_title() == f"predicted\n{text}"
        with pytest.raises(ValueError, match="say of which"):
            hc.pl.colocalization(adata, ["measured", "predicted", "measured"], scores=scores)
        with pytest.raises(ValueError, match="scores of the result other not found; available: measured, predicted"):
            hc.pl.colocalization(adata, ["measured", "predicted"], scores={"other": scores})
        with pytest.raises(ValueError, match=r"hc\.tl\.evaluate_colocalization makes them"):
            hc.pl.colocalization(adata, ["measured", "predicted"], scores=scores[["value"]])

    def test_results_that_do_not_fit(self, adata):
        adata.uns["colocalization_truth"]["names"] = np.array([*TYPES[:4], "other"], dtype=object)
        with pytest.raises(ValueError, match="different cell types: B, other"):
            hc.pl.colocalization(adata, ["colocalization", "colocalization_truth"])
        adata.uns["colocalization_truth"] = result()
        with pytest.raises(ValueError, match="title holds 1, but there are 2 results"):
            hc.pl.colocalization(adata, ["colocalization", "colocalization_truth"], title="one")
        with pytest.raises(KeyError, match=r"Run hc.tl.colocalization"):
            hc.pl.colocalization(adata, "nothing")
        adata.uns["nothing"] = {}
        with pytest.raises(ValueError, match="is not a result"):
            hc.pl.colocalization(adata, "nothing")

    def test_bad_numbers_are_errors_before_there_is_a_figure(self, adata):
        with pytest.raises(ValueError, match="vmax must be a positive number, not -1"):
            hc.pl.colocalization(adata, vmax=-1)
        for plot in (hc.pl.colocalization, hc.pl.colocalization_network):
            with pytest.raises(ValueError, match="significance must be a number from 0 to 1, not 5"):
                plot(adata, significance=5)
        with pytest.raises(TypeError, match="min_r must be a number"):
            hc.pl.colocalization_network(adata, min_r="0.1")
        assert plt.get_fignums() == []

    def test_many_types(self, adata):
        r = np.random.default_rng(0).uniform(-1, 1, size=(80, 80))
        names = np.array([f"type {index}" for index in range(80)], dtype=object)
        adata.uns["colocalization"] = {"R": r + r.T, "p_adj": np.zeros((80, 80)), "names": names}
        ax = hc.pl.colocalization(adata)
        assert len(columns(ax)) == 80
        assert not ax.collections

    def test_looks(self, adata, looks_like):
        axes = hc.pl.colocalization(adata, ["colocalization_truth", "colocalization"], title=["measured", "predicted"])
        looks_like(axes[0], "colocalization")


class TestNetwork:
    def edges(self, ax):
        return next(each for each in ax.collections if isinstance(each, LineCollection))

    def test_only_significant_pairs(self, adata):
        ax = hc.pl.colocalization_network(adata)
        lines = self.edges(ax)
        assert len(lines.get_segments()) == 2
        assert np.diff(lines.get_linewidths())[0] > 0
        red, blue = (lines.get_colors()[index] for index in (1, 0))
        assert red[0] > red[2]
        assert blue[2] > blue[0]
        assert {text.get_text() for text in ax.texts} == set(TYPES)

    def test_weak_pairs_can_be_left_out(self, adata):
        assert len(self.edges(hc.pl.colocalization_network(adata, min_r=0.45)).get_segments()) == 1

    def test_direction(self, adata):
        """R of asymmetric weights: the stronger direction is drawn."""
        adata.uns["colocalization"]["R"][0, 1] = 0.1
        adata.uns["colocalization"]["p_adj"][0, 1] = 0.9
        assert len(self.edges(hc.pl.colocalization_network(adata)).get_segments()) == 2

    @pytest.mark.parametrize("kind", ["2 x 2", "3 in", "constrained"])
    @pytest.mark.parametrize("k", [2, 5, 12, 30])
    def test_names_and_legend_have_room(self, adata, kind, k, user_axes, assert_inside, assert_apart):
        adata.uns["colocalization"] = many(k)
        ax, others = user_axes(kind)
        hc.pl.colocalization_network(adata, ax=ax)
        assert_inside(ax, others)
        assert_apart(ax.texts)
        assert all(text.get_rotation() == 0 for text in ax.texts)
        assert ax.get_legend() is not None

    def test_names_are_seen_on_dark_styles(self, adata):
        with plt.style.context("dark_background"):
            ax = hc.pl.colocalization_network(adata)
        colors = {text.get_text(): text.get_color() for text in ax.texts}
        assert colors["Tumour"] == "white"

    def test_pairs_that_are_too_weak_are_no_lack_of_significance(self, adata):
        ax = hc.pl.colocalization_network(adata, min_r=0.6)
        assert "no pair with adjusted\np ≤ 0.05 and |R| ≥ 0.6" in [text.get_text() for text in ax.texts]

    def test_nothing_significant(self, adata):
        ax = hc.pl.colocalization_network(adata, significance=1e-9)
        assert "no pair" in " ".join(text.get_text() for text in ax.texts)

    def test_looks(self, adata, looks_like):
        looks_like(hc.pl.colocalization_network(adata), "colocalization_network")


class TestPair:
    @pytest.fixture
    def computed(self, spots):
        pair = ("Tumour", "Endothelial Lymphatic LYVE1")
        hc.tl.colocalization(spots, local=[pair], rng=0)
        return spots, pair

    def test_three_maps(self, computed):
        adata, pair = computed
        axes = hc.pl.colocalization_pair(adata, *pair)
        assert [ax.get_title() for ax in axes[:2]] == list(pair)
        r = np.asarray(adata.uns["colocalization"]["R"])[0, 3]
        assert axes[2].get_title() == f"local R, mean {r:.2f}".replace("-", "−")
        labels = [ax.child_axes[0].get_ylabel() for ax in axes]
        assert labels == ["abundance", "abundance", "local R"]
        own = axes[2].collections[0]
        # the strongest are drawn last
        np.testing.assert_allclose(
            own.get_array(), sorted(adata.obsm["colocalization_local"][:, 0], key=abs), rtol=1e-6
        )
        low, high = own.get_clim()
        assert low == -high
        np.testing.assert_allclose(axes[0].collections[0].get_array(), adata.obsm["cell_abundance"]["Tumour"])

    def test_cell_types(self, spots):
        spots.obs["kind"] = pd.Categorical(np.where(spots.obsm["spatial"][:, 0] > 200, "a", "b"))
        with pytest.warns(UserWarning, match="p is NaN for all pairs"):
            hc.tl.colocalization(spots, "kind", local=True, rng=0)
        axes = hc.pl.colocalization_pair(spots, "a", "b", palette={"a": "tab:red"}, title="neighbours")
        own = axes[0].collections[0]
        assert set(own.get_array()) == {0, 1}
        assert to_hex(own.cmap(1.0)) == to_hex("tab:red")
        assert not axes[0].child_axes  # a category needs no scale
        assert axes[2].get_title() == "neighbours"

    @pytest.mark.parametrize("n", [4_000, 50_000, 500_000])
    def test_types_of_many_cells_are_seen(self, n):
        """A tenth of the cells, and of the pixels, are of the type; local R is not blank either."""
        rng = np.random.default_rng(0)
        adata = AnnData(np.zeros((n, 1), dtype=np.float32))
        adata.obs = pd.DataFrame({"section": "S1", "mpp": 1.0}, index=adata.obs_names)
        adata.obsm["spatial"] = rng.random((n, 2)) * np.sqrt(n) * 10
        kinds = np.where(rng.random(n) < 0.1, "T", np.where(rng.random(n) < 0.1, "B", "other"))
        adata.obs["kind"] = pd.Categorical(kinds)
        hc.tl.colocalization(adata, "kind", local=[("T", "B")], length_scale_um=30, rng=0)
        axes = hc.pl.colocalization_pair(adata, "T", "B", palette=["red", "blue"], significance=None)
        axes[0].figure.canvas.draw()
        pixels = np.asarray(axes[0].figure.canvas.buffer_rgba())[::-1, :, :3].astype(int)
        for ax, opposite in zip(axes, (2, 0, None), strict=True):
            (left, bottom), (right, top) = ax.get_window_extent().get_points().astype(int)
            shown = pixels[bottom:top, left:right]
            if opposite is None:
                assert (np.ptp(shown, axis=2) > 20).mean() > 0.05
            else:
                strength = (shown[..., 2 - opposite] - shown[..., opposite]).clip(0) / 255
                assert 0.03 < strength.mean() < 0.3

    @pytest.mark.parametrize("size", [(9, 3), (6, 2.2)])
    def test_titles_and_colour_bars_have_room(self, computed, size):
        adata, pair = computed
        figure, axes = plt.subplots(1, 3, figsize=size)
        hc.pl.colocalization_pair(adata, *pair, ax=axes)
        figure.canvas.draw()
        boxes = [ax.get_tightbbox() for ax in axes]
        assert boxes[0].x0 >= 0
        assert boxes[2].x1 <= figure.bbox.x1
        assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))
        for ax in axes:
            assert not any(bar.get_tightbbox().overlaps(ax.title.get_window_extent()) for bar in ax.child_axes)
        np.testing.assert_allclose([box.width for box in (ax.get_window_extent() for ax in axes)], axes[0].bbox.width)

    def test_one_section_at_a_time(self, two_sections):
        pair = ("Tumour", "α_β")
        hc.tl.colocalization(two_sections, local=[pair], rng=0)
        with pytest.raises(ValueError, match="choose one with section="):
            hc.pl.colocalization_pair(two_sections, *pair)
        axes = hc.pl.colocalization_pair(two_sections, *pair, section="S2")
        assert len(axes[0].collections[0].get_array()) == 42

    def test_image(self, sdata):
        hc.tl.colocalization(sdata, local=[("Tumour", "α_β")], rng=0)
        axes = hc.pl.colocalization_pair(sdata, "Tumour", "α_β", image=True)
        assert all(len(ax.images) == 1 for ax in axes)

    def test_what_is_missing(self, computed):
        adata, pair = computed
        with pytest.raises(KeyError, match="local="):
            hc.pl.colocalization_pair(adata, "Tumour", "α_β")
        with pytest.raises(KeyError, match="cell type z not found"):
            hc.pl.colocalization_pair(adata, "Tumour", "z")
        _, ax = plt.subplots()
        with pytest.raises(ValueError, match="needs three"):
            hc.pl.colocalization_pair(adata, *pair, ax=[ax])

    def test_looks(self, computed, looks_like):
        adata, pair = computed
        looks_like(hc.pl.colocalization_pair(adata, *pair)[0], "colocalization_pair")
