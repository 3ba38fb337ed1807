"""Tables of the encoders: all of them, or one with the way to its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table

import histocell as hc

if TYPE_CHECKING:
    from histocell.encoders import EncoderSpec


def encoder_table() -> Table:
    """All encoders, one per row."""
    names, licence = Column("name", no_wrap=True), Column("licence", overflow="fold")
    grid = Table(names, "dim", "um/px", "px", "commercial", "gated", licence)
    for key in hc.encoders.list_encoders().index:
        spec = hc.encoders.get_spec(key)
        grid.add_row(
            spec.name,
            str(spec.dim or ""),
            f"{spec.mpp:g}",
            str(spec.input_px),
            yes_no(spec.commercial),
            yes_no(spec.gated),
            spec.license,
        )
    return grid


def encoder_facts(spec: EncoderSpec) -> Table:
    """All that is known of an encoder."""
    facts = {
        "what": spec.summary,
        "embedding": f"{spec.dim or ''} {spec.pooling}".strip(),
        "input": f"{spec.input_px} px of {spec.mpp:g} um ({spec.input_px * spec.mpp:g} um)",
        "tokens": f"{spec.grid[0]} x {spec.grid[1]} of {spec.patch_px} px" if spec.grid else "none",
        "parameters": f"{spec.params:g} million" if spec.params else "",
        "precision": spec.precision,
        "licence": spec.license,
        "commercial use": yes_no(spec.commercial),
        "publication": spec.citation,
        "weights": where_weights(spec),
    }
    grid = Table(show_header=False, title=spec.name)
    for fact, value in facts.items():
        if value.strip():
            grid.add_row(fact, value)
    return grid


def yes_no(value: bool | None) -> str:
    """A fact that may not be known."""
    return {True: "yes", False: "no", None: "not known"}[value]


def where_weights(spec: EncoderSpec) -> str:
    """How to get the weights."""
    if spec.library == "builtin":
        return "none needed"
    if not spec.hub_id:
        return "downloaded by the library on first use, or --weights FILE"
    page = f"https://huggingface.co/{spec.hub_id}"
    if spec.gated:
        return f"ask for access at {page}, then run `hf auth login` or set HF_TOKEN; or --weights FILE"
    return f"downloaded from {page} on first use; without a network --weights FILE"
