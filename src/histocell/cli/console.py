"""Output on the console: warnings and errors as sentences, tables of slides and of encoders."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import histocell as hc

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from histocell.encoders import EncoderSpec

console = Console()


@contextmanager
def sentences() -> Iterator[None]:
    """Warnings and errors without lines of code; an error exits with status 2."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: console.print(f"Note: {message}.", markup=False)
        warnings.filterwarnings("ignore", r"\d+ of \d+ slides failed")  # the table says so
        try:
            yield
        except (ValueError, LookupError, OSError, ImportError) as error:
            console.print(f"Error: {sentence(error)}", markup=False)
            raise typer.Exit(2) from error


def sentence(error: Exception) -> object:
    """The message of an error; that of a plain `KeyError` would be quoted."""
    return error.args[0] if isinstance(error, LookupError) and error.args else error


def report_slides(report: pd.DataFrame, out: Path) -> None:
    """A table of what was done; exits with status 1 where a slide failed."""
    grid = Table("slide", "status", "tiles", "seconds", "error")
    for row in report.to_dict("records"):
        name, seconds = Path(row["path"]).name, f"{row['seconds']:.1f}"
        grid.add_row(name, row["status"], str(row["n_tiles"]), seconds, escape(row["error"]))
    console.print(grid)
    failed = int((report["status"] == "failed").sum())
    console.print(f"{len(report) - failed} of {len(report)} slides are in {out}/.")
    if failed:
        raise typer.Exit(1)


def encoder_table() -> Table:
    """All encoders, one per row."""
    names, licence = Column("name", no_wrap=True), Column("licence", overflow="fold")
    grid = Table(names, "dim", "um/px", "px", "commercial", "gated", licence)
    for spec in map(hc.encoders.get_spec, hc.encoders.list_encoders().index):
        use = [_yes_no(spec.commercial), _yes_no(spec.gated), spec.license]
        grid.add_row(spec.name, str(spec.dim or ""), f"{spec.mpp:g}", str(spec.input_px), *use)
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
        "commercial use": _yes_no(spec.commercial),
        "publication": spec.citation,
        "weights": _where_weights(spec),
    }
    grid = Table(show_header=False, title=spec.name)
    for fact, value in facts.items():
        if value.strip():
            grid.add_row(fact, value)
    return grid


def _yes_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known"}[value]


def _where_weights(spec: EncoderSpec) -> str:
    """How to get the weights."""
    if spec.library == "builtin":
        return "none needed"
    if not spec.hub_id:
        return "downloaded by the library on first use, or --weights FILE"
    page = f"https://huggingface.co/{spec.hub_id}"
    if spec.gated:
        return f"ask for access at {page}, then run `hf auth login` or set HF_TOKEN; or --weights FILE"
    return f"downloaded from {page} on first use; without a network --weights FILE"
