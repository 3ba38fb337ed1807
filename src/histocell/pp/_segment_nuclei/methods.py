"""Methods of segmentation as a run calls them: by name, from a TorchScript file, of lazyslide-models, or a function."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import numpy as np

from histocell._core.arguments import check_amount, check_positive
from histocell._core.errors import MissingKeyError, listing
from histocell.nuclei.methods import METHODS, load_method

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray

    type Image = NDArray[np.uint8]
    type Segment = Callable[[Image, float], object]

LAZYSLIDE = "lazyslide:"
INSTANSEG = "instanseg"
_MPP = 0.5  # of functions that do not say what they want
_HALO_UM = 20.0
_REACH_UM = 12.0  # from the core of a block to the far side of a nucleus centred in it


class Segmenter(Protocol):
    """What segments one image, and what it wants to see."""

    mpp: float
    halo_um: float

    def context(self, sample: Sequence[Image], mpp: float) -> object:
        """What is the same in all blocks of a slide, from images of its tissue."""

    def __call__(self, image: Image, mpp: float, *, context: object = None) -> NDArray[np.integer]:
        """Labels of an image."""


@dataclass(frozen=True)
class Method:
    """A method that is ready to run.

    Attributes
    ----------
    name
        For messages and provenance.
    segmenter
        What segments an image.
    mpp
        um per px that it wants.
    margin_um
        What has to be seen around the core of a block.
    window_px
        Edge of all its images, where it wants one size.
    grid_um
        Blocks that start at multiples of this are seen alike; 0 where it does not matter.
    enlarges
        Whether it wants px of this size of coarser slides, too.
    runs_in_threads
        Whether several threads may call it at once.
    definition
        What its results depend on, as JSON can hold it.
    """

    name: str
    segmenter: Segmenter
    mpp: float
    margin_um: float
    window_px: int | None
    grid_um: float
    enlarges: bool
    runs_in_threads: bool
    definition: Mapping[str, object]

    def code(self) -> str | None:
        """What tells a function from another one, `None` for methods that are known by name."""
        return self.segmenter.code() if isinstance(self.segmenter, _OfFunction) else None


class _OfFunction:
    """A function of yours."""

    def __init__(self, function: Segment) -> None:
        self._function = function
        self.mpp = float(getattr(function, "mpp", _MPP))
        self.halo_um = float(getattr(function, "halo_um", _HALO_UM))

    def code(self) -> str:
        """Its attribute `version` where it has one, else a checksum of its code and of what that uses."""
        from histocell.encoders.networks.code import function_digest

        version = getattr(self._function, "version", None)
        return function_digest(self._function) if version is None else str(version)

    def context(self, sample: Sequence[Image], mpp: float) -> object:
        """What its own `context` gives, if it has one."""
        own = getattr(self._function, "context", None)
        return own(sample, mpp) if callable(own) else None

    def __call__(self, image: Image, mpp: float, *, context: object = None) -> NDArray[np.integer]:
        return self._function(image, mpp) if context is None else self._function(image, mpp, context=context)  # type: ignore[call-arg,return-value]


def resolve_method(
    method: str | Segment,
    *,
    settings: Mapping[str, object] | None = None,
    weights: str | PathLike[str] | None = None,
    trust_code: bool = False,
    method_mpp: float | None = None,
    halo_um: float | None = None,
    device: str | None = None,
) -> Method:
    """A method that is ready to run, from its name or a function.

    Parameters
    ----------
    method, settings, weights, trust_code, method_mpp, halo_um, device
        As in :func:`histocell.pp.segment_nuclei`.
    """
    options = dict(settings or {})
    if weights is not None and not (method == INSTANSEG or str(method).startswith(LAZYSLIDE)):
        msg = f"method={method!r} takes no weights=; {INSTANSEG!r} and {LAZYSLIDE + '<model>'!r} do"
        raise ValueError(msg)
    segmenter: Segmenter
    if callable(method):
        if options:
            msg = "settings= are for methods by name; give a function its own, for example by functools.partial"
            raise ValueError(msg)
        segmenter, name, definition = _OfFunction(method), _name_of(method), {}
    elif not isinstance(method, str):
        msg = f"method must be a name or a function (image, mpp) -> labels, not {type(method).__name__}"
        raise TypeError(msg)
    elif method == INSTANSEG or method.startswith(LAZYSLIDE):
        from histocell.pp._segment_nuclei.torch_methods import InstanSeg, LazySlideModel

        name = method
        if method == INSTANSEG:
            network: InstanSeg | LazySlideModel = InstanSeg(weights, trust_code=trust_code, device=device, **options)  # type: ignore[arg-type]
        else:
            network = LazySlideModel(method.removeprefix(LAZYSLIDE), weights, options, device=device)
        segmenter, definition = network, {"version": network.version}  # type: ignore[assignment]
    elif method in METHODS:
        on = {"device": device} if "device" in METHODS[method].__dataclass_fields__ else {}  # type: ignore[attr-defined]
        segmenter, name = load_method(method, **(on | options)), method  # type: ignore[arg-type,assignment]
        definition = {"version": version("histocell")}
    else:
        msg = f"no method {method!r}; there are {listing(METHODS)}, {INSTANSEG}, {LAZYSLIDE}<model> and functions (image, mpp) -> labels"
        raise MissingKeyError(msg)
    wanted = check_positive(segmenter.mpp if method_mpp is None else method_mpp, "method_mpp")
    halo = check_amount(segmenter.halo_um if halo_um is None else halo_um, "halo_um")
    return Method(
        name=name,
        segmenter=segmenter,
        mpp=wanted,
        margin_um=halo + _REACH_UM,
        window_px=getattr(segmenter, "window_px", None),
        grid_um=getattr(segmenter, "grid_um", 0.0),
        enlarges=method_mpp is not None or getattr(segmenter, "enlarges", False),
        runs_in_threads=isinstance(method, str) and method in METHODS,
        definition={"method": name, "settings": options, **definition, "method_mpp": wanted, "halo_um": halo},
    )


def _name_of(function: object) -> str:
    return str(getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__))


def check_labels(labels: object, shape: tuple[int, int], name: str) -> NDArray[np.integer]:
    """What a method gave, if it is labels of an image.

    Raises
    ------
    TypeError
        When it is no array of whole numbers.
    ValueError
        When it has another shape, or negative labels.
    """
    wanted = f"method {name!r} must give labels, an array of whole numbers of shape {shape}, 0 outside of nuclei"
    array = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    if array.shape != shape:
        msg = f"{wanted}; it gave {type(labels).__name__} of shape {array.shape}"
        raise ValueError(msg)
    if not np.issubdtype(array.dtype, np.integer):
        hint = ". A mask becomes labels by skimage.measure.label(mask)" if array.dtype == bool else ""
        msg = f"{wanted}; it gave values of type {array.dtype}{hint}"
        raise TypeError(msg)
    if array.size and int(array.min()) < 0:
        msg = f"{wanted}; it gave labels down to {array.min()}"
        raise ValueError(msg)
    return array
