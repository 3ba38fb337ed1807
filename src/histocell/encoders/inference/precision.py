"""Precision of a network: the floating-point format of its computations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from histocell.encoders.spec import EncoderSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_precision(asked: str, spec: EncoderSpec, device: torch.device) -> str:
    """``"fp32"``, ``"bf16"`` or ``"fp16"``.

    Parameters
    ----------
    asked
        One of them, or ``"auto"``: on a GPU the usual precision of the encoder; on a processor bf16 in place of a half
        precision where it has instructions for it, else fp32.
    spec
        The encoder.
    device
        Where it runs.
    """
    if asked != "auto":
        if asked not in DTYPES:
            msg = f"precision must be auto, {', '.join(DTYPES)}, not {asked!r}"
            raise ValueError(msg)
        return asked
    if spec.precision == "fp32":
        return "fp32"
    if device.type == "cuda":
        return "fp16" if spec.precision == "bf16" and not torch.cuda.is_bf16_supported() else spec.precision
    return "bf16" if device.type == "cpu" and processor_has_bf16() else "fp32"


def processor_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices faster than fp32 ones (AMX or AVX512-bf16)."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and any(
        getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
