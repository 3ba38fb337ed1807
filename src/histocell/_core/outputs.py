"""Files that are written into folders of the user's: histocell replaces those that it wrote itself, and no other."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from histocell._core.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECORD = ".histocell"  # what was written into a folder, a line for each file as sha256sum prints it
PARTIAL = ".histocell-partial-"  # beginning of the names of folders with files that are not whole yet


def make_folder(path: Path) -> Path:
    """Create a folder where it does not exist; `NotADirectoryError` where a file has its name."""
    if path.exists() and not path.is_dir():
        msg = f"{path} is a file, not a folder; choose another one"
        raise NotADirectoryError(msg)
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_outputs(paths: Iterable[Path]) -> None:
    """Refuse to replace what histocell has not written, or what was changed since.

    Raises
    ------
    FileExistsError
        When one of the paths is such a file, a link or a folder.
    """
    foreign = [path for path in paths if (path.exists() or path.is_symlink()) and not is_own(path)]
    if foreign:
        msg = (
            f"{listing(foreign, 3)} would be replaced but was not written by histocell, or was changed since; "
            "choose another folder, or move it away"
        )
        raise FileExistsError(msg)


def is_own(path: Path) -> bool:
    """Whether a file is as histocell wrote it."""
    record = path.parent / RECORD
    if path.is_symlink() or not path.is_file() or not record.is_file():
        return False
    return f"{file_digest(path)}  {path.name}" in record.read_text(encoding="utf-8", errors="replace").splitlines()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A folder within `folder` for files that are renamed when they are whole; it is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL) as partial:
        yield Path(partial)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; what was written there is renamed to `path` as a whole, if the block ends well.

    Raises
    ------
    FileExistsError
        As `check_outputs`.
    """
    with partial_folder(path.parent) as folder:
        partial = folder / path.name
        yield partial
        check_outputs([path])
        # First, so that a file that was renamed is always known. Appending never loses what another run appends.
        with (path.parent / RECORD).open("a", encoding="utf-8") as record:
            record.write(f"{file_digest(partial)}  {path.name}\n")
        partial.replace(path)
