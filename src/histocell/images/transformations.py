"""Scales of image elements, and affine maps between the elements of a SpatialData."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from histocell._core.keys import MICRONS, PIXELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from spatialdata.transformations import BaseTransformation
    from xarray import DataArray, DataTree

_COARSER = 1.01  # scales of images are rounded to whole px
_FLAT = 1e9  # ratio of the axes of what an affine map makes of a circle; beyond, it is a line


def is_image_element(source: object) -> TypeGuard[DataArray | DataTree]:
    """Whether an object is an image of xarray: what SpatialData calls an image element."""
    return _is_tree(source) or (hasattr(source, "dims") and hasattr(source, "data"))


def _is_tree(source: object) -> TypeGuard[DataTree]:
    return hasattr(source, "children") and hasattr(source, "subtree")


def element_scales(element: DataArray | DataTree) -> list[DataArray]:
    """The scales of an image element, finest first."""
    if not _is_tree(element):
        return [element]  # type: ignore[list-item]
    return [next(iter(scale.dataset.data_vars.values())) for scale in element.children.values()]


def transformations(element: object) -> Mapping[str, BaseTransformation]:
    """Transformations of an element by coordinate system; none where it is a plain array."""
    if _is_tree(element):
        element = element_scales(element)[0]
    return getattr(element, "attrs", {}).get("transform", {})


def affine_matrix(element: object, system: str) -> NDArray[np.float64]:
    """Matrix (3, 3) from the coordinates (x, y) of an element to a coordinate system."""
    return transformations(element)[system].to_affine_matrix(("x", "y"), ("x", "y"))


def is_microns(system: str) -> bool:
    """Whether a coordinate system is in micrometres: ``um`` or ``um-<section>``."""
    return re.fullmatch(rf"{MICRONS}(-.*)?", system) is not None


def is_pixels(system: str) -> bool:
    """Whether a coordinate system is that of full-resolution px: ``global`` or ``global-<section>``."""
    return re.fullmatch(rf"{PIXELS}(-.*)?", system) is not None


def is_downscaled(image: object, shapes: object | None = None) -> bool:
    """Whether an image of known resolution has coarser px than the slide that it shows.

    Those of the slide are the unit of `shapes` that lie on it, where they know their resolution, too; without shapes that
    of the coordinate system of px.
    """
    systems = set(transformations(image))
    microns = sorted(filter(is_microns, systems if shapes is None else systems & set(transformations(shapes))))
    pixels = sorted(filter(is_pixels, systems))
    if not microns or (shapes is None and not pixels):
        return False
    if shapes is None:
        return _px_size(image, pixels[0]) > _COARSER
    return _px_size(image, microns[0]) > _COARSER * _px_size(shapes, microns[0]) > 0


def _px_size(element: object, system: str) -> float:
    """Edge of a px of an element in a coordinate system."""
    return float(np.sqrt(abs(np.linalg.det(affine_matrix(element, system)[:2, :2]))))


def matrix_to_image(element: object, image: object) -> NDArray[np.float64] | None:
    """Matrix (3, 3) from an element to the px of an image, `None` where they share no coordinate system.

    Parameters
    ----------
    element, image
        Elements of one SpatialData.

    Raises
    ------
    ValueError
        When a transformation is singular.
    """
    # a system in px is exact, one in micrometres is rounded
    shared = sorted(
        set(transformations(element)) & set(transformations(image)), key=lambda name: (is_microns(name), name)
    )
    if not shared:
        return None
    of_image, of_element = (affine_matrix(each, shared[0]) for each in (image, element))
    for what, matrix in {"the image": of_image, "the shapes or points": of_element}.items():
        if not np.isfinite(matrix).all() or np.linalg.cond(matrix[:2, :2]) > _FLAT:
            msg = f"the transformation of {what} to {shared[0]!r} cannot be inverted, it maps an area to a line: {matrix[:2].tolist()}"
            raise ValueError(msg)
    return np.linalg.inv(of_image) @ of_element


def transform_points(points: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, 2) mapped by an affine matrix (3, 3); bit by bit as they are where it is the identity."""
    if np.array_equal(matrix, np.eye(3)):
        return points
    return points @ matrix[:2, :2].T + matrix[:2, 2]
