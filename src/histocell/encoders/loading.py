"""Loading of an encoder by its name, or from a module, and embedding of single images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histocell._core.arguments import check_count
from histocell.encoders.registry import get_spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from typing_extensions import TypeIs

    from histocell.encoders.inference.nucleus_tokens import NucleusPooling
    from histocell.encoders.spec import Encoder


def load(
    encoder: str | torch.nn.Module,
    *,
    weights: str | Path | Literal["random"] | None = None,
    pool: str | NucleusPooling | None = None,
    device: str | Sequence[str] | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    compile: bool = False,
    rng: int = 0,
) -> Encoder:
    """Build an encoder.

    Parameters
    ----------
    encoder
        A name of :func:`list_encoders`, ``"timm/<model>"``, ``"lazyslide:<key>"`` (a model of the package
        lazyslide-models, extra ``wsi``), or a module that maps float images, shape ``(n, 3, h, w)``, to embeddings, shape
        ``(n, dim)``. A module gets images normalised as its ``pretrained_cfg`` says (modules of timm have one), else
        with ImageNet's mean and deviation.
    weights
        `None` for the published ones: from the cache of the Hugging Face hub, else downloaded. A file
        (``.safetensors``, ``.bin``, ``.pt``, ``.pth``) or a folder with one; a ``config.json`` in the folder sets the
        sizes of the network. ``"random"`` for the initial weights of seed `rng`. All tensors must fit.
    pool
        What the embedding is, one of ``Backbone.poolings``: ``"cls"``, ``"mean"``, ``"cls_mean"``, for CONCH and OmiCLIP
        also ``"attention"`` and ``"projected"``; or ``"nucleus"``, or a :class:`NucleusPooling`: the tokens around the
        centre of the patch. By default as the authors define it.
    device
        Torch device, or several of them, which share the batches; by default ``hc.settings.device``, else the best there
        is.
    precision
        ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"``: what the encoder is usually run with
        (:func:`histocell.encoders.list_encoders`), where that is a half precision bf16 on processors that have
        instructions for it (AMX, AVX512-bf16) and fp32 on others; fp32 for modules of yours.
    batch_size
        Patches in one forward pass; by default 32 on a processor, and on a GPU as many as make it faster. It is halved when
        memory does not suffice.
    compile
        Whether to compile the network with ``torch.compile``: a minute or more at the start, faster afterwards.
    rng
        Seed of ``weights="random"``.

    Raises
    ------
    KeyError
        When the name is not known.
    PermissionError
        When the weights are gated and access was not granted.
    OSError
        When the weights can neither be found nor downloaded.
    ValueError
        When they do not fit, or the file is not what it should be; for a pooling that the network has not.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.encoders.load("kaiko-s16", weights="random", device="cpu").dim
    384
    """
    if isinstance(encoder, str) and (spec := get_spec(encoder)).library == "builtin":
        from histocell.encoders.morphology.encoder import Morphology

        if weights is not None or pool is not None:
            msg = f"the built-in encoder {spec.name!r} has no weights and no tokens; leave weights= and pool= out"
            raise ValueError(msg)
        return Morphology()
    from histocell._core.device import survive_fork
    from histocell.encoders.inference.patch_encoder import PatchEncoder
    from histocell.encoders.networks.build import network_of_module, network_of_spec

    if not isinstance(encoder, str) and not hasattr(encoder, "forward"):
        msg = (
            f"encoder must be a name, a torch module or what hc.encoders.load returned, not {encoder!r} of type "
            f"{type(encoder).__name__}; hc.encoders.list_encoders() lists the names"
        )
        raise TypeError(msg)
    survive_fork()
    check_count(rng, "rng")
    if isinstance(encoder, str):
        network = network_of_spec(spec, weights, rng)
    elif weights is None:
        network = network_of_module(encoder)
    else:
        msg = "a module has its weights already; load them into it and leave weights= out"
        raise ValueError(msg)
    return PatchEncoder(*network, pool=pool, device=device, precision=precision, batch_size=batch_size, compile=compile)


def encode(encoder: str | torch.nn.Module | Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed images that are patches already.

    Parameters
    ----------
    encoder
        From :func:`load`, or what it takes: a name or a module, which is then loaded at each call. Not
        ``"morphology"``, which needs the surroundings of a patch.
    images
        uint8, shape ``(n, h, w, 3)``. Those of another size than the encoder's input are resized by their shorter edge and
        cropped to the centre. With ``pool="nucleus"`` the nucleus is in the centre.

    Returns
    -------
    Shape ``(n, dim)``.

    Examples
    --------
    >>> import histocell as hc
    >>> import numpy as np
    >>> encoder = hc.encoders.load("timm/resnet18", weights="random", device="cpu")
    >>> hc.encoders.encode(encoder, np.zeros((2, 224, 224, 3), np.uint8)).shape
    (2, 512)
    """
    from histocell.encoders.inference.patch_encoder import PatchEncoder
    from histocell.encoders.inference.preprocessing import fit_to_input

    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        msg = f"images must be uint8 of shape (n, h, w, 3), not {images.dtype} of shape {images.shape}"
        raise ValueError(msg)
    loaded = resolve_encoder(encoder)
    if not isinstance(loaded, PatchEncoder):
        msg = f"{loaded.name!r} needs the surroundings of a patch, so it embeds slides: use its embed method"
        raise TypeError(msg)
    size = loaded.batch_size or 32
    starts = range(0, len(images), size)
    parts = [loaded.forward(fit_to_input(images[start : start + size], loaded.spec)) for start in starts]
    return np.concatenate(parts) if parts else np.empty((0, loaded.dim), dtype=np.float32)


def resolve_encoder(encoder: str | torch.nn.Module | Encoder, **options: Any) -> Encoder:
    """An encoder that is loaded already as it is; anything else is loaded with `options`, the parameters of :func:`load`."""
    if not _is_loaded(encoder):
        return load(encoder, **options)
    given = [name for name, value in options.items() if value not in (None, "auto")]
    if given:
        msg = f"{encoder.name!r} is loaded already: give {', '.join(given)} to hc.encoders.load"
        raise ValueError(msg)
    return encoder


def _is_loaded(encoder: object) -> TypeIs[Encoder]:
    return hasattr(encoder, "embed_chunks")
