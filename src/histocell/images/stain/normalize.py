"""Stain normalisation: the colours of one slide as another would have them, on the device, without a copy of the slide."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from histocell._core.errors import warn
from histocell.images.slide_image import open_image
from histocell.images.stain.estimate import REFERENCE, extreme_vectors, haematoxylin_first, is_he, sample_tissue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage

Method = Literal["macenko", "reinhard", "vahadane"]

_MIN_PIXELS = 500
_FAINTEST = 0.04  # mean optical density; below lie glass, its noise and its shadows
_MACENKO_DENSITY = 0.15  # of tissue that counts, where a slide is not faint
# Densities of red over green, blue over green and red over blue: no ink of a pen lies below all three, both stains do.
_HIGHEST_RATIOS = (1.6, 0.8, 3.0)
_MAX_GAIN = 2.5  # more would show the noise and the JPEG blocks of a faint slide
_SPARSITY = 0.1
_N_SPARSE, _SPARSE_PASSES = 5000, 4  # enough to converge, in about a second

# Reinhard et al. (2001), equations 4 and 6.
_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ [[1, 1, 1], [1, 1, -2], [1, -1, 0]]


@dataclass(frozen=True)
class StainTarget:
    """How stained tissue looks on a slide: what another slide can be brought to.

    Attributes
    ----------
    glass
        Colour of empty glass, RGB.
    mean, sd
        Of l, alpha and beta of the tissue, the colour space of Ruderman as Reinhard uses it: log10 of cone responses to
        values of 0-255.
    vectors
        Optical density of R, G, B per unit of haematoxylin and of eosin, unit length.
    strength
        99th percentile of the amounts of the two stains in tissue.
    """

    glass: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    vectors: tuple[tuple[float, ...], ...]
    strength: tuple[float, ...]

    @classmethod
    def from_image(cls, image: Any, *, mpp: float | None = None, method: Method = "macenko") -> StainTarget:
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
        found = _measure(opened, opened.mpp, _checked(method))
        if found is None:
            msg = f"{image!r} cannot be a target: {_PROBLEM}. Choose another slide"
            raise ValueError(msg)
        return found

    def to_json(self) -> str:
        """The target as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StainTarget:
        """The target that `to_json` wrote."""
        return cls(**{name: _frozen(value) for name, value in json.loads(text).items()})


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
        pixels fade into the target's glass, which the method alone would tint.
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
    """

    method: Method = "macenko"
    target: StainTarget | None = None

    def __post_init__(self) -> None:
        _checked(self.method)

    def fit(self, image: SlideImage, *, mpp: float) -> StainTransform:
        """Find what brings a slide to the target: always the same for the same slide.

        Parameters
        ----------
        image
            The slide.
        mpp
            um per px of its full resolution.
        """
        source = _measure(image, mpp, self.method)
        if source is None:
            warn(f"the colours of {image!r} stay as they are: {_PROBLEM}")
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
        target = StainTarget.from_json(json.dumps(facts["target"]))
        return cls(_checked(facts["method"]), source, target)


def _checked(method: Any) -> Any:
    if method not in get_args(Method):
        msg = f"method must be one of {', '.join(map(repr, get_args(Method)))}, not {method!r}"
        raise ValueError(msg)
    return method


_PROBLEM = "there is too little tissue, or its stains are not two that look like haematoxylin and eosin"


def _frozen(value: Any) -> Any:
    """Arrays and lists as tuples of rounded numbers, so that the same slide gives the same on every machine."""
    if isinstance(value, np.ndarray):
        value = value.round(5).tolist()
    return tuple(_frozen(item) if isinstance(item, list) else float(item) for item in value)


def _measure(image: SlideImage, mpp: float, method: Method) -> StainTarget | None:
    """The colours of a slide, `None` where there is too little tissue or where it is no H&E."""
    pixels, glass = sample_tissue(image, mpp=mpp, least_density=_FAINTEST)
    pixels = pixels.astype(np.float64)
    density = np.maximum(np.log10(glass / np.maximum(pixels, 1)), 0)
    stained = density.mean(axis=1) > _FAINTEST
    for (above, below), ratio in zip(((0, 1), (2, 1), (0, 2)), _HIGHEST_RATIOS, strict=True):
        stained &= density[:, above] < ratio * density[:, below]
    pixels, density = pixels[stained], density[stained]
    if len(density) < _MIN_PIXELS:
        return None
    amount = density.mean(axis=1)
    tissue = amount > min(_MACENKO_DENSITY, np.median(amount) / 2)
    pixels, density = pixels[tissue], density[tissue]
    vectors = _sparse_vectors(density) if method == "vahadane" else extreme_vectors(density)
    if not is_he(vectors):
        return None
    lab = np.log10(np.maximum(pixels @ _LMS.T, 1)) @ _LAB.T
    strength = np.percentile(density @ np.linalg.pinv(vectors), 99, axis=0)
    return StainTarget(
        *map(_frozen, (glass, lab.mean(axis=0), np.maximum(lab.std(axis=0), 1e-3), vectors, np.maximum(strength, 0.05)))
    )


def _sparse_vectors(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vahadane's two vectors: optical densities as sparse sums of two non-negative stains."""
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    learner = MiniBatchDictionaryLearning(
        n_components=2,
        alpha=_SPARSITY,
        fit_algorithm="cd",
        positive_code=True,
        positive_dict=True,
        dict_init=REFERENCE,
        batch_size=256,
        max_iter=_SPARSE_PASSES,
        tol=0,
        max_no_improvement=None,
        random_state=0,
    )
    absorbed = np.log(10) * density[:: max(1, len(density) // _N_SPARSE)]  # the sparsity is one of natural logarithms
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the amounts; whether the vectors are right is checked
        return haematoxylin_first(learner.fit(absorbed).components_)


@lru_cache(maxsize=32)
def _constants(
    method: Method, source: StainTarget, target: StainTarget, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """What the formulas need, on the device."""
    glass, target_glass = np.array(source.glass), np.array(target.glass)
    if method == "reinhard":
        gain = np.clip(np.array(target.sd) / source.sd, 1 / _MAX_GAIN, _MAX_GAIN)
        back = np.linalg.inv(_LAB)
        matrix = back @ np.diag(gain) @ _LAB
        offset = back @ (np.array(target.mean) - gain * source.mean)
        # the mean of the logarithms is the lightness l; from glass to half the depth of the tissue, glass fades out
        light = np.log10(_LMS @ glass).mean()
        depth = max(light - source.mean[0] / 3**0.5, 0.02) / 2
        values = [
            _LMS,
            np.log(10) * matrix,
            np.log(10) * offset[:, None],
            np.linalg.inv(_LMS),
            (target_glass / glass)[:, None],
            np.array(light),
            np.array(1 / depth),
        ]
    else:
        gain = np.clip(np.array(target.strength) / source.strength, 1 / _MAX_GAIN, _MAX_GAIN)
        vectors = np.array(source.vectors)
        change = gain[:, None] * target.vectors - vectors
        values = [1 / glass[:, None], np.linalg.pinv(vectors).T, change.T, target_glass[:, None]]
    return tuple(torch.tensor(value, dtype=torch.float32, device=device) for value in values)


def _restain(
    rgb: torch.Tensor, per_glass: torch.Tensor, unmixing: torch.Tensor, change: torch.Tensor, glass: torch.Tensor
) -> torch.Tensor:
    """Pixels (n, 3, m) whose amounts of the stains take other colours; the rest of their density stays."""
    light = (rgb * per_glass).float().clamp_(min=1 / 255).log_()
    amounts = (unmixing @ light).clamp_(max=0)  # logarithms of light are negative densities
    return (change @ amounts).add_(light).exp_().mul_(glass).clamp_(max=255)


def _match_statistics(
    rgb: torch.Tensor,
    to_lms: torch.Tensor,
    matrix: torch.Tensor,
    offset: torch.Tensor,
    from_lms: torch.Tensor,
    glass: torch.Tensor,
    light: torch.Tensor,
    per_depth: torch.Tensor,
) -> torch.Tensor:
    """Pixels (n, 3, m) whose logarithmic cone responses go through a matrix, but for those of glass."""
    rgb = rgb.float()
    lms = (to_lms @ rgb).clamp_(min=1).log10_()
    stained = ((light - lms.mean(dim=1, keepdim=True)) * per_depth).clamp_(0, 1)
    tissue = from_lms @ (matrix @ lms).add_(offset).exp_()
    return torch.lerp(rgb * glass, tissue, stained).clamp_(0, 255)
