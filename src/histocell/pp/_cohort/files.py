"""Files of a cohort on disk: what belongs to a run, and what is somebody else's and stays."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histocell._core import keys
from histocell._core.errors import listing
from histocell._core.locks import LOCK_FILES, folder_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PARTIAL = "result.partial"  # in a store: the result until it is whole
THUMBNAIL = "thumbnail"


@dataclass(frozen=True)
class Kind:
    """What a cohort makes of each slide.

    Attributes
    ----------
    verb
        The public function.
    shapes, table
        Names of the shapes and of the table in a result.
    count
        What its rows are, as in the report: ``n_tiles``.
    is_store
        Whether a folder is what a run leaves that is not done, and holds nothing else.
    """

    verb: str
    shapes: frozenset[str]
    table: str
    count: str
    is_store: Callable[[Path], bool]

    @property
    def elements(self) -> dict[str, set[str]]:
        """Names of all elements in a result, by their type."""
        named = {"images": {THUMBNAIL}, "shapes": set(self.shapes), "tables": {self.table}}
        return {"labels": set(), "points": set(), **named}


_METADATA = {"zarr.json", ".zattrs", ".zgroup", ".zmetadata"}


def result_facts(output: Path, kind: Kind) -> dict[str, Any] | None:
    """What a result says of itself, `None` where there is none.

    Raises
    ------
    FileExistsError
        When something else is there.
    """
    import zarr

    if not output.exists() and not output.is_symlink():
        return None
    facts: Any = None
    with suppress(Exception):  # of which kind depends on what is there
        facts = dict(zarr.open_group(output, mode="r").attrs)[keys.PROVENANCE]
    if isinstance(facts, dict) and isinstance(facts.get("settings"), dict) and isinstance(facts.get(kind.count), int):
        return facts
    msg = f"{output} exists and was not made by {kind.verb}, or is damaged; choose another out=, or move it away"
    raise FileExistsError(msg)


def check_replaceable(output: Path, kind: Kind) -> None:
    """Refuse to replace what is no result, or holds what a result does not.

    Raises
    ------
    FileExistsError
        When it is somebody else's, a link, or something was added.
    """
    if result_facts(output, kind) is None:
        return
    added = sorted(str(path.relative_to(output)) for path in _added(output, kind))
    if output.is_symlink() or added:
        what = f"holds what was added to it ({listing(added, 3)})" if added else "is a link"
        msg = f"{output} would be replaced but {what}; move it away, or choose another out="
        raise FileExistsError(msg)


def _added(output: Path, kind: Kind) -> Iterator[Path]:
    elements = kind.elements
    for entry in output.iterdir():
        if entry.name in elements and entry.is_dir():
            yield from (path for path in entry.iterdir() if path.name not in elements[entry.name] | _METADATA)
        elif entry.name not in _METADATA:
            yield entry


def replace_result(partial: Path, output: Path, kind: Kind) -> None:
    """Put a result that is whole into its place, where nothing or another result is."""
    check_replaceable(output, kind)
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)


def check_store(store: Path, kind: Kind) -> None:
    """Refuse a folder for what is not done that holds anything else.

    Raises
    ------
    FileExistsError
        When it is somebody else's; it is left as it is.
    """
    if not store.exists() and not store.is_symlink():
        return
    strangers = [store] if store.is_symlink() or not store.is_dir() else _strangers(store, kind)
    if strangers:
        msg = (
            f"{store} was not made by {kind.verb}, or something was added to it ({listing(strangers, 3)}); "
            "choose another out=, or move it away"
        )
        raise FileExistsError(msg)


def _strangers(store: Path, kind: Kind) -> list[Path]:
    """Entries of a store that are not ours: ours are stores, and a result beside them."""
    entries = [entry for entry in sorted(store.iterdir()) if entry.name not in LOCK_FILES]
    others = [entry for entry in entries if not kind.is_store(entry)]
    return others if len(others) == len(entries) else [entry for entry in others if entry.name != PARTIAL]


def remove_store(store: Path, kind: Kind) -> None:
    """Delete what is not done of a slide, and nothing that was put beside it.

    Raises
    ------
    FileExistsError
        As `check_store`.
    RuntimeError
        When another run is writing into it.
    """
    if not store.exists():
        return
    with folder_lock(store):
        check_store(store, kind)
        for entry in store.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
    remove_if_empty(store)


def remove_if_empty(store: Path) -> None:
    """Delete a folder that nothing is left in."""
    with suppress(OSError):
        store.rmdir()
