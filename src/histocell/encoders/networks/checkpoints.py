"""Checkpoints: their tensors under the names that timm gives them, and their strict loading into a network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from histocell._core.errors import listing
from histocell.encoders.networks.backbone import AveragedFeatures, Backbone, CocaVision, TransformerBackbone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from histocell.encoders.spec import EncoderSpec

    type Tensors = dict[str, Tensor]

# Where training programs put the weights, and what they put before the names.
_WRAPPERS = ("teacher", "model", "state_dict", "model_state_dict", "ema")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "teacher.", "encoder.backbone.")
# Parts that no image embedding needs: heads of the training, and the text side of a pair.
_EXTRAS = ("dino_head.", "ibot_head.", "dino_loss.", "ibot_patch_loss.", "head.", "fc.", "mask_token", "pooler.")
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
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(?:intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(?:output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
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


def load_checkpoint(backbone: Backbone, checkpoint: object, spec: EncoderSpec, source: str) -> None:
    """Load the tensors of a checkpoint into a network; all must fit.

    Parameters
    ----------
    backbone
        From :func:`histocell.encoders.networks.build.build`; it may be on the meta device.
    checkpoint
        Content of the file, in any of the formats that :func:`convert` knows.
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
    expected = target.state_dict()
    if isinstance(backbone, AveragedFeatures):  # the checkpoint is of the whole network
        parts = {name.partition(".")[0] for name in expected}
        state = {name: value for name, value in state.items() if name.partition(".")[0] in parts}
    state = {name: value for name, value in state.items() if name in expected or not name.startswith(_EXTRAS)}
    positions = "trunk.pos_embed" if isinstance(backbone, CocaVision) else "pos_embed"
    if isinstance(backbone, TransformerBackbone) and positions in state and positions in expected:
        trunk = backbone.trunk
        prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        state[positions] = resample_positions(
            state[positions], grid=trunk.patch_embed.grid_size, prefix=prefix, rule=rule
        )
    _check_fit(state, expected, spec, source)
    target.load_state_dict(state, strict=True, assign=True)
    backbone.float()


def _check_fit(state: Tensors, expected: Mapping[str, Tensor], spec: EncoderSpec, source: str) -> None:
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": shapes,
    }
    described = "; ".join(f"{problem}: {listing(names, 3)}" for problem, names in problems.items() if names)
    if described:
        msg = (
            f"{source} does not hold the weights of {spec.name!r}, which is {spec.arch}{_sizes(state)}. "
            f"Tensors {described}"
        )
        raise ValueError(msg)


def _sizes(state: Tensors) -> str:
    """Depth, width and token size of the vision transformer that the tensors belong to, for messages."""
    kernel = next((v for name, v in state.items() if name.endswith("patch_embed.proj.weight") and v.ndim == 4), None)
    if kernel is None:
        return ""
    depth = len({name.partition("blocks.")[2].partition(".")[0] for name in state if "blocks." in name})
    return f"; it holds a transformer of {depth} blocks, {kernel.shape[0]} wide, with tokens of {kernel.shape[-1]} px"


def resample_positions(
    positions: Tensor, *, grid: tuple[int, int], prefix: int, rule: str = "bicubic-antialias"
) -> Tensor:
    """Position embeddings for another grid of tokens.

    Parameters
    ----------
    positions
        Shape ``(1, prefix + n, width)``, of a square grid.
    grid
        Rows and columns that are wanted.
    prefix
        Positions of tokens before the patch tokens; they stay.
    rule
        As each family does it: ``"bicubic-antialias"`` (timm; DINOv2 with registers in transformers), ``"bicubic"``
        (ViT and DINOv2 in transformers), ``"bilinear"`` (CONCH), ``"bicubic-offset"`` (CONCH v1.5: DINO's rule, with
        0.1 added to the size).
    """
    head, body = positions[:, :prefix], positions[:, prefix:]
    side = round(body.shape[1] ** 0.5)
    if (side, side) == grid or side**2 != body.shape[1]:
        return positions
    body = body.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    mode, _, extra = rule.partition("-")
    if extra == "offset":
        factors = [(length + 0.1) / side for length in grid]
        body = functional.interpolate(body, scale_factor=factors, mode=mode)
    else:
        body = functional.interpolate(body, grid, mode=mode, antialias=extra == "antialias")
    return torch.cat([head, body.flatten(2).transpose(1, 2).to(head.dtype)], dim=1)


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
    Tensors as timm's networks, or :class:`CocaVision`, have them, and a `rule` of :func:`resample_positions`.

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
    state = {name.removeprefix("visual."): value for name, value in state.items() if not name.startswith(_TEXT)}
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
