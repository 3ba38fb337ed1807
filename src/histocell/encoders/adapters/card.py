"""The model card of an adapter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histocell._core.types import JSON
    from histocell.encoders.spec import EncoderSpec

_FREE = {"Apache-2.0": "apache-2.0", "MIT": "mit", "BSD-3-Clause": "bsd-3-clause"}


def model_card(record: JSON, spec: EncoderSpec) -> str:
    """What an adapter is, how it is loaded, what it was trained on and what its licence is.

    Parameters
    ----------
    record
        Content of ``histocell.json``.
    spec
        The base encoder.
    """
    base, metadata = record["base"], record["metadata"]
    head = {
        "library_name": "peft",
        "base_model": spec.hub_id or spec.name,
        "license": _FREE.get(spec.license, "other"),
        "tags": "[histopathology, lora, histocell]",
    }
    front = "".join(f"{key}: {value}\n" for key, value in head.items())
    lines = {
        "encoder": f"{spec.name} ({spec.arch})",
        "version of its weights": f"{base['version'] or 'not recorded'} (checksum {base['digest']})",
        "input": f"{spec.input_px} px of {spec.mpp:g} um, mean {spec.mean}, deviation {spec.std}",
        "embedding": f"{spec.pooling}, {spec.dim or 'as the network gives it'}",
        "trained parameters": f"{record['trainable_parameters']:,}",
    }
    return (
        f"---\n{front}---\n\n# {record['name']}\n\n"
        f"A low-rank adapter (LoRA) of the image encoder `{spec.name}`, written by histocell {record['histocell']}. "
        "It holds the updates only, not the weights of the encoder.\n\n"
        "```python\nimport histocell as hc\n\n"
        'encoder = hc.encoders.register_adapter("path/to/this/folder")\n'
        "hc.pp.embed_image(sdata, encoder)\n```\n"
        f"\n## Base\n{_bullets(lines)}"
        f"\n## Training\n{_bullets({key: _short(value) for key, value in metadata.items()}) or 'Not recorded.'}"
        f"\n## Licence and limits\n{_licence(spec)}\n\n"
        "Research use only, not a medical device. Tuned embeddings help on tissue, stain and scanner like those of the "
        "training, if at all: compare them with the base on patients of your own first.\n"
    )


def _licence(spec: EncoderSpec) -> str:
    if not spec.license:
        return f"The licence of `{spec.name}` is not known. Ask before you pass this adapter on."
    text = f"The licence of the base, {spec.license}, holds for this adapter, too."
    if spec.forbids_derivatives:
        return f"{text} It does not allow to pass on derivatives: this folder stays with whoever has the permission."
    return text if spec.commercial else f"{text} Commercial use is not allowed."


def _bullets(lines: JSON) -> str:
    return "".join(f"* {key}: {value}\n" for key, value in lines.items())


def _short(value: object) -> str:
    """A value in one line, long lists by their beginning and length."""
    if isinstance(value, list) and len(value) > 8:
        return f"{', '.join(map(str, value[:5]))} ... ({len(value)} in all)"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_short(item)}" for key, item in value.items())
    return re.sub(r"\s+", " ", str(value))
