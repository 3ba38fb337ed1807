"""From a name or a module to an encoder that embeds patches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from histocell.encoders.registry import get_spec
from histocell.encoders.spec import Encoder, EncoderSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

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
    """
    if not isinstance(encoder, str):
        if weights is not None:
            msg = "a module has its weights already; load them into it and leave weights= out"
            raise ValueError(msg)
        backbone, spec, version = _from_module(encoder)
    else:
        spec = get_spec(encoder)
        if spec.library == "builtin":
            if weights is not None or pool is not None:
                msg = f"the built-in encoder {spec.name!r} has no weights and no tokens; leave weights= and pool= out"
                raise ValueError(msg)
            from histocell.encoders.morphology.encoder import Morphology

            return Morphology()
        if spec.library == "lazyslide":
            from histocell.encoders.networks.lazyslide import load_lazyslide

            backbone, spec, version = load_lazyslide(spec, weights)
        elif weights == "random":
            backbone, version = _random(spec, rng), f"random-{rng}"
        elif weights is None and not spec.hub_id:
            backbone, version = _from_timm(spec), spec.revision
        else:
            backbone, spec, version = _from_weights(spec, weights)
    from histocell.encoders.inference.patch_encoder import PatchEncoder

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


def _from_weights(spec: EncoderSpec, weights: str | Path | None) -> tuple[Backbone, EncoderSpec, str]:
    import torch

    from histocell.encoders.networks.build import build, configured, fill
    from histocell.encoders.networks.weights import hub_weights, local_weights, read_tensors

    found = hub_weights(spec) if weights is None else local_weights(weights, spec)
    spec = configured(spec, found.config)
    with torch.device("meta"):
        backbone = build(spec)
    if _unsaved_buffers(backbone):  # nothing would fill these
        backbone = _random(spec, 0)
    fill(backbone, read_tensors(found), spec, str(weights or f"https://huggingface.co/{spec.hub_id}"))
    return backbone, spec, found.version


def _unsaved_buffers(backbone: Backbone) -> bool:
    return not {name for name, _ in backbone.named_buffers()} <= set(backbone.state_dict())


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
    from histocell.encoders.networks.backbone import as_backbone
    from histocell.encoders.networks.weights import state_digest

    backbone = as_backbone(module)
    facts: dict[str, Any] = {}
    if config := getattr(module, "pretrained_cfg", None):
        facts = {name: tuple(config[name]) for name in ("mean", "std")} | {"input_px": config["input_size"][-1]}
    spec = EncoderSpec(
        name=type(module).__name__,
        library="module",
        pooling=backbone.poolings[0],
        patch_px=backbone.patch_px,
        prefix_tokens=getattr(backbone, "prefix_tokens", 0),
        summary="a module of the user",
        **facts,
    )
    if backbone.patch_px is not None:  # a transformer may have been built for another size
        trunk: Any = backbone.trunk
        spec = replace(spec, input_px=int(trunk.patch_embed.img_size[0]))
    return backbone, spec, f"module-{state_digest(module)}"
