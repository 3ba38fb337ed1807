"""Locks that keep other processes from writing into a folder."""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_FILES = _LOCK, _WRITER = ".lock", ".writer"


@contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Lock a folder, which is created where it does not exist.

    The operating system frees the lock when its process ends, so that a killed run leaves nothing locked.

    Parameters
    ----------
    path
        The folder.

    Raises
    ------
    RuntimeError
        When another run holds the lock.
    """
    from filelock import FileLock, Timeout

    path.mkdir(parents=True, exist_ok=True)
    # not bound to a thread, as another one may release it
    lock = FileLock(path / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        writer = "another run"
        with suppress(OSError):
            writer = (path / _WRITER).read_text(encoding="utf-8")
        msg = f"{writer} is writing into {path}; wait until it ends, or choose another folder"
        raise RuntimeError(msg) from error
    with suppress(OSError):
        (path / _WRITER).write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            (path / _WRITER).unlink(missing_ok=True)
            (path / _LOCK).unlink(missing_ok=True)
        lock.release()
