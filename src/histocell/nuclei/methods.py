"""Methods of segmentation by name: from an image to labels of nuclei."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from histocell._core.errors import MissingKeyError, listing
from histocell.nuclei.haematoxylin import Watershed
from histocell.nuclei.unet import UNet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from histocell.nuclei.context import SlideContext


class Segmenter(Protocol):
    """A method of segmentation with its settings."""

    @property
    def name(self) -> str:
        """Name of the method."""
        ...

    @property
    def mpp(self) -> float:
        """Resolution at which it works best, um per px; give it a coarser slide as it is, not enlarged."""
        ...

    @property
    def halo_um(self) -> float:
        """How far the label of a pixel can depend on its surroundings."""
        ...

    def context(self, sample: Sequence[NDArray[np.uint8]], mpp: float) -> SlideContext:
        """What is the same in all blocks of a slide, from images of its tissue."""
        ...

    def __call__(self, image: NDArray[np.uint8], mpp: float, context: SlideContext | None = None) -> NDArray[np.int32]:
        """Labels (h, w) of an image (h, w, 3), from 1, 0 outside of nuclei."""
        ...


METHODS: dict[str, Callable[..., Segmenter]] = {Watershed.name: Watershed, UNet.name: UNet}


def load_method(name: str, **settings: float | str) -> Segmenter:
    """A method of segmentation.

    Parameters
    ----------
    name
        One of :data:`METHODS`.
    settings
        Those of the method, for example ``min_area_um2=`` of :class:`histocell.nuclei.haematoxylin.Watershed`.

    Raises
    ------
    KeyError
        If there is no such method.
    TypeError
        If it has no such setting.
    """
    if name not in METHODS:
        msg = f"no method of segmentation is named {name!r}; available: {listing(METHODS)}"
        raise MissingKeyError(msg)
    method = METHODS[name]
    known = getattr(method, "__dataclass_fields__", settings)
    if unknown := [key for key in settings if key not in known]:
        msg = f"{name!r} has no setting {listing(unknown)}; available: {listing(known)}"
        raise TypeError(msg)
    return method(**settings)
