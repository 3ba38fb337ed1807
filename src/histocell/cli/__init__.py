"""The command line: ``histocell demo``, ``embed``, ``predict`` and ``encoders``."""

from histocell.cli.commands import app

__all__ = ["app"]
