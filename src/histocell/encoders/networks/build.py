"""Networks of encoders with their weights, built from specs or taken from modules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from histocell.encoders.networks.backbone import (
    AveragedFeatures,
    Backbone,
    CocaVision,
    TransformerBackbone,
    as_backbone,
)
from histocell.encoders.networks.checkpoints import load_checkpoint
from histocell.encoders.networks.code import code_digest
from histocell.encoders.networks.weights import hub_weights, local_weights, read_tensors, state_digest
from histocell.encoders.spec import EncoderSpec

if TYPE_CHECKING:
    from pathlib import Path

    from timm.models.vision_transformer import VisionTransformer

_MAX_DEPTH = 1000


def network_of_spec(spec: EncoderSpec, weights: str | Path | None, rng: int) -> tuple[Backbone, EncoderSpec, str]:
    """The network of an encoder with its weights, the spec with the sizes that came with them, and their version.

    Parameters
    ----------
    spec
        The encoder.
    weights, rng
        As in :func:`histocell.encoders.load`.
    """
    if spec.adapter is None:
        return _network(spec, weights, rng)
    from histocell.encoders.adapters.tuned import random_seed, with_adapter

    if weights is None and (seed := random_seed(spec.adapter.base_version)) is not None:
        weights, rng = "random", seed
    return with_adapter(*_network(spec, weights, rng))


def _network(spec: EncoderSpec, weights: str | Path | None, rng: int) -> tuple[Backbone, EncoderSpec, str]:
    if spec.library == "lazyslide":
        from histocell.encoders.networks.lazyslide import load_lazyslide

        return load_lazyslide(spec, weights)
    if weights == "random":
        return _random(spec, rng), spec, f"random-{rng}"
    if weights is None and not spec.hub_id:
        return _from_timm(spec), spec, spec.revision
    files = hub_weights(spec) if weights is None else local_weights(weights, spec)
    try:
        spec = spec_from_config(spec, files.config)
        with torch.device("meta"):
            backbone = build(spec)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError) as error:
        if not files.config:
            raise
        msg = (
            f"config.json beside {str(files.files[0])!r} describes no network that can be built "
            f"({type(error).__name__}: {str(error)[:300]}); was it changed? Download it again"
        )
        raise ValueError(msg) from error
    if not {name for name, _ in backbone.named_buffers()} <= set(backbone.state_dict()):
        backbone = _random(spec, 0)  # checkpoints hold no values for these buffers
    load_checkpoint(backbone, read_tensors(files), spec, str(weights or f"https://huggingface.co/{spec.hub_id}"))
    return backbone, spec, files.version


def network_of_module(module: nn.Module) -> tuple[Backbone, EncoderSpec, str]:
    """A module of the user as the network of an encoder, its spec and its version.

    Parameters
    ----------
    module
        As in :func:`histocell.encoders.load`.
    """
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
    return backbone, spec, f"module-{state_digest(module)}-{code_digest(module)}"


def _random(spec: EncoderSpec, rng: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(rng)
        return build(spec)


def _from_timm(spec: EncoderSpec) -> Backbone:
    """A model that only timm knows how to find."""
    import timm

    try:
        network = timm.create_model(spec.arch, pretrained=True, **{**spec.arch_kwargs, "num_classes": 0})
    except Exception as error:
        msg = (
            f"the weights of {spec.name!r} could not be downloaded or read ({error}). Give a local checkpoint with "
            'weights="model.safetensors", or use the built-in encoder "morphology", which needs none'
        )
        raise OSError(msg) from error
    return as_backbone(network, spec.pooling)


def spec_from_config(spec: EncoderSpec, config: dict[str, Any]) -> EncoderSpec:
    """The spec of an encoder with the sizes that a ``config.json`` gives.

    Parameters
    ----------
    spec
        The encoder.
    config
        Of CONCH or open_clip (``vision_cfg``), of transformers (``hidden_size``), or of timm (``model_args``); anything
        else changes nothing.
    """
    if "vision_cfg" in config:
        sizes = config["vision_cfg"]
        width = sizes.get("width", 768)
        arguments: dict[str, Any] = {
            "img_size": sizes["image_size"],
            "patch_size": sizes.get("patch_size", 16),
            "embed_dim": width,
            "depth": sizes.get("layers", 12),
            "num_heads": sizes.get("num_heads", width // sizes.get("head_width", 64)),
            "mlp_ratio": sizes.get("mlp_ratio", 4),
        }
        changes = {"dim": config["embed_dim"], "input_px": sizes["image_size"]}
    elif "hidden_size" in config:
        width, image = config["hidden_size"], config["image_size"]
        # registers are a field of checkpoints that have them; ViTModel has no layer scale
        registers = config.get("num_register_tokens", 0)
        hidden = config.get("intermediate_size", width * config.get("mlp_ratio", 4))
        arguments = {
            "img_size": min(spec.input_px, image),
            "patch_size": config["patch_size"],
            "embed_dim": width,
            "depth": config["num_hidden_layers"],
            "num_heads": config["num_attention_heads"],
            "mlp_ratio": hidden / width,
            "qkv_bias": config.get("qkv_bias", True),
            "norm_eps": config.get("layer_norm_eps", 1e-6),
            "init_values": 1.0 if "layerscale_value" in config else None,
            "reg_tokens": registers,
            "no_embed_class": registers > 0,
            "mlp_layer": "Mlp",
            "act_layer": config.get("hidden_act", "gelu"),
        }
        if config.get("use_swiglu_ffn"):
            # two thirds of the width, rounded up to a multiple of 8, twice
            half = (int(int(width * config.get("mlp_ratio", 4)) * 2 / 3) + 7) // 8 * 8
            arguments |= {"mlp_ratio": 2 * half / width, "mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
        changes = {
            "dim": width * (2 if spec.pooling == "cls_mean" else 1),
            "input_px": arguments["img_size"],
            "prefix_tokens": 1 + registers,
        }
    else:
        arguments = {k: v for k, v in config.get("model_args", {}).items() if k not in ("img_size", "num_classes")}
        _check_depth(arguments)
        return replace(spec, arch_kwargs={**spec.arch_kwargs, **arguments})
    _check_depth(arguments)
    changes |= {"patch_px": arguments["patch_size"], "params": None}
    return replace(spec, arch_kwargs={**spec.arch_kwargs, **arguments}, **changes)


def _check_depth(arguments: dict[str, Any]) -> None:
    """Refuse a number of blocks that would be built without end."""
    depth = arguments.get("depth", 1)
    if isinstance(depth, int | float) and not 1 <= depth <= _MAX_DEPTH:
        msg = f"the network has {depth} blocks"
        raise ValueError(msg)


def build(spec: EncoderSpec) -> Backbone:
    """The network of an encoder, with the initial weights of its library, on torch's present device.

    Parameters
    ----------
    spec
        An encoder that timm builds, alone or as the trunk of :class:`CocaVision`.
    """
    import timm

    arguments = dict(spec.arch_kwargs)
    projected = arguments.pop("projected", True)
    if isinstance(layer := arguments.get("mlp_layer"), str):
        arguments["mlp_layer"] = getattr(timm.layers, layer)
    if (eps := arguments.pop("norm_eps", None)) is not None:
        arguments["norm_layer"] = partial(nn.LayerNorm, eps=eps)
    if not arguments.get("features_only"):
        arguments["num_classes"] = 0
    try:
        network = timm.create_model(spec.arch, pretrained=False, **arguments)
    except (TypeError, ValueError, ArithmeticError) as error:  # depth=nan, img_size="224"
        msg = f"{spec.name!r}: timm cannot build {spec.arch!r} with {arguments}: {error}"
        raise ValueError(msg) from error
    if spec.library == "coca":
        if spec.dim is None:
            msg = f"the spec of {spec.name!r} needs dim, the width of its attentional pooler"
            raise ValueError(msg)
        trunk = cast("VisionTransformer", network)
        return CocaVision(trunk, spec.dim, projected=projected, pooling=spec.pooling)
    return AveragedFeatures(network) if arguments.get("features_only") else as_backbone(network, spec.pooling)
