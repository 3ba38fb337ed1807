"""The attention between genes, image and coordinates by predicted type."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc

TYPES = ["T cell", "B cell", "tumour"]
SLOT = "predicted_cell_type_attention"


def attended(sources, targets) -> AnnData:
    """Two layers, and a different share in each field."""
    share = np.random.default_rng(0).dirichlet(np.ones(len(targets)), (3, 2, len(sources)))
    levels = [TYPES, [1, 2], sources, targets]
    index = pd.MultiIndex.from_product(levels, names=["cell_type", "layer", "from", "to"])
    frame = pd.DataFrame({"attention": share.ravel()}, index=index).reset_index()
    frame["n_cells"] = frame["cell_type"].map({"T cell": 700, "B cell": 500, "tumour": 34})
    return AnnData(np.zeros((2, 1)), uns={SLOT: frame})


@pytest.fixture
def both() -> AnnData:
    return attended(["genes", "image"], ["genes", "image"])


def drawn(ax):
    return np.asarray(ax.images[0].get_array())


def test_fields_are_means_over_layers(both, looks_like):
    ax = hc.pl.modality_attention(both)
    assert [each.get_text() for each in ax.get_yticklabels()] == TYPES  # in the order of the slot
    frame = both.uns[SLOT].set_index(["cell_type", "layer", "from", "to"])["attention"]
    for (line, column), value in np.ndenumerate(drawn(ax)):
        of, to = ["genes", "image"][column // 2], ["genes", "image"][column % 2]
        assert value == pytest.approx((frame[TYPES[line], 1, of, to] + frame[TYPES[line], 2, of, to]) / 2)
        assert ax.texts[2 * 2 * line + column].get_text() == f"{value:.2f}".lstrip("0")
    assert ax.get_title("left") == "1,234 cells, mean of 2 layers"
    assert [each.get_text() for each in ax.child_axes[0].get_xticklabels()] == ["from genes", "from image"]
    looks_like(ax, "modality_attention")


def test_a_layer_and_some_types(both):
    frame = both.uns[SLOT]
    ax = hc.pl.modality_attention(both, ["tumour", "B cell"], layer=2)
    assert ax.get_title("left") == "534 cells, layer 2"
    one = frame[(frame["layer"] == 2) & (frame["cell_type"] == "tumour")]
    np.testing.assert_allclose(drawn(ax)[0], one["attention"])
    frame[["cell_type", "from", "to"]] = frame[["cell_type", "from", "to"]].astype("category")
    np.testing.assert_allclose(drawn(hc.pl.modality_attention(both, ["tumour", "B cell"], layer=2)), drawn(ax))


def test_neighbours_and_coordinates_in_the_axes_of_the_user(user_axes, assert_inside, assert_apart):
    own = ["genes", "image", "coordinates"]
    table = attended(own, [*own[:2], "genes of neighbours", "image of neighbours", "coordinates"])
    for kind in ("2 x 2", "3 x 3"):
        ax, others = user_axes(kind)
        hc.pl.modality_attention(table, ax=ax)
        assert drawn(ax).shape == (3, 15)
        np.testing.assert_allclose(drawn(ax).reshape(3, 3, 5).sum(-1), 1)
        assert_inside(ax, others)
        assert_apart(ax.child_axes[0].get_xticklabels())
        plt.close("all")


def test_bad_input(both):
    with pytest.raises(KeyError, match=r"Run hc.tl.predict_cell_types\(data, attention=True\) first"):
        hc.pl.modality_attention(both, key="other")
    with pytest.raises(KeyError, match="mast cell not found"):
        hc.pl.modality_attention(both, "mast cell")
    with pytest.raises(ValueError, match="layer 3 is not there; the transformer has 2"):
        hc.pl.modality_attention(both, layer=3)
    with pytest.raises(ValueError, match="layer"):
        hc.pl.modality_attention(both, layer=0)
