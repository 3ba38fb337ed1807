"""Stain normalisation: the colours of one slide as another would have them, without a copy of the slide."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histocell._core.errors import warn
from histocell.images.stain.target import LAB, LMS, PROBLEM, TYPICAL, StainTarget, check_method, measure_target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.target import Method

_MAX_GAIN = 2.5  # more would show the noise and the JPEG blocks of a faint slide


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


@dataclass(frozen=True)
class StainTransform:
    """What brings the pixels of one slide to the target, made by :meth:`StainNormalizer.fit`.

    Attributes
    ----------
    method
        As in `StainNormalizer`.
    source
        The slide as it is; `None` where it could not be measured: pixels then stay as they are.
    target
        What it is brought to.
    """

    method: Method
    source: StainTarget | None
    target: StainTarget

    def __call__(self, rgb: torch.Tensor) -> torch.Tensor:
        """Normalise patches on the device on which they lie.

        Parameters
        ----------
        rgb
            Shape (n, 3, h, w), any type, values 0-255.

        Returns
        -------
        Same shape, float32, values 0-255.
        """
        if rgb.ndim != 4 or rgb.shape[1] != 3:
            msg = f"patches must have shape (n, 3, h, w), not {tuple(rgb.shape)}"
            raise ValueError(msg)
        if self.source is None:
            return rgb.to(torch.float32)
        apply = _match_statistics if self.method == "reinhard" else _restain
        with torch.autocast(rgb.device.type, enabled=False):  # logarithms of 16 bit would show
            constants = _constants(self.method, self.source, self.target, rgb.device)
            return apply(rgb.flatten(2), *constants).view(rgb.shape)

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Normalise one image (h, w, 3), uint8."""
        out = self(torch.tensor(rgb).permute(2, 0, 1)[None])[0]
        return out.round_().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()

    def describe(self) -> dict[str, Any]:
        """Everything that it depends on, as plain strings, numbers and lists."""
        return json.loads(self.to_json())

    def to_json(self) -> str:
        """The transform as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StainTransform:
        """The transform that `to_json` wrote."""
        facts = json.loads(text)
        source = None if facts["source"] is None else StainTarget.from_json(json.dumps(facts["source"]))
        return cls(check_method(facts["method"]), source, StainTarget.from_json(json.dumps(facts["target"])))


@lru_cache(maxsize=32)
def _constants(
    method: Method, source: StainTarget, target: StainTarget, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """What the formulas need, on the device."""
    background, target_background = np.array(source.glass), np.array(target.glass)
    if method == "reinhard":
        gain = np.clip(np.array(target.sd) / source.sd, 1 / _MAX_GAIN, _MAX_GAIN)
        back = np.linalg.inv(LAB)
        matrix = back @ np.diag(gain) @ LAB
        offset = back @ (np.array(target.mean) - gain * source.mean)
        # the mean of the logarithms is the lightness l; from the background to half the depth of the tissue, the
        # background fades out
        light = np.log10(LMS @ background).mean()
        depth = max(light - source.mean[0] / 3**0.5, 0.02) / 2
        values = [
            LMS,
            np.log(10) * matrix,
            np.log(10) * offset[:, None],
            np.linalg.inv(LMS),
            (target_background / background)[:, None],
            np.array(light),
            np.array(1 / depth),
        ]
    else:
        gain = np.clip(np.array(target.strength) / source.strength, 1 / _MAX_GAIN, _MAX_GAIN)
        vectors = np.array(source.vectors)
        change = gain[:, None] * target.vectors - vectors
        values = [1 / background[:, None], np.linalg.pinv(vectors).T, change.T, target_background[:, None]]
    return tuple(torch.tensor(value, dtype=torch.float32, device=device) for value in values)


def _restain(
    rgb: torch.Tensor, per_light: torch.Tensor, unmixing: torch.Tensor, change: torch.Tensor, background: torch.Tensor
) -> torch.Tensor:
    """Pixels (n, 3, m) whose amounts of the stains take other colours; the rest of their density stays."""
    light = (rgb * per_light).float().clamp_(min=1 / 255).log_()
    amounts = (unmixing @ light).clamp_(max=0)  # logarithms of light are negative densities
    return (change @ amounts).add_(light).exp_().mul_(background).clamp_(max=255)


def _match_statistics(
    rgb: torch.Tensor,
    to_lms: torch.Tensor,
    matrix: torch.Tensor,
    offset: torch.Tensor,
    from_lms: torch.Tensor,
    background: torch.Tensor,
    light: torch.Tensor,
    per_depth: torch.Tensor,
) -> torch.Tensor:
    """Pixels (n, 3, m) whose logarithmic cone responses go through a matrix, except for those of the background."""
    rgb = rgb.float()
    lms = (to_lms @ rgb).clamp_(min=1).log10_()
    stained = ((light - lms.mean(dim=1, keepdim=True)) * per_depth).clamp_(0, 1)
    tissue = from_lms @ (matrix @ lms).add_(offset).exp_()
    return torch.lerp(rgb * background, tissue, stained).clamp_(0, 255)
