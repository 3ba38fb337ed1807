"""What is known of an encoder, and what every encoder can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from histocell._core.images import SlideImage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderSpec:
    """An image encoder: how to build it, what to feed it, what one may do with it.

    Attributes
    ----------
    name
        Key of the registry; ``obsm["X_<name>"]`` holds its embeddings.
    library
        ``"builtin"`` or ``"timm"``.
    arch, arch_kwargs
        Architecture and its arguments, as the library names them.
    dim
        Width of the embedding; `None` where the model tells.
    input_px, mpp
        Edge of the input in px and the resolution in um per px that it expects.
    mean, std
        Normalisation of the channels, on a scale from 0 to 1.
    revision
        Version of the weights.
    license, commercial
        Licence of the weights, and whether it allows commercial use; `None` where it is not known.
    summary
        One line.
    """

    name: str
    library: str
    arch: str = ""
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    dim: int | None = None
    input_px: int = 224
    mpp: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    revision: str = ""
    license: str = ""
    commercial: bool | None = None
    summary: str = ""


class Encoder(Protocol):
    """What :func:`load` returns and `hc.pp.embed_image` uses."""

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

    def embed(
        self, image: SlideImage, centers: NDArray[np.float64], *, mpp: float, size_um: float, progress: Any = None
    ) -> NDArray[np.float32]:
        """Embeddings of square patches, shape ``(n, dim)``."""
