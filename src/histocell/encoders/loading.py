"""Loading of an encoder by its name, or from a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from histocell.encoders.registry import get_spec
from histocell.encoders.spec import Encoder, EncoderSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from typing_extensions import TypeIs

    from histocell.encoders.inference.nucleus_tokens import NucleusPooling
    from histocell.encoders.networks.backbone import Backbone


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
        Torch device, or several of them; by default ``hc.settings.device``, else the best there is.
    precision
        ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"``: what the encoder is usually run with
        (:func:`histocell.encoders.list_encoders`), where that is a half precision bf16 on processors that have
        instructions for it (AMX, AVX512-bf16) and fp32 on others; fp32 for modules of yours.
    batch_size
        Patches in one forward pass; found on the device by default.
    compile
        Whether to compile the network with ``torch.compile``.
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
    from histocell.encoders.inference.patch_encoder import PatchEncoder

    if not isinstance(encoder, str):
        if weights is not None:
            msg = "a module has its weights already; load them into it and leave weights= out"
            raise ValueError(msg)
        backbone, spec, version = _from_module(encoder)
    else:
        spec = get_spec(encoder)
        if spec.library == "builtin":
            return _builtin(spec, weights, pool)
        backbone, spec, version = _from_spec(spec, weights, rng)
    return PatchEncoder(
        backbone,
        spec,
        version=version,
        pool=pool,
        device=device,
        precision=precision,
        batch_size=batch_size,
        compile=compile,
    )


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


def _builtin(spec: EncoderSpec, weights: str | Path | None, pool: str | NucleusPooling | None) -> Encoder:
    from histocell.encoders.morphology.encoder import Morphology

    if weights is not None or pool is not None:
        msg = f"the built-in encoder {spec.name!r} has no weights and no tokens; leave weights= and pool= out"
        raise ValueError(msg)
    return Morphology()


def _from_spec(spec: EncoderSpec, weights: str | Path | None, rng: int) -> tuple[Backbone, EncoderSpec, str]:
    """The network of a spec with its weights, the spec with the sizes that came with them, and their version."""
    if spec.library == "lazyslide":
        from histocell.encoders.networks.lazyslide import load_lazyslide

        return load_lazyslide(spec, weights)
    if weights == "random":
        return _random(spec, rng), spec, f"random-{rng}"
    if weights is None and not spec.hub_id:
        return _from_timm(spec), spec, spec.revision
    return _from_weights(spec, weights)


def _from_weights(spec: EncoderSpec, weights: str | Path | None) -> tuple[Backbone, EncoderSpec, str]:
    import torch

    from histocell.encoders.networks.build import build, spec_from_config
    from histocell.encoders.networks.checkpoints import load_checkpoint
    from histocell.encoders.networks.weights import hub_weights, local_weights, read_tensors

    files = hub_weights(spec) if weights is None else local_weights(weights, spec)
    spec = spec_from_config(spec, files.config)
    with torch.device("meta"):
        backbone = build(spec)
    if not {name for name, _ in backbone.named_buffers()} <= set(backbone.state_dict()):
        backbone = _random(spec, 0)  # checkpoints hold no values for these buffers
    load_checkpoint(backbone, read_tensors(files), spec, str(weights or f"https://huggingface.co/{spec.hub_id}"))
    return backbone, spec, files.version


def _random(spec: EncoderSpec, rng: int) -> Backbone:
    import torch

    from histocell.encoders.networks.build import build

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(rng)
        return build(spec)


def _from_timm(spec: EncoderSpec) -> Backbone:
    """A model that only timm knows how to find."""
    import timm

    from histocell.encoders.networks.backbone import as_backbone

    try:
        network = timm.create_model(spec.arch, pretrained=True, **{**spec.arch_kwargs, "num_classes": 0})
    except Exception as error:
        msg = (
            f"the weights of {spec.name!r} could not be downloaded or read ({error}). Give a local checkpoint with "
            'weights="model.safetensors", or use the built-in encoder "morphology", which needs none'
        )
        raise OSError(msg) from error
    return as_backbone(network, spec.pooling)


def _from_module(module: torch.nn.Module) -> tuple[Backbone, EncoderSpec, str]:
    from histocell.encoders.networks.backbone import TransformerBackbone, as_backbone
    from histocell.encoders.networks.weights import state_digest

    backbone = as_backbone(module)
    facts: dict[str, Any] = {}
    if config := getattr(module, "pretrained_cfg", None):
        facts = {name: tuple(config[name]) for name in ("mean", "std")} | {"input_px": config["input_size"][-1]}
    if isinstance(backbone, TransformerBackbone):  # it may have been built for another size
        facts |= {"input_px": int(backbone.trunk.patch_embed.img_size[0]), "prefix_tokens": backbone.prefix_tokens}
    spec = EncoderSpec(
        name=type(module).__name__,
        library="module",
        pooling=backbone.poolings[0],
        patch_px=backbone.patch_px,
        summary="a module of the user",
        **facts,
    )
    return backbone, spec, f"module-{state_digest(module)}"
