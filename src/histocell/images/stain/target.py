"""Stain targets: the colours of the stained tissue of a slide, measured and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from histocell.images.pixels import optical_density
from histocell.images.slide_image import open_image
from histocell.images.stain.estimate import (
    MIN_DENSITY,
    MIN_PIXELS,
    extreme_vectors,
    is_he,
    sparse_vectors,
    stain_amounts,
)
from histocell.images.stain.sample import sample_tissue

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from histocell.images.slide_image import ImageSource, SlideImage

Method = Literal["macenko", "reinhard", "vahadane"]

PROBLEM = "there is too little tissue, or its stains are not two that look like haematoxylin and eosin"

_FAINTEST = 0.04  # mean optical density; below lie the background, its noise and its shadows
# Densities of red over green, blue over green and red over blue: no ink of a pen lies below all three, both stains do.
_HIGHEST_RATIOS = (1.6, 0.8, 3.0)

# Reinhard et al. (2001), equations 4 and 6.
LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ [[1, 1, 1], [1, 1, -2], [1, -1, 0]]


@dataclass(frozen=True)
class StainTarget:
    """How stained tissue looks on a slide: what another slide can be brought to.

    Attributes
    ----------
    glass
        Colour of the empty slide, RGB.
    mean, sd
        Of l, alpha and beta of the tissue, the colour space of Ruderman as Reinhard uses it: log10 of cone responses to
        values of 0-255.
    vectors
        Optical density of R, G, B per unit of haematoxylin and of eosin, unit length.
    strength
        99th percentile of the amounts of the two stains in tissue.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> target = hc.encoders.StainTarget.from_image(sdata["he"], method="macenko")
    >>> target == hc.encoders.StainTarget.from_json(target.to_json())
    True
    """

    glass: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    vectors: tuple[tuple[float, ...], ...]
    strength: tuple[float, ...]

    @classmethod
    def from_image(cls, image: ImageSource, *, mpp: float | None = None, method: Method = "macenko") -> StainTarget:
        """Measure the slide that others are to look like.

        Parameters
        ----------
        image
            The slide: a path, an array, or an image element of a SpatialData.
        mpp
            um per px of its full resolution, where the slide does not say it.
        method
            The method that it will be a target of; it says how the stains are found.

        Raises
        ------
        ValueError
            If the slide holds too little tissue, it does not look like H&E, or its resolution is unknown.
        """
        opened = open_image(image, mpp=mpp)
        if opened.mpp is None:
            msg = f"{opened!r} does not say its resolution; give mpp= (um per full-resolution px)"
            raise ValueError(msg)
        target = measure_target(opened, opened.mpp, check_method(method))
        if target is None:
            msg = f"{image!r} cannot be a target: {PROBLEM}. Choose another slide"
            raise ValueError(msg)
        return target

    def to_json(self) -> str:
        """The target as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StainTarget:
        """The target that `to_json` wrote."""
        return cls(**{name: _tuples(value) for name, value in json.loads(text).items()})


# Measured on CMU-1-Small-Region.svs, Aperio's public slide of the OpenSlide test data (CC0):
# StainTarget.from_image("CMU-1-Small-Region.svs", method=method)
_APERIO = StainTarget(
    glass=(246.0, 243.0, 243.0),
    mean=(3.49847, -0.06572, 0.02731),
    sd=(0.30361, 0.05215, 0.01254),
    vectors=((0.62333, 0.67575, 0.39348), (0.15903, 0.84805, 0.50549)),
    strength=(1.27207, 0.66985),
)
TYPICAL: dict[str, StainTarget] = {
    "macenko": _APERIO,
    "reinhard": _APERIO,
    "vahadane": replace(
        _APERIO, vectors=((0.53077, 0.73052, 0.42969), (0.22637, 0.83142, 0.50744)), strength=(1.61219, 0.73793)
    ),
}


def check_method(method: str) -> Method:
    """The method, if there is one of this name."""
    if method not in get_args(Method):
        msg = f"method must be one of {', '.join(map(repr, get_args(Method)))}, not {method!r}"
        raise ValueError(msg)
    return cast("Method", method)


def measure_target(image: SlideImage, mpp: float, method: Method) -> StainTarget | None:
    """The colours of a slide, `None` where there is too little tissue or where it is no H&E."""
    sample, background = sample_tissue(image, mpp=mpp, least_density=_FAINTEST)
    density = optical_density(background)[sample, np.arange(3)]
    stained = density.mean(axis=1) > _FAINTEST
    for (above, below), ratio in zip(((0, 1), (2, 1), (0, 2)), _HIGHEST_RATIOS, strict=True):
        stained &= density[:, above] < ratio * density[:, below]
    sample, density = sample[stained], density[stained]
    if len(density) < MIN_PIXELS:
        return None
    amount = density.mean(axis=1)
    tissue = amount > min(MIN_DENSITY, np.median(amount) / 2)
    sample, density = sample[tissue], density[tissue]
    vectors = sparse_vectors(density) if method == "vahadane" else extreme_vectors(density)
    if not is_he(vectors):
        return None
    lab = np.log10(np.maximum(sample @ LMS.T, 1)) @ LAB.T
    _, strength = stain_amounts(density, vectors)
    values = (background, lab.mean(axis=0), np.maximum(lab.std(axis=0), 1e-3), vectors, strength)
    return StainTarget(*(_tuples(np.round(value, 5)) for value in values))  # rounded: the same on every machine


def _tuples(values: ArrayLike) -> tuple:
    """Numbers in one or two dimensions as tuples of floats."""
    rows = np.asarray(values, np.float64).tolist()
    return tuple(tuple(row) if isinstance(row, list) else row for row in rows)
