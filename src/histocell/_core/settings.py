"""Settings of the session, the logger and progress bars."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from io import TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from IPython.display import DisplayHandle

logger = logging.getLogger("histocell")


def _default_data_dir() -> Path:
    if path := os.environ.get("HISTOCELL_DATA_DIR"):
        return Path(path)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "histocell"


@dataclass(slots=True)
class Settings:
    """Settings of the session, ``hc.settings``.

    Attributes
    ----------
    progress
        Whether long work shows progress bars. From the environment variable ``HISTOCELL_PROGRESS``, else on.
    device
        The torch device that ``device=None`` means; `None` picks the best there is.
    data_dir
        Where datasets are looked for and downloaded to, a path. From ``HISTOCELL_DATA_DIR``, else the user's cache folder.
    """

    progress: bool = field(default_factory=lambda: os.environ.get("HISTOCELL_PROGRESS", "1") not in {"0", "false", ""})
    device: str | None = None
    data_dir: Path = field(default_factory=_default_data_dir)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, Path(value).expanduser() if name == "data_dir" else value)  # type: ignore[arg-type]


settings = Settings()


class Progress(Protocol):
    """A bar that is told how much was done, such as tqdm's."""

    def update(self, n: float | None = 1, /) -> object:
        """Advance the bar by `n`."""


class NotebookLine(TextIOBase):
    """A line in the output of a notebook cell, which a bar writes anew; what it clears is not in the saved notebook, either.

    The widgets of ``tqdm.auto`` leave the text of their last change in the file, such as a bar at 80 %.
    """

    encoding = "utf-8"  # bars are drawn with blocks

    def __init__(self) -> None:
        self._output: DisplayHandle | None = None

    def write(self, text: str) -> int:
        """Show what follows a carriage return; all else moves the cursor of a terminal."""
        from IPython.display import display

        line = text.strip()
        content = {"text/plain": line}
        if text.startswith("\r") and self._output is not None:
            self._output.update(content, raw=True)
        elif text.startswith("\r") and line:
            self._output = display(content, raw=True, display_id=True)
        return len(text)


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def progress_bar(
    iterable: Iterable[object] | None = None, *, total: int | None = None, desc: str = "", unit: str = "it"
) -> Any:
    """A tqdm bar that ``hc.settings.progress`` switches and that appears only on work of over two seconds."""
    from tqdm import tqdm

    return tqdm(
        iterable,
        file=NotebookLine() if _in_notebook() else None,
        total=total,
        desc=desc,
        unit=unit,
        disable=not settings.progress,
        delay=2,
        leave=False,
        dynamic_ncols=True,
    )
