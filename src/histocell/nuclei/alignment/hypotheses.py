"""Ways in which coordinates go wrong: swapped, mirrored, turned, in the px of another image, in another unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histocell._core.types import Floats

FACTORS = (0.2125, 0.25, 0.2738, 0.5, 2.0, 4.0)  # a px of Xenium, scans at 40x and 20x, levels of a pyramid
RANGE = (0.2, 5.0)
ANGLES = tuple(angle for angle in range(-10, 11) if angle)


@dataclass(frozen=True)
class Hypothesis:
    """A map that would put the nuclei where they belong.

    Attributes
    ----------
    name
        For the reader.
    verdict
        What is wrong with the coordinates where it holds.
    matrix
        Shape (3, 3): coordinates (x, y) as they are, to px of the image.
    """

    name: str
    verdict: str
    matrix: Floats


AS_IT_IS = Hypothesis("as it is", "shifted", np.eye(3))


def turned(shape: tuple[int, int], middle: Floats) -> Iterator[Hypothesis]:
    """Exchanged, mirrored and turned by right angles, about the image and about the middle of the nuclei.

    Parameters
    ----------
    shape
        Height and width of the image in px.
    middle
        Middle (x, y) of the box around the nuclei, in px.
    """
    centre = np.array(shape[::-1]) / 2
    swap = np.array([[0.0, 1], [1, 0]])
    linear = {
        ("x and y swapped", "swapped"): swap,
        ("mirrored in x", "mirrored"): np.diag([-1.0, 1]),
        ("mirrored in y", "mirrored"): np.diag([1.0, -1]),
        ("turned by 180 degrees", "rotated"): -np.eye(2),
        ("turned by 90 degrees", "rotated"): np.diag([-1.0, 1]) @ swap,
        ("turned by 270 degrees", "rotated"): np.diag([1.0, -1]) @ swap,
        ("x and y swapped, both mirrored", "swapped"): -swap,
    }
    for (name, verdict), part in linear.items():
        # what lay at the middle of the image of its time lies at the middle of this one
        own = centre[::-1] if part[0, 0] == 0 else centre
        yield Hypothesis(name, verdict, _about(part, own, centre))
        if np.abs(middle - own).max() > 0:
            yield Hypothesis(f"{name}, about the middle of the nuclei", verdict, _about(part, middle, middle))


def common_factors(mpp: float) -> list[float]:
    """Factors between units that are mistaken for each other: px, um, px of Xenium, levels of a pyramid."""
    factors = {*FACTORS, *(1 / each for each in FACTORS), mpp, 1 / mpp, mpp / 0.2125, 0.2125 / mpp}
    return sorted(each for each in factors if RANGE[0] / 5 <= each <= RANGE[1] * 5 and abs(each - 1) > 1e-3)


def scaled(factor: float) -> Hypothesis:
    """Coordinates that must be multiplied by `factor`."""
    return Hypothesis(f"scaled by {factor:.4g}", "wrong pixel size", np.diag([factor, factor, 1.0]))


def scales(step: float) -> Iterator[Hypothesis]:
    """Factors of `RANGE`, each larger than the last by the share `step`."""
    count = int(np.ceil(np.log(RANGE[1] / RANGE[0]) / np.log1p(step)))
    return (scaled(float(factor)) for factor in np.geomspace(*RANGE, count + 1))


def tilted(middle: Floats) -> Iterator[Hypothesis]:
    """Turned by a few degrees about the middle of the nuclei."""
    for angle in ANGLES:
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        yield Hypothesis(
            f"turned by {angle} degrees", "rotated", _about(np.array([[cos, -sin], [sin, cos]]), middle, middle)
        )


def _about(linear: Floats, origin: Floats, target: Floats) -> Floats:
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = target - linear @ origin
    return matrix
