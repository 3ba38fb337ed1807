"""Errors with what is missing and what to run, and warnings at the user's line."""

from __future__ import annotations

import errno
import importlib
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PACKAGE = str(Path(__file__).parent.parent)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside of histocell."""
    warnings.warn(message, category, skip_file_prefixes=(_PACKAGE,))  # noqa: TID251


def listing(names: Iterable[object], limit: int = 12) -> str:
    """Names for a message: the first few, then how many more."""
    words = [str(name) for name in names]
    shown = ", ".join(words[:limit]) or "none"
    return shown if len(words) <= limit else f"{shown} ... ({len(words)} in all)"


def missing_key(container: str, key: str, available: Iterable[object], hint: str = "") -> KeyError:
    """A `KeyError` that lists what exists and says what to run.

    Parameters
    ----------
    container
        The slot that was searched, for example ``"obsm"``.
    key
        The key that was not found.
    available
        The keys that are there.
    hint
        What to run, a whole sentence.
    """
    return MissingKeyError(f'{container}["{key}"] not found; available: {listing(available)}. {hint}'.rstrip())


class MissingKeyError(KeyError):
    """Something that was asked for by its name and is not there; unlike `KeyError` it prints its message as it is."""

    def __str__(self) -> str:
        return str(self.args[0])


def damaged(path: Path | str, reason: str, what: str = "the file") -> OSError:
    """The error for a file that is damaged."""
    return OSError(f"{path}: {what} is damaged or truncated ({reason}); copy or download it again")


@contextmanager
def reading(path: Path | str, what: str = "the file", *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into one `OSError` that names it. For calls of the library only.

    Errors of the file system, of memory and of the installation stay what they are.

    Parameters
    ----------
    path
        The file or folder.
    what
        The part of it that is read.
    passing
        More errors that stay what they are.
    """
    try:
        yield
    except Exception as error:
        is_of_system = isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}
        is_said = isinstance(error, OSError) and str(error).startswith(f"{path}: ")
        if is_of_system or is_said or isinstance(error, (ImportError, MemoryError, Warning, *passing)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise damaged(path, f"{type(error).__name__}: {reason}".removesuffix(": "), what) from error


def import_optional(module: str, extra: str) -> Any:
    """Import a package of an extra, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = f'{module} is needed for this: pip install "histocell[{extra}]"'
        raise ImportError(msg) from error
