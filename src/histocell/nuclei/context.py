"""Context of a slide, the same in all its blocks: its stains, and the haematoxylin of its stroma and its nuclei."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import warn
from histocell.images.pixels import background_colour, look_up, optical_density
from histocell.images.stain.estimate import MIN_PIXELS, estimate_stains
from histocell.kernels.filters import blur, box_mean, gaussian_taps
from histocell.kernels.texture import unmix_haematoxylin
from histocell.nuclei.ink import find_ink, to_edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histocell.images.stain.estimate import StainEstimate

TISSUE_DENSITY = 0.05  # mean optical density
STAINED_DENSITY = 0.15
SMOOTH_UM = 0.5
FOREIGN_UM = 5.0  # half width of the surroundings in which foreign pixels are counted
# Densities of red and blue over green: nuclei lie within, inks, DAB and red cells do not. Blue is low in eosin and in
# blue ink, and only in the latter is red high.
LEAST_RED, HIGHEST_RED = 0.35, 1.6
HIGHEST_BLUE = 0.72
INK_BLUE, INK_RED = 0.3, 0.75
LEAST_CONTRAST = 0.12  # optical density between stroma and nuclei; less is not amplified
_DARK = 60  # of 255: brightest channel of the background of a fluorescence image
_DARK_SHARE = 0.5
_INK_UM2 = 500.0  # of a few stained pixels, specks are a large share
_FOREIGN_SHARE, _INK_SHARE = 0.1, 0.03  # of the stained pixels, from which they are worth a word; strokes are no chance
_AROUND_SHARE = 0.25
_ENOUGH_PIXELS = 2**18  # of four times as many, a quarter is looked at
_RED_INK = 0.65, 0.9  # highest densities of red and blue over green in red ink over tissue; blue is higher in DAB
_BROWN_BLUE = 1.05  # density of blue over red in DAB; it is lower in both stains of H&E, but for eosin alone


@dataclass(frozen=True)
class SlideContext:
    """What must be the same in all blocks of a slide.

    Attributes
    ----------
    stains
        The stains of the slide.
    low, high
        Haematoxylin of its stroma and of its nuclei, in units of the slide's strength.
    problem
        Why no nuclei can be found: blank, or a fluorescence image. `None` where they can.
    """

    stains: StainEstimate
    low: float
    high: float
    problem: str | None = None


def estimate_context(sample: Sequence[NDArray[np.uint8]], mpp: float) -> SlideContext:
    """The context of a slide, from images of its tissue; warns of what is no H&E.

    Parameters
    ----------
    sample
        Images (h, w, 3), uint8, of one resolution.
    mpp
        um per px.
    """
    step = max(1, math.isqrt(sum(image.size // 3 for image in sample) // _ENOUGH_PIXELS))
    thin = [image[::step, ::step] for image in sample]
    pixels = np.concatenate([image.reshape(-1, 3) for image in thin])
    background = background_colour(pixels)
    density = look_up(optical_density(background).astype(np.float32), pixels)
    amount = (density[:, 0] + density[:, 1] + density[:, 2]) / np.float32(3)
    stained, foreign = amount > STAINED_DENSITY, is_foreign(density)
    foreign &= stained
    problem = _problem(pixels, stained)
    crowded = _flat([_is_crowded(part, mpp * step) for part in _as_images(foreign, thin)])
    inks = find_ink(_as_images(density, thin), _as_images(stained, thin), mpp * step)
    ink = _flat(inks)
    if problem is None:  # single pixels are noise, of JPEG for example
        n_stained, n_ink = int(stained.sum()), int((stained & ink).sum())
        is_marked = n_ink >= _INK_SHARE * n_stained and n_ink * (mpp * step) ** 2 >= _INK_UM2
        if is_marked or (foreign & crowded).sum() >= _FOREIGN_SHARE * n_stained:
            _warn_of_other_stains(density[(foreign & crowded) | (stained & ink)], n_stained)
    usable = ~(foreign | crowded | _flat([to_edges(part, mpp * step) for part in inks]))
    stains = estimate_stains(pixels[usable], background=background)
    if problem is not None:
        warn(f"no nuclei are looked for: {problem}")
        return SlideContext(stains, 0.0, 1.0, problem)
    haematoxylin = np.concatenate([_smooth(image, stains, mpp)[::step, ::step].ravel() for image in sample])
    low, high = _classes(haematoxylin[(amount > TISSUE_DENSITY) & usable])
    return SlideContext(stains, low, max(high, low + LEAST_CONTRAST / float(stains.strength[0])))


def _problem(pixels: NDArray[np.uint8], stained: NDArray[np.bool_]) -> str | None:
    brightest = np.maximum(np.maximum(pixels[:, 0], pixels[:, 1]), pixels[:, 2])
    dark = float((brightest < _DARK).mean()) if len(pixels) else 0.0
    if dark > _DARK_SHARE:
        return f"{dark:.0%} of the pixels are dark, as in a fluorescence image; expected H&E on a bright background"
    if stained.sum() < MIN_PIXELS:
        return f"{int(stained.sum())} of {len(pixels)} pixels are stained; the image is blank, or nearly"
    return None


def is_haematoxylin(density: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether optical densities (n, 3) of R, G, B can be those of nuclei."""
    return (density[:, 0] >= LEAST_RED * density[:, 1]) & ~is_foreign(density)


