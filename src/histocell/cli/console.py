"""Output on the console: warnings and errors as sentences, tables of slides and of encoders."""

from __future__ import annotations

import os
import re
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import histocell as hc
from histocell.cli.signals import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from histocell.encoders import EncoderSpec

console, complaints = Console(), Console(stderr=True)


@contextmanager
def sentences(options: Iterable[str]) -> Iterator[None]:
    """Warnings and errors as one line each, in the words of the `options`; an error exits with status 2.

    Errors of other kinds are faults of the program and keep their traceback. ``HISTOCELL_DEBUG=1`` shows all of them.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(in_options(f"Note: {message}.", options))
        warnings.filterwarnings("ignore", r"\d+ of \d+ slides failed")  # the table says so
        try:
            yield
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            if os.environ.get("HISTOCELL_DEBUG") or not isinstance(error, _OF_INPUT) and not _is_ours(error):
                raise
            where = "" if _is_ours(error) else " (HISTOCELL_DEBUG=1 shows where)"
            _say(in_options(f"Error: {sentence(error)}{where}", options))
            raise typer.Exit(2) from error


_OF_INPUT = (ValueError, LookupError, OSError, ImportError)


def _is_ours(error: Exception) -> bool:
    """Whether histocell itself raised an error of a built-in kind, so that its message is meant for the user."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    meant = isinstance(error, (*_OF_INPUT, TypeError, RuntimeError))
    return meant and Path(frame.filename).is_relative_to(Path(hc.__file__).parent)


def _say(text: str) -> None:
    """One line on stderr."""
    complaints.print(" ".join(text.split()), markup=False, highlight=False, soft_wrap=True)


def in_options(text: str, options: Iterable[str]) -> str:
    """A message of the library in the words of a command: ``--size-um`` for ``size_um=``; calls stay as they are."""
    argument = re.compile(rf"(?<![\w.])({'|'.join(options)})=(?:True\b)?(?=(\S?))")

    def option(found: re.Match[str]) -> str:
        """With a space before its value."""
        return "--" + found[1].replace("_", "-") + (" " if re.match(r"[^\s,;:.)]", found[2]) else "")

    parts = re.split(r"(\bhc\.[\w.]+\([^)]*\))", text)
    return "".join(part if part.startswith("hc.") else argument.sub(option, part) for part in parts)


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
        "adapter": ""
        if spec.adapter is None
        else f"{spec.adapter.digest} on {spec.adapter.base}, {spec.adapter.folder}",
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
