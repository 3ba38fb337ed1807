"""Files of a cohort on disk: what belongs to a run, and what is somebody else's and stays."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from histocell._core import keys
from histocell._core.errors import listing
from histocell._core.locks import LOCK_FILES, folder_lock
from histocell.encoders.inference.store import FeatureStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTIAL = "result.partial"  # in a store: the result until it is whole
THUMBNAIL = "thumbnail"
_ELEMENTS: dict[str, set[str]] = {
    "images": {THUMBNAIL},
    "labels": set(),
    "points": set(),
    "shapes": {keys.TISSUE, keys.TILES},
    "tables": {keys.TILE_TABLE},
}
_METADATA = {"zarr.json", ".zattrs", ".zgroup", ".zmetadata"}


def result_facts(output: Path) -> dict[str, Any] | None:
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
    if isinstance(facts, dict) and isinstance(facts.get("settings"), dict) and isinstance(facts.get("n_tiles"), int):
        return facts
    msg = f"{output} exists and was not made by hc.pp.embed_cohort, or is damaged; choose another out=, or move it away"
    raise FileExistsError(msg)


def check_replaceable(output: Path) -> None:
    """Refuse to replace what is no result, or holds what a result does not.

    Raises
    ------
    FileExistsError
        When it is somebody else's, a link, or something was added.
    """
    if result_facts(output) is None:
        return
    added = sorted(str(path.relative_to(output)) for path in _added(output))
    if output.is_symlink() or added:
        what = f"holds what was added to it ({listing(added, 3)})" if added else "is a link"
        msg = f"{output} would be replaced but {what}; move it away, or choose another out="
        raise FileExistsError(msg)


def _added(output: Path) -> Iterator[Path]:
    for entry in output.iterdir():
        if entry.name in _ELEMENTS and entry.is_dir():
            yield from (path for path in entry.iterdir() if path.name not in _ELEMENTS[entry.name] | _METADATA)
        elif entry.name not in _METADATA:
            yield entry


def replace_result(partial: Path, output: Path) -> None:
    """Put a result that is whole into its place, where nothing or another result is."""
    check_replaceable(output)
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)


def check_store(store: Path) -> None:
    """Refuse a folder for features that holds anything else.

    Raises
    ------
    FileExistsError
        When it is somebody else's; it is left as it is.
    """
    if not store.exists() and not store.is_symlink():
        return
    strangers = [store] if store.is_symlink() or not store.is_dir() else _strangers(store)
    if strangers:
        msg = (
            f"{store} was not made by hc.pp.embed_cohort, or something was added to it ({listing(strangers, 3)}); "
            "choose another out=, or move it away"
        )
        raise FileExistsError(msg)


def _strangers(store: Path) -> list[Path]:
    """Entries of a store that are not ours: ours are arrays of features, and a result beside them."""
    entries = [entry for entry in sorted(store.iterdir()) if entry.name not in LOCK_FILES]
    others = [entry for entry in entries if not FeatureStore.is_own(entry)]
    return others if len(others) == len(entries) else [entry for entry in others if entry.name != PARTIAL]


def remove_store(store: Path) -> None:
    """Delete the features of a slide, and nothing that was put beside them.

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
        check_store(store)
        for entry in store.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
    remove_if_empty(store)


def remove_if_empty(store: Path) -> None:
    """Delete a folder that nothing is left in."""
    with suppress(OSError):
        store.rmdir()
