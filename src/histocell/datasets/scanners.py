"""A slide as other scanners would show it: colour, sharpness, resolution and compression."""

from __future__ import annotations

import io
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from histocell._core import keys
from histocell._core.arguments import check_amount, check_positive
from histocell._core.errors import listing
from histocell.images.dask_arrays import changed_element
from histocell.tables.access import is_spatialdata
from histocell.tables.slides import open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

_SIGMAS = 4  # of a blur that a block looks beyond its edge
SCANNER, SPECIMEN = "scanner", "specimen"


@dataclass(frozen=True)
class Scanner:
    """What a scanner does to a slide.

    Attributes
    ----------
    gain
        Factors of the optical density in red, green and blue.
    background
        Colour of empty glass, of 255.
    gamma
        Exponent of the intensities; above 1 is darker.
    blur_um
        Standard deviation of the point spread, um.
    mpp
        um per px that it samples at, where that is coarser than the slide; the pixels stay as many.
    quality
        Of its JPEG, 1 to 100; `None` for none.
    """

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    background: tuple[float, float, float] = (255.0, 255.0, 255.0)
    gamma: float = 1.0
    blur_um: float = 0.0
    mpp: float | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        for name in ("gain", "background"):
            value = getattr(self, name)
            if np.shape(value) != (3,) or not (np.asarray(value) > 0).all():
                msg = f"{name} must be three positive numbers, not {value!r}"
                raise ValueError(msg)
        check_positive(self.gamma, "gamma"), check_amount(self.blur_um, "blur_um")
        if self.mpp is not None:
            check_positive(self.mpp, "mpp")
        if self.quality is not None and not 1 <= self.quality <= 100:
            msg = f"quality must be from 1 to 100, not {self.quality}"
            raise ValueError(msg)

    def scan(self, image: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
        """An image ``(h, w, 3)`` of `mpp` um per px as this scanner shows it."""
        density = -np.log(np.maximum(image, 0.5, dtype=np.float32) / 255)
        out = np.exp(-density * np.asarray(self.gain, dtype=np.float32)) ** np.float32(self.gamma)
        out *= np.asarray(self.background, dtype=np.float32)
        sigma = self.blur_um / mpp
        coarse = 1.0 if self.mpp is None else self.mpp / mpp
        if coarse > 1:
            sigma = float(np.hypot(sigma, 0.5 * coarse))
        if sigma > 0:
            out = gaussian_filter(out, (sigma, sigma, 0), mode="nearest", truncate=_SIGMAS)
        pixels = np.clip(np.rint(out), 0, 255).astype(np.uint8)
        if coarse > 1:
            height, width = pixels.shape[:2]
            small = (max(round(width / coarse), 1), max(round(height / coarse), 1))
            sampled = Image.fromarray(pixels).resize(small, Image.Resampling.BILINEAR)
            pixels = np.asarray(sampled.resize((width, height), Image.Resampling.BICUBIC))
        if self.quality is not None and pixels.size:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "jpeg", quality=self.quality)
            pixels = np.asarray(Image.open(file))
        return pixels

    def reach_px(self, mpp: float) -> int:
        """How far a pixel depends on its surroundings, in px of `mpp` um."""
        coarse = max(1.0, (self.mpp or mpp) / mpp)
        return int(np.ceil(_SIGMAS * np.hypot(self.blur_um / mpp, 0.5 * coarse * (coarse > 1)) + 3 * coarse)) + 8


SCANNERS: dict[str, Scanner] = {
    "A": Scanner(),
    "B": Scanner(gain=(0.9, 1.05, 1.15), background=(246, 241, 236), blur_um=0.25, quality=75),
    "C": Scanner(gain=(1.2, 1.0, 0.85), background=(248, 250, 254), gamma=0.85, quality=90),
    "D": Scanner(gamma=1.2, background=(240, 238, 240), blur_um=0.4, mpp=0.75, quality=60),
    "E": Scanner(gain=(0.7, 0.75, 0.7), background=(236, 236, 240), quality=80),
}


def rescan(
    data: SpatialData, scanner: str | Scanner, *, image_key: str | None = None, mpp: float | None = None
) -> SpatialData:
    """Show a slide as another scanner would, to test whether an encoder or a stain normalisation stands it.

    Everything but the pixels stays: coordinates, tables, shapes and the number of pixels.

    Parameters
    ----------
    data
        SpatialData with an image, of any size.
    scanner
        One of ``"A"`` (as it is) to ``"E"``, or a `Scanner`.
    image_key
        The image, where there are several slides.
    mpp
        Micrometres per full-resolution px, where the image does not say it.

    Returns
    -------
    A new SpatialData with a lazy image in the place of the old one. Its tables are copies whose ``obs`` tells the ``scanner``, the
    ``specimen`` (the section as it was called) and the ``section``, now ``<specimen>-<scanner>``; embeddings and patches are left out
    of ``obsm``, since they are of other pixels. `anndata.concat` puts tables of several scanners together.

    Raises
    ------
    ValueError
        When the scanner is unknown, or the resolution.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> other = hc.datasets.rescan(sdata, "D")
    >>> other["table"].obs["section"].unique().tolist()
    ['P1S1-D']
    """
    import spatialdata as sd

    if not is_spatialdata(data):
        msg = f"data must be a SpatialData with an image, not {type(data).__name__}"
        raise TypeError(msg)
    name, device = _scanner(scanner)
    slide = open_slide(data, "rescan", image_key, mpp)
    elements = {key: each for _, key, each in data.gen_elements()}
    elements[slide.key] = changed_element(
        data.images[slide.key],
        device.scan,
        mpp=slide.mpp,
        intensity_range=slide.image.intensity_range,
        reach_px=device.reach_px,
    )
    for key, table in data.tables.items():
        elements[key] = copy = table.copy()
        for slot in [each for each in copy.obsm if each.startswith("X_") or each == keys.PATCHES]:
            del copy.obsm[slot]
        copy.obs[SCANNER] = name
        if keys.SECTION in copy.obs:
            copy.obs[SPECIMEN] = copy.obs[keys.SECTION]
            copy.obs[keys.SECTION] = [f"{section}-{name}" for section in copy.obs[keys.SECTION]]
    return sd.SpatialData.init_from_elements(elements, attrs=deepcopy(data.attrs))


def _scanner(scanner: str | Scanner) -> tuple[str, Scanner]:
    if isinstance(scanner, Scanner):
        known = next((name for name, each in SCANNERS.items() if each == scanner), None)
        return known or "_".join(str(getattr(scanner, field.name)) for field in fields(scanner)), scanner
    if scanner not in SCANNERS:
        msg = f"scanner must be one of {listing(SCANNERS)}, or a hc.datasets.Scanner; not {scanner!r}"
        raise ValueError(msg)
    return scanner, SCANNERS[scanner]
