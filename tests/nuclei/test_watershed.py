from __future__ import annotations

import numpy as np
import pytest

from histocell.nuclei.watershed import segment_nuclei


def blobs(*centers: tuple[int, int], background: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[:80, :100]
    rise = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 32) for a, b in centers)
    return (background + rise).astype(np.float32)


@pytest.mark.parametrize("background", [0.0, 0.2])
def test_touching_nuclei_are_told_apart(background):
    labels, n = segment_nuclei(blobs((40, 30), (40, 42), (20, 70), background=background), threshold=0.5, mpp=1.0)
    assert n == 3
    assert len({labels[40, 30], labels[40, 42], labels[20, 70], 0}) == 4


def test_the_local_threshold_stays_near_that_of_the_slide():
    faint, strong = np.full((2, 80, 100), [[[0.2]], [[0.9]]], np.float32)
    assert segment_nuclei(faint, threshold=0.5, mpp=1.0)[1] == 0  # below 0.6 of the threshold
    assert segment_nuclei(strong, threshold=0.5, mpp=1.0)[1] == 1  # above 1.5 of it, however dark the surroundings
