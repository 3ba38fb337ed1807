"""Parts of a training of an encoder: the encoder with adapters, the panel of genes, and the rows as arrays."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import torch

from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import warn
from histocell._core.settings import logger
from histocell.encoders.adapters import add_lora, check_licence
from histocell.encoders.networks.build import network_of_module, network_of_spec
from histocell.encoders.registry import get_spec
from histocell.models.finetuning.tower import ImageTower
from histocell.models.finetuning.trainer import TrainingData
from histocell.models.training import seeded
from histocell.tables.expression import choose_panel, read_expression
from histocell.tl._finetune.patches import patches_digest, read_patches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from peft import PeftModel

    from histocell._core.types import JSON
    from histocell.encoders.adapters import LoraReport
    from histocell.encoders.networks.backbone import Backbone
    from histocell.encoders.spec import EncoderSpec
    from histocell.models.finetuning.settings import FinetuneConfig
    from histocell.tables.expression import GenePanel
    from histocell.tl._finetune.rows import Member

_ARRAY = {"array_row", "array_col"}
_FREE = ("checkpoint_steps",)  # settings that the result does not depend on


class LoraSettings(TypedDict):
    """Settings of the updates, those of `histocell.encoders.adapters.add_lora`."""

    rank: int
    alpha: float
    dropout: float
    blocks: int
    targets: Sequence[str] | None


class Tuned(NamedTuple):
    """An encoder with adapters.

    Attributes
    ----------
    network
        Of peft.
    backbone
        The same without peft's wrapping.
    spec, version
        Its facts, and which weights it had.
    report
        What is trained.
    """

    network: PeftModel
    backbone: Backbone
    spec: EncoderSpec
    version: str
    report: LoraReport


def tune(
    encoder: str | torch.nn.Module,
    weights: str | PathLike[str] | None,
    lora: LoraSettings,
    *,
    seed: int,
    allow_restricted: bool,
) -> Tuned:
    """Load an encoder and put adapters into it."""
    if isinstance(encoder, str):
        spec = get_spec(encoder)
        if spec.library == "builtin":
            msg = f"{spec.name!r} is computed by formulas and has no weights to tune; name a vision transformer"
            raise ValueError(msg)
        check_licence(spec, allow_restricted=allow_restricted)
        backbone, spec, version = network_of_spec(spec, None if weights is None else str(weights), 0)
    elif hasattr(encoder, "forward") and not hasattr(encoder, "embed_chunks"):
        if weights is not None:
            msg = "a module has its weights already; load them into it and leave weights= out"
            raise ValueError(msg)
        backbone, spec, version = network_of_module(copy.deepcopy(encoder))  # the user's module stays as it is
    else:
        msg = f"encoder must be a name of hc.encoders.list_encoders() or a torch module, not {type(encoder).__name__}"
        raise TypeError(msg)
    with seeded(seed, torch.device("cpu")):
        network, report = add_lora(backbone, spec, **lora)
    return Tuned(network, backbone, spec, version, report)


def build_tower(
    tuned: Tuned, device: torch.device, *, pool: str | None, precision: str, checkpointing: bool
) -> ImageTower:
    """The encoder, ready to be trained on a device."""
    if precision not in ("auto", "fp32", "bf16"):
        msg = f"precision must be auto, fp32 or bf16, not {precision!r}; fp16 overflows in gradients"
        raise ValueError(msg)
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return ImageTower(
        tuned.backbone,
        tuned.spec,
        tuned.report.targets,
        pool=pool,
        device=device,
        bf16=bf16,
        checkpointing=checkpointing,
    )


def panel_of(
    members: Sequence[Member], genes: int | Sequence[str], *, layer: str | None, spot_context: bool | None
) -> GenePanel:
    """The genes, chosen by the training rows of all tables."""
    tables = [member.sections for member in members]
    if spot_context is None:
        spot_context = all(_ARRAY <= set(each.table.obs) for each in tables)
        logger.info("counts are %saveraged with those of neighbouring spots", "" if spot_context else "not ")
    rows = [member.rows(keys.TRAIN) for member in members]
    if isinstance(genes, str) or not isinstance(genes, int | np.integer):
        return choose_panel(tables, rows, genes=genes, layer=layer, spot_context=spot_context)
    wanted = check_count(genes, "genes", least=1)
    panel = choose_panel(tables, rows, genes=None, layer=layer, spot_context=spot_context)
    if len(panel) < wanted:
        warn(
            f"{len(panel)} genes are shared by all tables and counted in each section, so all of them are taken; {wanted} were asked for"
        )
    return panel.select(panel.genes[:wanted])


def training_data(
    members: Sequence[Member], panel: GenePanel, spec: EncoderSpec, *, layer: str | None, file: Path
) -> TrainingData:
    """Patches and expression of the rows for training and validation, member by member."""
    values = [read_expression(member.sections.table, panel, layer=layer, rows=member.used) for member in members]
    expression = np.concatenate(values)
    parts = np.concatenate([member.parts[member.used] for member in members])
    if not np.isfinite(expression).all():
        msg = f"expression is not finite in {int((~np.isfinite(expression)).any(axis=1).sum())} rows"
        raise ValueError(msg)
    patches = read_patches(members, spec, file)
    return TrainingData(patches, expression, np.flatnonzero(parts == keys.TRAIN), np.flatnonzero(parts == keys.VAL))


def identity_of(
    config: FinetuneConfig,
    tuned: Tuned,
    tower: ImageTower,
    panel: GenePanel,
    rows: TrainingData,
    lora: LoraSettings,
    seed: int,
) -> JSON:
    """All that the weights at the end depend on."""
    digest = hashlib.sha256(np.ascontiguousarray(rows.expression).tobytes())
    digest.update(rows.train.tobytes() + rows.val.tobytes() + "\0".join(panel.genes).encode())
    return {
        **{name: value for name, value in asdict(config).items() if name not in _FREE},
        **{name: value for name, value in lora.items() if name != "targets"},
        "layers": list(tuned.report.targets),
        "encoder": tuned.spec.name,
        "version": tuned.version,
        "base": tuned.network.base_digest,
        "pool": tower.pool,
        "bf16": tower.bf16,
        "device": tower.device.type,
        "seed": seed,
        "expression": digest.hexdigest()[:16],
        "patches": patches_digest(rows.patches),
    }
