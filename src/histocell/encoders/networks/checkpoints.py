"""Loading of a checkpoint into a network, strictly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from histocell._core.errors import listing
from histocell.encoders.networks.backbone import AveragedFeatures, Backbone, TransformerBackbone
from histocell.encoders.networks.coca import CocaVision
from histocell.encoders.networks.formats import EXTRAS, convert

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from histocell.encoders.networks.formats import Tensors
    from histocell.encoders.spec import EncoderSpec


def load_checkpoint(backbone: Backbone, checkpoint: object, spec: EncoderSpec, source: str) -> None:
    """Load the tensors of a checkpoint into a network; all must fit.

    Parameters
    ----------
    backbone
        From :func:`histocell.encoders.networks.build.build`; it may be on the meta device.
    checkpoint
        Content of the file, in any of the formats of :mod:`histocell.encoders.networks.formats`.
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
    state = {name: value for name, value in state.items() if name in expected or not name.startswith(EXTRAS)}
    positions = next((name for name in ("pos_embed", "trunk.pos_embed") if name in state and name in expected), None)
    if positions and isinstance(backbone, TransformerBackbone) and state[positions].shape != expected[positions].shape:
        trunk = backbone.trunk
        prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        grid = trunk.patch_embed.grid_size
        state[positions] = resample_positions(state[positions], grid=grid, prefix=prefix, rule=rule)
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
