"""Names that the user chose, checked against those that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.arguments import as_names
from histocell._core.errors import MissingKeyError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def choose(
    wanted: str | Sequence[str],
    available: Iterable[str],
    kind: str,
    *,
    where: str = "",
    error: type[Exception] = MissingKeyError,
) -> list[str]:
    """The wanted names as a list; an error that lists what is available where one is not there.

    Parameters
    ----------
    wanted
        One name or several.
    available
        The names to choose from.
    kind
        What they are names of, for the message: ``"cell type"``.
    where
        Where they were looked for, for the message.
    error
        The exception to raise.
    """
    names = as_names(wanted)
    available = list(available)
    absent = [name for name in names if name not in available]
    if absent or not names:
        msg = f"{kind} {listing(absent)} not found{where}; available: {listing(available, 30)}"
        raise error(msg)
    return names
