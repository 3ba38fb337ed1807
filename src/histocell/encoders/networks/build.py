"""From the facts about an encoder to its network, and tensors into it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from histocell._core.errors import listing
from histocell.encoders.networks.backbone import Backbone, as_backbone
from histocell.encoders.networks.checkpoints import EXTRAS, convert, resample_positions
from histocell.encoders.networks.coca import CocaVision

if TYPE_CHECKING:
    from histocell.encoders.spec import EncoderSpec


def configured(spec: EncoderSpec, config: dict[str, Any]) -> EncoderSpec:
    """The facts of an encoder with the sizes that a ``config.json`` gives.

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
        return replace(spec, arch_kwargs={**spec.arch_kwargs, **arguments})
    changes |= {"patch_px": arguments["patch_size"], "params": None}
    return replace(spec, arch_kwargs={**spec.arch_kwargs, **arguments}, **changes)


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
    network = timm.create_model(spec.arch, pretrained=False, **arguments)
    if spec.library == "coca":
        if spec.dim is None:
            msg = f"the spec of {spec.name!r} needs dim, the width of its attentional pooler"
            raise ValueError(msg)
        return CocaVision(network, spec.dim, projected=projected, pooling=spec.pooling)
    return Backbone(AveragedMap(network)) if arguments.get("features_only") else as_backbone(network, spec.pooling)


class AveragedMap(nn.Module):
    """The last feature map of a network of timm, averaged over its area.

    Parameters
    ----------
    network
        Made with ``features_only=True``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Shape ``(n, channels)``."""
        return self.network(images)[-1].mean(dim=(2, 3))


def fill(backbone: Backbone, checkpoint: Any, spec: EncoderSpec, source: str) -> None:
    """Put the tensors of a checkpoint in the place of those of a network; all must fit.

    Parameters
    ----------
    backbone
        From :func:`build`; it may be on the meta device.
    checkpoint
        What the file holds, in any of the formats of :mod:`histocell.encoders.networks.checkpoints`.
    spec
        The encoder.
    source
        Where the tensors come from, for messages.

    Raises
    ------
    ValueError
        When names or shapes differ; the message says which.
    """
    try:
        state, rule = convert(checkpoint)
    except ValueError as error:
        msg = f"{source} holds no weights: {error}"
        raise ValueError(msg) from error
    target = backbone if isinstance(backbone, CocaVision) else backbone.trunk
    if isinstance(target, AveragedMap):
        target = target.network
        kept = {name.partition(".")[0] for name in target.state_dict()}
        state = {name: value for name, value in state.items() if name.partition(".")[0] in kept}
    wanted = target.state_dict()
    state = {name: value for name, value in state.items() if name in wanted or not name.startswith(EXTRAS)}
    positions = next((name for name in ("pos_embed", "trunk.pos_embed") if name in state and name in wanted), None)
    if positions is not None and state[positions].shape != wanted[positions].shape:
        trunk: Any = backbone.trunk
        prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        state[positions] = resample_positions(
            state[positions], grid=trunk.patch_embed.grid_size, prefix=prefix, rule=rule
        )
    _check_fit(state, wanted, spec, source)
    target.load_state_dict(state, strict=True, assign=True)
    backbone.float()


def _check_fit(state: dict[str, torch.Tensor], wanted: dict[str, Any], spec: EncoderSpec, source: str) -> None:
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    found = "; ".join(f"{what}: {listing(names, 3)}" for what, names in problems if names)
    if found:
        msg = (
            f"{source} does not hold the weights of {spec.name!r}, which is {spec.arch}{_sizes(state)}. Tensors {found}"
        )
        raise ValueError(msg)


def _sizes(state: dict[str, torch.Tensor]) -> str:
    """What vision transformer the tensors belong to, for messages."""
    kernel = next((v for name, v in state.items() if name.endswith("patch_embed.proj.weight") and v.ndim == 4), None)
    if kernel is None:
        return ""
    depth = len({name.partition("blocks.")[2].partition(".")[0] for name in state if "blocks." in name})
    return f"; it holds a transformer of {depth} blocks, {kernel.shape[0]} wide, with tokens of {kernel.shape[-1]} px"
