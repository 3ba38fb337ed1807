from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import histocell as hc

MPP = 1.0
pytestmark = pytest.mark.filterwarnings("ignore:the image of S1 does not look like")  # two flat colours


@pytest.fixture(scope="module")
def section() -> tuple[AnnData, np.ndarray]:
    """120 nuclei of 4 um on pink tissue with a rim of glass, 300 um wide."""
    g = np.random.default_rng(0)
    x, y = (values.ravel() * 24.0 + 30 for values in np.meshgrid(np.arange(11), np.arange(11)))
    xy = np.column_stack([x, y]) + g.uniform(-7, 7, (121, 2))
    rows, columns = np.mgrid[:300, :300] + 0.5
    away = np.min(np.hypot(columns[..., None] - xy[:, 0], rows[..., None] - xy[:, 1]), axis=-1)
    dark = np.clip(4.5 - away, 0, 1)[..., None]
    image = np.array([232, 180, 205]) * (1 - dark) + np.array([85, 55, 130]) * dark
    image[np.minimum.reduce([columns, rows, 300 - columns, 300 - rows]) < 12] = 245
    adata = AnnData(obs=pd.DataFrame({"section": "S1", "mpp": MPP}, index=np.arange(121).astype(str)))
    adata.obsm["spatial"] = xy
    return adata, np.clip(image + g.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def checked(section):
    def make(offset=(0, 0)):
        adata = section[0].copy()
        adata.obsm["spatial"] += np.asarray(offset, dtype=float)
        result = hc.pp.check_alignment(adata, image=section[1], max_shift_um=60, inplace=False)
        adata.uns["alignment"] = result.to_uns()
        return adata, section[1]

    return make


def test_nuclei_that_fit_look_as_before(checked, looks_like):
    adata, image = checked()
    axes = hc.pl.alignment(adata, image=image)
    assert axes.shape == (1, 2)
    assert axes[0, 0].get_title() == "S1: fits\nwithin 2 µm"
    looks_like(axes[0, 0], "alignment_fits")


@pytest.mark.filterwarnings("ignore:S1 shifted")
def test_nuclei_that_are_off_look_as_before(checked, looks_like):
    adata, image = checked((9, -6))
    axes = hc.pl.alignment(adata, image=image)
    assert axes[0, 0].get_title().startswith("S1: shifted\nmove by x \N{MINUS SIGN}")
    looks_like(axes[0, 0], "alignment_shifted")


@pytest.mark.filterwarnings("ignore:S1 shifted")
def test_what_is_drawn(checked):
    adata, image = checked((9, -6))
    overlay, profile = hc.pl.alignment(adata, image=image, width_um=100)[0]
    left, right = overlay.get_xlim()
    assert right - left == pytest.approx(100)
    as_they_are, belong = overlay.collections
    inside = as_they_are.get_paths(), belong.get_paths()
    assert [len(each) > 5 for each in inside] == [True, True]
    centres = np.array([(path.vertices.min(axis=0) + path.vertices.max(axis=0)) / 2 for path in inside[0]])
    nearest = np.hypot(*(centres[:, None] - adata.obsm["spatial"]).transpose(2, 0, 1)).min(axis=1)
    np.testing.assert_allclose(nearest, 0, atol=1e-6)
    places = [line.get_xdata()[np.argmax(line.get_ydata())] for line in profile.lines[:2]]
    np.testing.assert_allclose(places, [-9, 6], atol=1)
    assert profile.get_xlim() == (-60, 60)


def test_on_axes_of_the_user(checked):
    adata, image = checked()
    _, axes = plt.subplots(1, 2)
    drawn = hc.pl.alignment(adata, image=image, ax=axes)
    assert list(drawn[0]) == list(axes)
    with pytest.raises(ValueError, match="ax holds 1 axes; this plot needs two for each of 1 sections"):
        hc.pl.alignment(adata, image=image, ax=axes[:1])


def test_bad_input(checked):
    adata, image = checked()
    with pytest.raises(KeyError, match="section S2 not found; available: S1"):
        hc.pl.alignment(adata, image=image, section="S2")
    with pytest.raises(ValueError, match="width_um must be a positive number"):
        hc.pl.alignment(adata, image=image, width_um=0)
    del adata.uns["alignment"]
    with pytest.raises(KeyError, match=r"Run hc\.pp\.check_alignment\(data\) first"):
        hc.pl.alignment(adata, image=image)
