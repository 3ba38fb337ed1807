"""Store of the nuclei of one slide on disk, written block by block so that a killed run can be resumed."""

from __future__ import annotations

import json
import re
import zipfile
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.errors import warn
from histocell._core.locks import LOCK_FILES, folder_lock
from histocell.encoders.inference.store import differences
from histocell.pp._segment_nuclei.found import Found

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from histocell.pp._segment_nuclei.blocks import Block

_MANIFEST = "nuclei.json"
_FORMAT = 1
_BLOCK = re.compile(r"block-\d+-\d+\.npz")
_PARTIAL = ".partial"


class NucleusStore(AbstractContextManager["NucleusStore"]):
    """A folder with a manifest, ``nuclei.json``, and one file of arrays for each block that is done.

    Files are written under another name and renamed, so each is complete or absent; a block that was damaged since is
    known by its CRC-32 and computed again. The file ``.lock`` keeps other writers away; the system frees it when its
    process ends.

    Parameters
    ----------
    path
        A folder that is empty, absent, or a store.
    manifest
        Everything that the nuclei depend on, as JSON can hold it.

    Raises
    ------
    FileExistsError
        When the path holds something else; it is left as it is.
    ValueError
        When the store was made with other settings.
    RuntimeError
        When another run is writing into it.
    OSError
        When the folder cannot be written.
    """

    def __init__(self, path: str | PathLike[str], manifest: Mapping[str, object]) -> None:
        self.path = Path(path).expanduser()
        wanted = json.loads(json.dumps({"format": _FORMAT, **manifest}))
        self._check(wanted)
        try:
            with ExitStack() as stack:
                stack.enter_context(folder_lock(self.path))
                self._check(wanted)  # another run may have begun it before the lock was taken
                for entry in self.path.glob(f"*{_PARTIAL}"):
                    entry.unlink()
                if not (self.path / _MANIFEST).exists():
                    self._put(_MANIFEST, json.dumps(wanted, indent=1).encode())
                self._stack = stack.pop_all()
        except FileExistsError:
            raise
        except OSError as error:
            msg = f"the store {self.path} cannot be written ({error.strerror or error}); choose a folder that can"
            raise OSError(error.errno, msg) from error

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _check(self, wanted: Mapping[str, object]) -> None:
        known = read_manifest(self.path)
        if known is not None and (different := differences(known, wanted)):
            msg = (
                f"the store {self.path} holds nuclei of other settings: {'; '.join(different)}. "
                "Choose another folder, delete it, or use the settings it was made with"
            )
            raise ValueError(msg)

    def read(self, block: Block) -> Found | None:
        """The nuclei of a block, `None` where it is not done."""
        path = self.path / _name(block)
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = Found(**{field.name: arrays[field.name] for field in fields(Found)})
            if int(found.offsets[-1]) == len(found.points) and len(found.offsets) == len(found) + 1:
                return found
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            pass
        warn(f"{path} is damaged, its block is computed again")
        return None

    def write(self, block: Block, found: Found) -> None:
        """Write the nuclei of a block, wholly or not at all."""
        arrays = {field.name: getattr(found, field.name) for field in fields(found)}
        partial = self.path / (_name(block) + _PARTIAL)
        try:
            with partial.open("wb") as file:
                np.savez(file, **arrays)
            partial.replace(self.path / _name(block))
        except OSError as error:
            partial.unlink(missing_ok=True)
            msg = (
                f"{_name(block)} of {self.path} could not be written ({error.strerror or error}). The blocks that are "
                "written stay valid: make room and run the same again, it goes on from there"
            )
            raise OSError(error.errno, msg) from error

    def _put(self, name: str, content: bytes) -> None:
        partial = self.path / (name + _PARTIAL)
        partial.write_bytes(content)
        partial.replace(self.path / name)


def read_manifest(path: Path) -> dict[str, object] | None:
    """The manifest of a store, `None` where there is none yet; `FileExistsError` where something else is."""
    if not path.exists() and not path.is_symlink():
        return None
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else [path.name]
    strangers = [name for name in names if not _is_known(name)] if path.is_dir() else names
    manifest: Any = None
    if _MANIFEST in names and not strangers:
        try:
            manifest = json.loads((path / _MANIFEST).read_bytes())
        except (ValueError, RecursionError):
            strangers = [_MANIFEST]
    blocks = any(_BLOCK.fullmatch(name) for name in names)
    if strangers or (manifest is None and blocks) or not isinstance(manifest, dict | None):
        msg = f"{path} exists and is no store of nuclei, or its {_MANIFEST} is damaged; choose another folder, or move it away"
        raise FileExistsError(msg)
    return manifest


def _name(block: Block) -> str:
    return f"block-{block.row}-{block.column}.npz"


def _is_known(name: str) -> bool:
    """Whether a file of a store may have this name."""
    whole = name.removesuffix(_PARTIAL)
    return bool(whole == _MANIFEST or name in LOCK_FILES or _BLOCK.fullmatch(whole))
