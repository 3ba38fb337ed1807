"""Affine maps between the elements of a SpatialData, read from the elements themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.keys import MICRONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def transformations(element: Any) -> Mapping[str, Any]:
    """Transformations of an element by coordinate system; none where it is a plain array."""
    if hasattr(element, "children"):
        finest = element[next(iter(element.children))]
        element = next(iter(finest.data_vars.values()))
    return getattr(element, "attrs", {}).get("transform", {})


def affine_matrix(element: Any, system: str) -> NDArray[np.float64]:
    """Matrix (3, 3) from the coordinates (x, y) of an element to a coordinate system."""
    return transformations(element)[system].to_affine_matrix(("x", "y"), ("x", "y"))


def is_microns(system: str) -> bool:
    """Whether a coordinate system is in micrometres: ``um`` or ``um-<section>``."""
    return re.fullmatch(rf"{MICRONS}(-.*)?", system) is not None


def matrix_to_image(element: Any, image: Any) -> NDArray[np.float64] | None:
    """Matrix (3, 3) from an element to the px of an image, `None` where they share no coordinate system.

    Parameters
    ----------
    element, image
        Elements of one SpatialData.
    """
    # a system in px is exact, one in micrometres is rounded
    shared = sorted(
        set(transformations(element)) & set(transformations(image)), key=lambda name: (is_microns(name), name)
    )
    if not shared:
        return None
    return np.linalg.inv(affine_matrix(image, shared[0])) @ affine_matrix(element, shared[0])


def transform_points(points: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, 2) mapped by an affine matrix (3, 3); bit by bit as they are where it is the identity."""
    if np.array_equal(matrix, np.eye(3)):
        return points
    return points @ matrix[:2, :2].T + matrix[:2, 2]