def is_foreign(density: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether optical densities (n, 3) are neither of haematoxylin nor of eosin, but of ink, DAB or pigment."""
    red, green, blue = density.T
    is_blue_ink = (blue < INK_BLUE * green) & (red > INK_RED * green)
    return (blue > HIGHEST_BLUE * green) | (red > HIGHEST_RED * green) | is_blue_ink


def _is_crowded(foreign: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Where at least a quarter of the surroundings is foreign: strokes and stained areas as a whole."""
    return box_mean(foreign.astype(np.float32), max(1, round(FOREIGN_UM / mpp))) > _AROUND_SHARE


def _as_images[T: np.generic](values: NDArray[T], images: Sequence[NDArray[np.uint8]]) -> list[NDArray[T]]:
    """Values of the pixels of all images, (n,) or (n, 3), as images."""
    ends = np.cumsum([image.shape[0] * image.shape[1] for image in images])
    parts = np.split(values, ends[:-1])
    return [part.reshape(*image.shape[:2], *values.shape[1:]) for part, image in zip(parts, images, strict=True)]


def _flat(images: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.concatenate([image.ravel() for image in images])


def _warn_of_other_stains(foreign: NDArray[np.float32], n_stained: int) -> None:
    share = len(foreign) / n_stained
    red, green, blue = foreign.mean(axis=0)
    seen = "coloured as ink or another stain"
    if red < LEAST_RED * green or (red < _RED_INK[0] * green and blue < _RED_INK[1] * green):
        seen = "red, as ink or blood"
    elif blue > _BROWN_BLUE * red:
        seen = "brown, as the DAB of immunohistochemistry"
    warn(
        f"{share:.0%} of the stained pixels are {seen}; the method is for H&E: what has another colour than haematoxylin "
        "is not taken for a nucleus, and nuclei seen through ink are measured with it"
    )


def stain_map(
    image: NDArray[np.uint8], stains: StainEstimate, *, low: float = 0.0, high: float = 1.0
) -> NDArray[np.float32]:
    """Haematoxylin (h, w) of an image, in units of the slide's strength; scaled so that `low` is 0 and `high` is 1."""
    return unmix_haematoxylin(image, stains.density, stains.unmixing, np.float32(low), np.float32(high - low))


def _smooth(image: NDArray[np.uint8], stains: StainEstimate, mpp: float) -> NDArray[np.float32]:
    return blur(stain_map(image, stains), gaussian_taps(SMOOTH_UM / mpp))


def _classes(values: NDArray[np.float32]) -> tuple[float, float]:
    """Means of the two classes that Otsu's threshold makes of some values."""
    from skimage.filters import threshold_otsu

    if len(values) == 0 or values.min() == values.max():
        return 0.0, 0.0
    above = values >= threshold_otsu(values)
    return float(values[~above].mean()), float(values[above].mean())
