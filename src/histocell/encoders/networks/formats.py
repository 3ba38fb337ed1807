"""Formats of checkpoints: the tensors of each, under the names that timm gives them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from histocell._core.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    type Tensors = dict[str, Tensor]

# Where training programs put the weights, and what they put before the names.
_WRAPPERS = ("teacher", "model", "state_dict", "model_state_dict", "ema")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "teacher.", "encoder.backbone.")
# Parts that no image embedding needs: heads of the training, and the text side of a pair.
EXTRAS = ("dino_head.", "ibot_head.", "dino_loss.", "ibot_patch_loss.", "head.", "fc.", "mask_token", "pooler.")
_TEXT = ("text.", "text_decoder.", "logit_scale", "logit_bias", "visual.attn_pool_caption.", "visual.ln_caption.")

_TRANSFORMERS = (
    (r"^(?:vit|dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(register_tokens|mask_token)$", r"\1"),
    (r"^(?:encoder\.layer|layers)\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.attn\.query\.", ".attn.q."),
    (r"\.attn\.key\.", ".attn.k."),
    (r"\.attn\.value\.", ".attn.v."),
)
_DINOV2 = ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."), (r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."))
_OPEN_CLIP = (
    (r"^conv1\.", "trunk.patch_embed.proj."),
    (r"^class_embedding$", "trunk.cls_token"),
    (r"^positional_embedding$", "trunk.pos_embed"),
    (r"^ln_pre\.", "trunk.norm_pre."),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"trunk.blocks.\1.norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"trunk.blocks.\1.attn.qkv."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"trunk.blocks.\1.attn.proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"trunk.blocks.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"trunk.blocks.\1.mlp.fc2."),
    (r"^attn_pool\.", "attn_pool_contrast."),
    (r"^ln_post\.", "ln_contrast."),
    (r"^proj$", "proj_contrast"),
)


def convert(checkpoint: object) -> tuple[Tensors, str]:
    """The tensors of a checkpoint under the names of our networks, and how its family resamples positions.

    Parameters
    ----------
    checkpoint
        What was read from the file: tensors by name, or what a training program wrapped around them, in the format of
        timm, of Meta's DINOv2, of ``ViTModel``, ``Dinov2Model`` or ``Dinov2WithRegistersModel`` of transformers, of
        CONCH or CONCH v1.5, or of a CoCa of open_clip.

    Returns
    -------
    Tensors as timm's networks, or :class:`histocell.encoders.networks.coca.CocaVision`, have them, and a `rule` of
    :func:`histocell.encoders.networks.checkpoints.resample_positions`.

    Raises
    ------
    ValueError
        When there is no dictionary of tensors in it.
    """
    state = _unwrapped(checkpoint)
    if any(".attn_pool" in f".{name}" for name in state):
        return _coca(state)
    rule = "bicubic-antialias"
    if any("embeddings.patch_embeddings." in name for name in state):
        state = _fused(_renamed(state, _TRANSFORMERS))
        rule = "bicubic-antialias" if "register_tokens" in state else "bicubic"
    state = _renamed(state, _DINOV2)
    if "register_tokens" in state:
        # timm adds no position to the class token of these networks, so it carries its own
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state, rule


def _renamed(state: Tensors, rules: Iterable[tuple[str, str]]) -> Tensors:
    out = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def _fused(state: Tensors) -> Tensors:
    """Query, key and value in one matrix; gate and value of a gated MLP in one matrix."""
    for parts, whole in ((("q", "k", "v"), "qkv"), (("gate_proj", "up_proj"), "fc1")):
        for name in [name for name in state if f".{parts[0]}." in name]:
            before, after = name.split(f".{parts[0]}.")
            names = [f"{before}.{part}.{after}" for part in parts]
            if all(part in state for part in names):
                state[f"{before}.{whole}.{after}"] = torch.cat([state.pop(part) for part in names])
    return state


def _unwrapped(checkpoint: object) -> Tensors:
    state = checkpoint
    while isinstance(state, dict) and not any(isinstance(value, torch.Tensor) for value in state.values()):
        inner = next((state[name] for name in _WRAPPERS if name in state), None)
        if inner is None:
            msg = f"there is no dictionary of tensors in it, but the entries {listing(state, 8)}"
            raise ValueError(msg)
        state = inner
    if not isinstance(state, dict):
        msg = f"there is no dictionary of tensors in it, but a {type(state).__name__}"
        raise ValueError(msg)
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    while prefix := next((p for p in _PREFIXES if any(name.startswith(p) for name in state)), None):
        # what does not carry the prefix belongs to the training: heads, losses, counters
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def _coca(state: Tensors) -> tuple[Tensors, str]:
    """The image side of a network with an attentional pooler."""
    state = {name: value for name, value in state.items() if not name.startswith(_TEXT)}
    state = {name.removeprefix("visual."): value for name, value in state.items()}
    if "class_embedding" in state:
        state = _renamed(state, _OPEN_CLIP)
        state["trunk.cls_token"] = state["trunk.cls_token"][None, None]
        state["trunk.pos_embed"] = state["trunk.pos_embed"][None]
        # queries do not see each other: the first alone makes the embedding, the others are for captions
        state["attn_pool_contrast.query"] = state["attn_pool_contrast.query"][:1]
        return state, "bicubic-antialias"
    pooler = "attn_pool_contrast."
    if f"{pooler}to_q.weight" not in state:
        return state, "bilinear"
    # CONCH v1.5: the same attention without biases
    query, out = state.pop(f"{pooler}to_q.weight"), state.pop(f"{pooler}to_out.weight")
    key, value = state.pop(f"{pooler}to_kv.weight").chunk(2)
    parts = {"q_proj_weight": query, "k_proj_weight": key, "v_proj_weight": value, "out_proj.weight": out}
    parts |= {"in_proj_bias": query.new_zeros(3 * len(query)), "out_proj.bias": out.new_zeros(len(out))}
    return state | {f"{pooler}attn.{name}": tensor for name, tensor in parts.items()}, "bicubic-offset"
