"""The same hand in all plots: order of parameters, palettes, scalebars, colour bars."""

from __future__ import annotations

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest

import histocell as hc
from histocell.pl._style import PALETTE, add_colorbar, add_scalebar, colors_of

ORDER = [
    "data",
    "key",
    "section",
    "image",
    "cmap",
    "palette",
    "scalebar",
    "title",
    "figsize",
    "ax",
    "show",
    "table_key",
]


@pytest.mark.parametrize("name", hc.pl.__all__)
def test_parameters_have_one_order(name):
    parameters = [each for each in inspect.signature(getattr(hc.pl, name)).parameters if each in ORDER]
    assert parameters == [each for each in ORDER if each in parameters]


def test_palettes():
    names = ["a", "b", "c"]
    assert colors_of(names, None) == dict(zip(names, PALETTE, strict=False))
    assert colors_of(names, ["red", "blue"]) == {"a": "red", "b": "blue", "c": "red"}
    assert colors_of(names, {"b": "red", "z": "blue"}) == {"a": PALETTE[0], "b": "red", "c": PALETTE[2]}
    assert colors_of(names, "tab10")["b"] == plt.get_cmap("tab10").colors[1]
    assert colors_of(names, "viridis")["c"] == plt.get_cmap("viridis")(1.0)
    with pytest.raises(ValueError, match="pinkish"):
        colors_of(names, "pinkish")
    with pytest.raises(ValueError, match="holds no colour"):
        colors_of(names, [])
    with pytest.raises(ValueError, match="palette holds reddish"):
        colors_of(names, {"a": "reddish"})


@pytest.mark.parametrize(
    ("width_um", "length"), [(3, 0.5), (790, 100), (801, 200), (2100, 500), (4001, 1000), (90_000, 20_000)]
)
def test_scalebars_are_round_and_at_most_a_quarter(width_um, length):
    _, ax = plt.subplots()
    ax.set_xlim(0, width_um / 0.5)
    bar = add_scalebar(ax, um_per_unit=0.5)
    assert bar.length_um == pytest.approx(length)
    (text,) = (each.get_text() for each in bar.findobj(plt.Text) if each.get_text())
    assert text == (f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm")
    (line,) = bar.findobj(plt.Line2D)
    assert np.ptp(line.get_xdata()) * 0.5 == pytest.approx(length)


@pytest.mark.parametrize(
    ("values", "extend"), [([0, 1], "neither"), ([0, 2], "max"), ([-1, 1], "min"), ([-1, 2], "both")]
)
def test_a_colour_bar_is_pointed_where_values_lie_beyond_it(values, extend):
    _, ax = plt.subplots()
    drawn = ax.scatter([0, 1, 2], [0, 1, 2], c=[*values, np.nan], vmin=0, vmax=1)
    assert add_colorbar(ax, drawn).extend == extend


@pytest.mark.parametrize("name", ["patches", "scores", "history", "colocalization", "colocalization_network"])
def test_what_is_no_axes_is_refused(name):
    sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600)
    hc.pp.patches(sdata)
    hc.pp.split(sdata, by="patient", test=["P3"])
    sdata["table"].obsm["X"] = sdata["table"].obsm["cell_abundance"].to_numpy()
    hc.tl.fit_abundance(sdata, "X", model="ridge")
    hc.tl.predict_abundance(sdata)
    hc.tl.evaluate_abundance(sdata)
    hc.tl.colocalization(sdata)
    plot = getattr(hc.pl, name)
    figure, axes = plt.subplots(1, 2)
    with pytest.raises(TypeError, match=r"ax takes axes of matplotlib, such as those of plt.subplots\(\), not Figure"):
        plot(sdata, ax=figure)
    with pytest.raises(ValueError, match="ax holds 2 axes"):
        plot(sdata, ax=axes)
    assert plot(sdata, ax=axes[:1]) is not None
