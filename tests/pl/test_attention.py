"""Attention on the tissue: values in multiples of the mean, the tiles with the most of it, and errors."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import histocell as hc


@pytest.fixture
def tissue():
    sdata = hc.datasets.synthetic_tissue(2, size_px=600, rng=0)
    hc.pp.patches(sdata, size_um=60)
    table = sdata["table"]
    table.obs["attention"] = np.linspace(0, 1, table.n_obs)
    return sdata


def test_values_and_top_tiles(tissue):
    table = tissue["table"]
    section = table.obs["section"].iloc[-1]
    axes = hc.pl.attention(tissue, section=section, n_top=4, show=False)
    rows = (table.obs["section"] == section).to_numpy()
    values = table.obs["attention"].to_numpy()[rows]
    drawn = axes[0].collections[0].get_array()
    assert np.allclose(np.sort(drawn), np.sort(values / values.mean()))
    names = [text.get_text() for text in axes[1].texts]
    assert names == list(table.obs_names[rows][np.argsort(-values)[:4]])
    plt.close("all")


def test_map_alone(tissue):
    axis = hc.pl.attention(tissue, section="P1S1", n_top=0, show=False)
    assert axis.get_title() == "P1S1"
    plt.close("all")


def test_errors(tissue):
    with pytest.raises(ValueError, match="2 slides; choose one"):
        hc.pl.attention(tissue)
    tissue["table"].obs["attention"] = np.nan
    with pytest.raises(ValueError, match="no tile of slide"):
        hc.pl.attention(tissue, section="P1S1")
    with pytest.raises(KeyError, match="attention=True"):
        hc.pl.attention(tissue, key="other", section="P1S1")
