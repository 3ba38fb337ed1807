"""The command line: ``histocell demo``, ``embed``, ``predict`` and ``encoders``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell.cli.signals import end_at_a_signal

if TYPE_CHECKING:
    import typer

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; Ctrl-C ends it from here on, also while it is still importing."""
    with end_at_a_signal():
        from histocell.cli.commands import app

        app()


def __getattr__(name: str) -> typer.Typer:
    if name != "app":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from histocell.cli.commands import app

    return app
