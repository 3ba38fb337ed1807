"""Output on the console: warnings and errors as sentences, tables of slides."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

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
