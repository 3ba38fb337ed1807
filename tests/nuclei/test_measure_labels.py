from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops_table

from histocell.nuclei.measuring.columns import MEASUREMENTS, NAMES
from histocell.nuclei.measuring.labels import measure_labels


@pytest.fixture
def image():
    g = np.random.default_rng(0)
    labels = label(ndimage.gaussian_filter(g.normal(size=(80, 90)), 2) > 0.1).astype(np.int32)
    return labels, g.random((2, 80, 90)).astype(np.float32)


def test_lengths_are_micrometres(image):
    labels, maps = image
    found = measure_labels(labels, maps, mpp=0.25)
    truth = regionprops_table(
        labels, maps[1], properties=("label", "area", "perimeter", "axis_major_length", "intensity_mean", "centroid")
    )
    np.testing.assert_array_equal(found["label"], truth["label"])
    np.testing.assert_allclose(found["area_um2"], truth["area"] / 16, atol=1e-9)
    np.testing.assert_allclose(found["perimeter_um"], truth["perimeter"] / 4, atol=1e-9)
    np.testing.assert_allclose(found["major_axis_um"], truth["axis_major_length"] / 4, atol=1e-9)
    np.testing.assert_allclose(found["eosin_mean"], truth["intensity_mean"], atol=1e-6)
    np.testing.assert_allclose(found["x_um"], (truth["centroid-1"] + 0.5) / 4, atol=1e-9)
    assert list(found)[3:] == list(NAMES) == list(MEASUREMENTS)


def test_numbers_of_labels_do_not_matter(image):
    """Those of a part of a slide are few and large."""
    labels, maps = image
    offset = np.where(labels > 0, 3 * labels.astype(np.int64) + 10**10, 0)
    found, truth = (measure_labels(each, maps, mpp=0.5) for each in (offset, labels))
    np.testing.assert_array_equal(found.pop("label"), 3 * truth.pop("label") + 10**10)
    for name, values in truth.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("labels", "match"),
    [(np.zeros((3, 4)), "integers"), (-np.ones((3, 4), int), "integers"), (np.zeros((4, 3), int), "shape")],
)
def test_what_is_no_label_image(labels, match):
    with pytest.raises(ValueError, match=match):
        measure_labels(labels, np.zeros((2, 3, 4), np.float32), mpp=0.5)


def test_no_nuclei_are_no_rows():
    found = measure_labels(np.zeros((3, 4), np.int32), np.zeros((2, 3, 4), np.float32), mpp=0.5)
    assert all(len(values) == 0 for values in found.values())
