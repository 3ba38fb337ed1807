from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb

import histocell as hc
from histocell.pl._nuclei import cells as module
from histocell.pl._style import PALETTE, ScaleBar

WINDOW = {"center_um": (150, 150), "size_um": 120}


def pixels(ax) -> np.ndarray:
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())[..., :3]


def test_look(tissue, looks_like):
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.7), layout="constrained")
    hc.pp.measure_nuclei(tissue, "cells")
    hc.pl.nuclei(tissue, shapes_key="cells", ax=axes[0], **WINDOW)
    hc.pl.cells(tissue, "cell_type", ax=axes[1], **WINDOW)
    hc.pl.cells(tissue, "haematoxylin_mean", ax=axes[2], title="all of them")
    looks_like(axes[0], "nuclei")


def test_outlines_lie_where_the_cells_are(tissue):
    """Drawn in um, on the image: the centre of the first path is that of the first cell in view."""
    ax = hc.pl.cells(tissue, show=False)
    paths = next(each for each in ax.collections if isinstance(each, PathCollection))
    found = np.array([path.get_extents().get_points().mean(axis=0) for path in paths.get_paths()])
    np.testing.assert_allclose(found, tissue["cell_table"].obsm["spatial"] * 0.5, atol=1e-6)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert any(isinstance(each, ScaleBar) for each in ax.get_children())


@pytest.mark.parametrize("most", [20_000, 0])
def test_colours_are_those_of_the_legend(tissue, most, monkeypatch):
    """As paths and painted."""
    monkeypatch.setattr(module, "MOST_PATHS", most)
    cells = tissue["cell_table"]
    xy = cells.obsm["spatial"] * 0.5
    middle = int(np.argmin(np.abs(xy - 175).sum(axis=1)))
    ax = hc.pl.cells(
        tissue, "cell_type", center_um=xy[middle], size_um=4, alpha=1, image=False, scalebar=False, linewidth=0
    )
    kind = list(cells.obs["cell_type"].cat.categories).index(cells.obs["cell_type"].iloc[middle])
    image, box = pixels(ax), ax.get_window_extent()
    row, column = image.shape[0] - int(box.y0 + box.height / 2), int(box.x0 + box.width / 2)
    np.testing.assert_allclose(image[row, column] / 255, to_rgb(PALETTE[kind]), atol=0.01)
    labels = {text.get_text() for text in ax.get_legend().get_texts()}
    assert cells.obs["cell_type"].iloc[middle] in labels


def test_colours_come_from_many_places(tissue):
    cells = tissue["cell_table"]
    cells.obsm["cell_type_probability"] = pd.DataFrame(
        {"tumour": np.linspace(0, 0.3, cells.n_obs)}, index=cells.obs_names
    )
    tissue.shapes["cells"]["class"] = np.where(np.arange(cells.n_obs) % 2, "odd", "even")
    cells.uns["cell_type_colors"] = ["#010203"] * 6
    ax = hc.pl.cells(tissue, "tumour")
    assert ax.child_axes[0].get_ylim() == (0, 1)
    assert [text.get_text() for text in hc.pl.cells(tissue, "class").get_legend().get_texts()] == ["even", "odd"]
    ax = hc.pl.cells(tissue, "cell_type")
    assert to_rgb(ax.get_legend().get_patches()[0].get_facecolor()[:3]) == to_rgb("#010203")
    hc.pl.cells(tissue, cells.var_names[0])


def test_what_is_unknown_is_grey(tissue):
    cells = tissue["cell_table"]
    cells.obs["cell_type"] = cells.obs["cell_type"].where(np.arange(cells.n_obs) % 3 > 0)
    cells.obs["value"] = np.where(np.arange(cells.n_obs) % 3 > 0, 1.0, np.nan)
    assert hc.pl.cells(tissue, "cell_type").get_legend().get_texts()[-1].get_text() == "unknown"
    hc.pl.cells(tissue, "value")


def test_what_cannot_be_drawn(tissue, user_sees):
    with user_sees("Plots", "a colour of cells that is not there", KeyError, match="color= takes"):
        hc.pl.cells(tissue, "colour")
    with user_sees("Plots", "a window without cells", ValueError, match="no outline of 'cells' lies in the view"):
        hc.pl.cells(tissue, center_um=(9000, 9000))
    tissue["cell_table"].obs["name"] = tissue["cell_table"].obs_names
    with pytest.raises(ValueError, match="too many"):
        hc.pl.cells(tissue, "name")
    with pytest.raises(ValueError, match="center_um"):
        hc.pl.cells(tissue, size_um=50)
    with pytest.raises(TypeError, match="SpatialData"):
        hc.pl.nuclei(tissue["table"])
    with pytest.raises(TypeError, match=r"hc\.pl\.cells takes a SpatialData"):
        hc.pl.cells(tissue["table"])
    with pytest.raises(KeyError, match="segment_nuclei"):
        hc.pl.nuclei(tissue)
