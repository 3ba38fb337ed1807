"""Photometric interpretations of TIFF: samples as grey, RGB or RGBA."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell.images.formats.colours import cmyk_to_rgb, lab_to_rgb, ycbcr_to_rgb

if TYPE_CHECKING:
    from collections.abc import Callable

    import tifffile
    from numpy.typing import NDArray

    type Samples = NDArray[np.generic]
    type Convert = Callable[[Samples], Samples]

MINISWHITE, MINISBLACK, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_N_COLOURS = {MINISWHITE: 1, MINISBLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha; other extra samples are no part of the picture
_APERIO_YCBCR, _JPEG2000 = 33003, {33003, 33004, 33005, 34712}
_SUBSAMPLING, _COEFFICIENTS, _BLACK_WHITE, _INK_SET, _ICC = 530, 529, 532, 332, 34675
_CONVERT = "convert it, for example with ImageMagick: magick in.tif -colorspace sRGB -type TrueColor out.tif"


class Colours(NamedTuple):
    """How samples (h, w, s) become grey, RGB or RGBA.

    Attributes
    ----------
    dtype
        Of the pixels.
    convert
        Makes pixels of samples, `None` where they are pixels as they are.
    known
        The values of black and white where the file says them.
    """

    dtype: np.dtype
    convert: Convert | None
    known: tuple[float, float] | None = None


def colours_of(page: tifffile.TiffPage, n_samples: int) -> Colours:
    """How the samples of a page, or of the pages of an image of `n_samples` planes, become pixels.

    Raises
    ------
    ValueError
        If they cannot truthfully become RGB.
    """
    if page.dtype is None or np.dtype(page.dtype).kind not in "buif":
        msg = f"its samples of {page.bitspersample} bits of kind {page.sampleformat} are no pixels that can be read; {_CONVERT}"
        raise ValueError(msg)
    photometric = YCBCR if page.compression == _APERIO_YCBCR else int(page.photometric)
    n_colours = _n_colours(page, photometric, n_samples)
    dtype, bits = np.dtype(page.dtype), _bits(page)
    core, core_dtype = _core(page, photometric, bits)
    alpha = next((index for index, kind in enumerate(page.extrasamples) if kind in {_ASSOCIATED, _UNASSOCIATED}), None)
    if alpha is not None and n_colours + alpha < n_samples:
        associated = page.extrasamples[alpha] == _ASSOCIATED
        if core is None and not associated and n_samples == 4:
            return Colours(dtype, None, _known(dtype, bits))
        core = _with_alpha(core, n_colours, n_colours + alpha, bits=bits, associated=associated)
    elif n_samples > n_colours:
        core = _first(core, n_colours)
    return Colours(core_dtype, core, _known(core_dtype, bits))


def subsampling(page: tifffile.TiffPage) -> tuple[int, int]:
    """Px along x and y that share their chroma, where the TIFF itself stores less of it, not its compression."""
    from tifffile import TIFF

    if int(page.photometric) != YCBCR or page.compression in TIFF.IMAGE_COMPRESSIONS:
        return 1, 1
    across, down = page.tags.valueof(_SUBSAMPLING) or (1, 1)
    return int(across), int(down)


def _n_colours(page: tifffile.TiffPage, photometric: int, n_samples: int) -> int:
    """Number of samples that are colours; an error where they are not those of a picture."""
    if photometric not in _N_COLOURS:
        name = getattr(page.photometric, "name", photometric)
        msg = f"its pixels are stored as {name}, which has no one true conversion to RGB; {_CONVERT}"
        raise ValueError(msg)
    n_colours = _N_COLOURS[photometric]
    if photometric in {MINISWHITE, MINISBLACK} and n_samples == 3:
        return 3  # what writes colours as three grey channels
    if n_samples < n_colours:
        msg = f"it has {n_samples} samples per px where {n_colours} are needed; {_CONVERT}"
        raise ValueError(msg)
    has_alpha = any(kind in {_ASSOCIATED, _UNASSOCIATED} for kind in page.extrasamples)
    if n_colours == 1 and n_samples > 1 and not (has_alpha and len(page.extrasamples) == n_samples - 1):
        msg = f"it has {n_samples} channels of grey: an image is grey, RGB or RGBA; write the channels that are red, green and blue"
        raise ValueError(msg)
    if photometric == CMYK and page.tags.valueof(_INK_SET) not in {None, 1}:
        msg = f"its inks are not cyan, magenta, yellow and black; {_CONVERT}"
        raise ValueError(msg)
    return n_colours


def _bits(page: tifffile.TiffPage) -> int:
    """Bits per sample; those of the type where samples differ, which tifffile scales."""
    stated = page.bitspersample
    return stated if isinstance(stated, int) else 8 * np.dtype(page.dtype).itemsize


def _known(dtype: np.dtype, bits: int) -> tuple[float, float] | None:
    """Range of samples of an odd number of bits; 16 bits often hold fewer."""
    return (0.0, 2.0**bits - 1) if dtype == np.uint16 and 8 < bits < 16 else None


def _core(page: tifffile.TiffPage, photometric: int, bits: int) -> tuple[Convert | None, np.dtype]:
    """What makes grey or RGB of the colours alone, and the type of its result."""
    dtype, byte = np.dtype(page.dtype), np.dtype(np.uint8)
    if photometric == PALETTE:
        return _palette(page), byte
    if photometric in {MINISWHITE, MINISBLACK, RGB} and bits < 8:
        shades = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
        shades = shades[::-1].copy() if photometric == MINISWHITE else shades
        return (lambda samples: shades[samples.astype(np.uint8)]), byte
    if photometric == MINISWHITE:
        if dtype.kind != "u":
            msg = f"its pixels are {dtype} with 0 as white, which has no black; {_CONVERT}"
            raise ValueError(msg)
        white = dtype.type(2**bits - 1)
        return (lambda samples: white - samples), dtype
    if photometric in {MINISBLACK, RGB} or (photometric == YCBCR and _decoded_to_rgb(page)):
        return None, dtype
    if bits not in {8, 16} or dtype.kind not in "ui":
        msg = f"its pixels are {dtype} of {bits} bits in {getattr(page.photometric, 'name', photometric)}; {_CONVERT}"
        raise ValueError(msg)
    if photometric == CMYK:
        profile = page.tags.valueof(_ICC)
        return (lambda samples: cmyk_to_rgb(_byte(samples), profile)), byte
    if photometric == YCBCR:
        weights = _rationals(page, _COEFFICIENTS) or [0.299, 0.587, 0.114]
        black_white = _rationals(page, _BLACK_WHITE) or [0, 255, 128, 255, 128, 255]
        return (lambda samples: ycbcr_to_rgb(_byte(samples), weights, black_white)), byte
    return (lambda samples: lab_to_rgb(_lab_bytes(samples, signed=photometric == CIELAB))), byte


def _decoded_to_rgb(page: tifffile.TiffPage) -> bool:
    """Whether the decoder of the compression, as tifffile calls it, makes RGB of YCbCr."""
    from tifffile import PLANARCONFIG, TIFF

    codecs = TIFF.IMAGE_COMPRESSIONS - _JPEG2000
    return page.compression in codecs and page.planarconfig == PLANARCONFIG.CONTIG and not page.extrasamples


def _palette(page: tifffile.TiffPage) -> Convert:
    colormap = page.colormap
    if colormap is None or np.ndim(colormap) != 2 or len(colormap) != 3:
        msg = f"its pixels are numbers of colours, but it has no table of colours; {_CONVERT}"
        raise ValueError(msg)
    table = np.asarray(colormap).T
    table = (table >> 8 if table.max(initial=0) > 255 else table).astype(np.uint8)  # some writers store bytes
    return lambda samples: table[samples[..., 0].astype(np.intp)]


def _rationals(page: tifffile.TiffPage, tag: int) -> list[float] | None:
    """Values of a tag of fractions."""
    values = page.tags.valueof(tag)
    if not values:
        return None
    return [values[index] / values[index + 1] for index in range(0, len(values), 2)]


def _byte(samples: Samples) -> NDArray[np.uint8]:
    """The upper eight bits."""
    return (
        samples.view(np.uint8)
        if samples.dtype.itemsize == 1
        else np.right_shift(samples.view(f"u{samples.itemsize}"), 8).astype(np.uint8)
    )


def _lab_bytes(samples: Samples, *, signed: bool) -> NDArray[np.uint8]:
    """L, a and b as bytes, a and b around 128; in CIELAB they are signed, in ICCLAB not."""
    return _byte(samples) ^ np.array([0, 128, 128] if signed else [0, 0, 0], np.uint8)


def _first(core: Convert | None, n: int) -> Convert:
    """Drop samples that are neither colours nor alpha."""
    if core is None:
        return lambda samples: samples[..., :n]
    return lambda samples: core(samples[..., :n])


def _with_alpha(core: Convert | None, n: int, index: int, *, bits: int, associated: bool) -> Convert:
    """Colours with alpha as RGBA; with associated alpha, which is multiplied in already, on white."""

    def convert(samples: Samples) -> Samples:
        colours, alpha = samples[..., :n], samples[..., index, None]
        if core is not None:
            colours = core(colours)
            alpha = _byte(alpha) if colours.dtype == np.uint8 else alpha
        colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
        if not associated:
            return np.concatenate([colours, alpha], axis=-1)
        white = 1.0 if colours.dtype.kind == "f" else 2 ** min(bits, 8 * colours.dtype.itemsize) - 1
        return np.minimum(colours.astype(np.float64) + (white - alpha.astype(np.float64)), white).astype(colours.dtype)

    return convert
