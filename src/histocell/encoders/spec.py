"""What is known of an encoder, and what every encoder can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.normalize import StainTransform

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An image encoder: how to build it, what to feed it, what it gives, what one may do with it.

    Attributes
    ----------
    name
        Key of the registry; ``obsm["X_<name>"]`` holds its embeddings.
    library
        Who builds it, or in whose format its weights are: ``"builtin"``, ``"timm"``, ``"dinov2"`` (checkpoints of
        Meta's code), ``"transformers"`` (``ViTModel``, ``Dinov2Model`` and ``Dinov2WithRegistersModel``), ``"coca"``
        (vision towers with an attentional pooler), ``"lazyslide"`` or ``"module"``.
    hub_id, filename, revision
        Repository on the Hugging Face hub, the file in it (where it is not the usual one), and the commit or tag; without
        a revision the newest is taken, and the commit that this turned out to be is recorded.
    arch, arch_kwargs
        Architecture and its arguments, as timm names them.
    pooling
        What the embedding is: ``"cls"``, ``"mean"`` (over patch tokens), ``"cls_mean"`` (both, one after the other),
        ``"attention"``, ``"projected"``, or ``"native"`` where the network alone knows.
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
        How pictures of another size are brought to the input size.
    precision
        What its authors, or those who use it most, run it with on a GPU.
    license, commercial, gated
        Licence of the weights; whether it allows commercial use; whether one must ask for them. `None` where not known.
    citation
        The publication.
    summary
        One line.
    """

    name: str
    library: str
    hub_id: str = ""
    filename: str = ""
    revision: str = ""
    arch: str = ""
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
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
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    license: str = ""
    commercial: bool | None = None
    gated: bool | None = None
    citation: str = ""
    summary: str = ""

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patch tokens; `None` for a network without tokens."""
        return None if self.patch_px is None else (self.input_px // self.patch_px,) * 2


class Encoder(Protocol):
    """What :func:`load` returns and `hc.pp.embed_image` uses."""

    batch_size: int | None
    """Patches that are computed together; `None` until it was found."""

    @property
    def name(self) -> str:
        """Key of the embeddings."""

    @property
    def version(self) -> str:
        """Which weights or definition."""

    @property
    def spec(self) -> EncoderSpec:
        """What is known of it."""

    @property
    def dim(self) -> int:
        """Width of the embedding."""

    @property
    def pool(self) -> str:
        """The definition of the embedding, in a word."""

    @property
    def precision(self) -> str:
        """The numbers it computes with: ``"fp32"``, ``"bf16"`` or ``"fp16"``."""

    @property
    def chunk_rows(self) -> int:
        """Rows that are worth a chunk of a store."""

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
        progress: Any = None,
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
        progress: Any = None,
    ) -> Generator[NDArray[np.float32]]:
        """Embeddings of one chunk of patches after the other."""
