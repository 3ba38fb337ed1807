"""The same hand in all plots: order of parameters, palettes, scalebars, colour bars."""

from __future__ import annotations

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest

import histocell as hc
from histocell.pl._style import PALETTE, add_scalebar, colors_of

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
