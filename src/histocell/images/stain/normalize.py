"""Stain normalisation: the colours of one slide as another would have them, without a copy of the slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histocell._core.errors import warn
from histocell.images.stain.target import PROBLEM, TYPICAL, Method, StainTarget, check_method, measure_target
from histocell.images.stain.transform import StainTransform

if TYPE_CHECKING:
    from histocell.images.slide_image import SlideImage


@dataclass(frozen=True)
class StainNormalizer:
    """Bring slides to the colours of one target.

    Fitted once per slide, on its tissue alone; the `StainTransform` then works pixel by pixel, at any resolution.

    Parameters
    ----------
    method
        ``"macenko"``: the two stains are the robust extremes of the plane of optical densities. ``"vahadane"``: they
        are a sparse, non-negative factorisation of them. With both, amounts are scaled to those of the target (99th
        percentiles) and shown in its colours; what neither stain explains (pigment, ink) stays as it is.
        ``"reinhard"``: mean and standard deviation of l, alpha and beta of the tissue become those of the target; pale
        pixels fade into the target's background, which the method alone would tint.
    target
        What slides are brought to, by default the colours of a public slide, an Aperio scan of typical H&E.

    Notes
    -----
    Pixels count as tissue from a mean optical density of 0.15, or half the median of the slide where it is fainter,
    and where green is absorbed as haematoxylin and eosin do, which leaves out most ink. No amount and no deviation
    grows or shrinks by more than 2.5, so a very faint slide becomes less faint, not noisy. A slide with fewer than 500
    such pixels, or whose two stains lie far from haematoxylin and eosin or too close together (a single stain, another
    stain), stays as it is, with a warning.

    References
    ----------
    Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis; Reinhard et al. (2001),
    Color transfer between images; Vahadane et al. (2016), Structure-preserving color normalization and sparse stain
    separation for histological images.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.patches(sdata, size_um=112)
    >>> normalizer = hc.encoders.StainNormalizer("reinhard")
    >>> hc.pp.embed_image(sdata, "uni", stain=normalizer)  # doctest: +SKIP
    """

    method: Method = "macenko"
    target: StainTarget | None = None

    def __post_init__(self) -> None:
        check_method(self.method)

    def fit(self, image: SlideImage, *, mpp: float) -> StainTransform:
        """Find what brings a slide to the target: always the same for the same slide.

        Parameters
        ----------
        image
            The slide.
        mpp
            um per px of its full resolution.
        """
        source = image.measured(("colours", self.method, mpp), lambda: measure_target(image, mpp, self.method))
        if source is None:
            warn(f"the colours of {image!r} stay as they are: {PROBLEM}")
        return StainTransform(self.method, source, self.target or TYPICAL[self.method])
