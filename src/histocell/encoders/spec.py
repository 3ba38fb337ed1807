"""Facts about an encoder (`EncoderSpec`) and the interface of all encoders (`Encoder`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from histocell._core.arguments import check_count
from histocell._core.geometry import check_mpp

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from histocell._core.settings import Progress
    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.normalize import StainTransform

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CHOICES = {
    "library": ("builtin", "timm", "dinov2", "transformers", "coca", "lazyslide", "module"),
    "pooling": ("cls", "mean", "cls_mean", "attention", "projected", "native"),
    "interpolation": ("bicubic", "bilinear"),
    "precision": ("fp32", "fp16", "bf16"),
}


@dataclass(frozen=True, kw_only=True)
class AdapterOf:
    """The adapter that makes an encoder of another one.

    Attributes
    ----------
    folder
        Where it lies.
    digest
        Checksum of its content.
    base, base_version
        Name of the other encoder, and the version of its weights in the training.
    groups
        Patients or sections that the training has seen, where it recorded them.
    """

    folder: str
    digest: str
    base: str
    base_version: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An image encoder: its network, input, embedding and licence.

    Attributes
    ----------
    name
        Key of the registry; ``obsm["X_<name>"]`` holds its embeddings.
    library
        The library that builds it, or in whose format its weights are: ``"builtin"``, ``"timm"``, ``"dinov2"`` (checkpoints of
        Meta's code), ``"transformers"`` (``ViTModel``, ``Dinov2Model`` and ``Dinov2WithRegistersModel``), ``"coca"``
        (vision towers with an attentional pooler), ``"lazyslide"`` or ``"module"``.
    hub_id, filename, revision
        Repository on the Hugging Face hub, the file in it (where it is not the usual one), and the commit or tag; without
        a revision the newest is taken, and the commit that this turned out to be is recorded.
    arch, arch_kwargs
        Architecture and its arguments, as timm names them.
    pooling
        Definition of the embedding: ``"cls"``, ``"mean"`` (over patch tokens), ``"cls_mean"`` (both, one after the
        other), ``"attention"``, ``"projected"``, or ``"native"`` for the output of the network as it is.
    dim
        Width of the embedding; `None` where the network tells.
    params
        Millions of parameters of the image encoder.
    patch_px, prefix_tokens
        Edge of a token in px, `None` for a network without tokens; tokens before the patch tokens (class, registers).
    input_px, mpp
        Edge of the input in px and the resolution in um per px that it expects.
    mean, std
        Normalisation of the channels, on a scale from 0 to 1.
    interpolation
        How images of another size are resized to the input size.
    field_um, field_patches
        What of the slide an embedding depends on, besides colours measured on the whole slide: a square around the centre
        of the patch whose edge is the larger of `field_um`, in um, and `field_patches`, in patches; 1 patch for a network
        that sees its patch and nothing else. Training rows whose fields of view share tissue with held-out rows are left
        out of a fit.
    precision
        Precision that its authors, or most of its users, run it with on a GPU.
    license, commercial, gated
        Licence of the weights, whether it allows commercial use, and whether access must be asked for; `None` where
        unknown.
    citation
        The publication.
    summary
        One line.
    adapter
        The adapter whose updates are added to the weights; `None` for an encoder as it was published.

    Raises
    ------
    ValueError
        For a library, pooling, interpolation or precision that there is not, and for sizes that no image has.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.encoders.EncoderSpec(name="ours", library="timm", arch="vit_base_patch16_224", patch_px=16).grid
    (14, 14)
    """

    name: str
    library: str
    hub_id: str = ""
    filename: str = ""
    revision: str = ""
    arch: str = ""
    arch_kwargs: dict[str, Any] = field(default_factory=dict)  # of any type that timm.create_model takes
    pooling: str = "native"
    dim: int | None = None
    params: float | None = None
    patch_px: int | None = None
    prefix_tokens: int = 0
    input_px: int = 224
    mpp: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    field_um: float = 0.0
    field_patches: float = 1.0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    license: str = ""
    commercial: bool | None = None
    gated: bool | None = None
    citation: str = ""
    summary: str = ""
    adapter: AdapterOf | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                msg = f"{name} of encoder {self.name!r} must be one of {', '.join(allowed)}, not {value!r}"
                raise ValueError(msg)
        check_mpp(self.mpp, source=f"mpp of encoder {self.name!r}")
        check_count(self.input_px, f"input_px of encoder {self.name!r}", least=1)
        for name in ("mean", "std"):
            if np.shape(value := getattr(self, name)) != (3,):
                msg = f"{name} of encoder {self.name!r} must be three numbers, one for each channel, not {value!r}"
                raise ValueError(msg)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patch tokens; `None` for a network without tokens."""
        return None if self.patch_px is None else (self.input_px // self.patch_px,) * 2

    @property
    def forbids_derivatives(self) -> bool:
        """Whether its licence forbids to pass on what is derived from the weights, as those of CC with ND do."""
        return re.search(r"\bND\b|no.?deriv|derivatives only with permission", self.license, re.IGNORECASE) is not None

    def field_of_view(self, size_um: float) -> float:
        """Edge, in um, of the square of the slide that the embedding of a patch of `size_um` depends on."""
        return max(self.field_um, self.field_patches * size_um)


class Encoder(Protocol):
    """An encoder that is loaded: the result of :func:`histocell.encoders.load`, used by `hc.pp.embed_image`."""

    batch_size: int | None
    """Patches in one forward pass; `None` until it was found."""

    @property
    def name(self) -> str:
        """Key of the embeddings."""

    @property
    def version(self) -> str:
        """Version of its weights or definition."""

    @property
    def spec(self) -> EncoderSpec:
        """Facts about it."""

    @property
    def dim(self) -> int:
        """Width of the embedding."""

    @property
    def pool(self) -> str:
        """Definition of the embedding, in a word."""

    @property
    def precision(self) -> str:
        """Floating-point format of its computations: ``"fp32"``, ``"bf16"`` or ``"fp16"``."""

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk, where it writes into a store."""

    def order(self, centers: NDArray[np.float64], *, mpp: float, size_um: float) -> NDArray[np.intp]:
        """The order in which points are best computed."""

    def embed(
        self,
        image: SlideImage,
        centers: NDArray[np.float64],
        *,
        mpp: float,
        size_um: float,
        stain: StainTransform | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings of square patches, shape ``(n, dim)``."""

    def embed_chunks(
        self,
        image: SlideImage,
        chunks: Sequence[NDArray[np.float64]],
        *,
        mpp: float,
        size_um: float,
        stain: StainTransform | None = None,
        progress: Progress | None = None,
    ) -> Generator[NDArray[np.float32]]:
        """Embeddings of one chunk of patches after the other."""
