"""A folder that keeps the result of every fold, so that a protocol that was interrupted repeats none."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from histocell._core.errors import listing, warn
from histocell._core.locks import LOCK_FILES, folder_lock
from histocell._core.outputs import PARTIAL, make_folder, partial_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histocell._core.types import Floats

_FACTS, _OUTPUT = "facts", "output"
_NAME = re.compile(r"[0-9a-f]{32}\.npz")


class Result(NamedTuple):
    """What one model said of the rows that were held out in one fold.

    Attributes
    ----------
    outputs
        Predictions and bounds by the ending of their slot, ``(n_held, n_targets)``.
    costs
        Seconds, memory and parameters by name.
    warnings
        Texts of the warnings of the fit, which are repeated when the result is read again.
    """

    outputs: dict[str, Floats]
    costs: dict[str, float]
    warnings: list[str]


class Cache:
    """Results by the content that they come from; without a folder it keeps nothing.

    Parameters
    ----------
    folder
        Where the files are, one for each result; `None` to keep nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    @contextmanager
    def open(cls, folder: str | Path | None) -> Iterator[Self]:
        """Lock the folder, which is created where it does not exist, and clear away what a killed run left unfinished.

        Raises
        ------
        FileExistsError
            When the folder holds anything but results.
        RuntimeError
            When another run is writing into it.
        """
        if folder is None:
            yield cls(None)
            return
        path = make_folder(Path(folder).expanduser())
        _check_own(path)
        with folder_lock(path):
            for partial in path.glob(f"{PARTIAL}*"):
                shutil.rmtree(partial)
            yield cls(path)

    @property
    def keeps(self) -> bool:
        """Whether there is a folder."""
        return self._folder is not None

    def get(self, key: str) -> Result | None:
        """The result of a key; `None` where there is none, or where it is damaged, with a warning."""
        if self._folder is None or not (path := self._path(key)).exists():
            return None
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                facts = json.loads(str(file[_FACTS][()]))
                outputs = {name: file[f"{_OUTPUT}{index}"] for index, name in enumerate(facts["outputs"])}
            return Result(outputs, facts["costs"], facts["warnings"])
        except (OSError, ValueError, LookupError, EOFError, TypeError, zipfile.BadZipFile) as error:
            warn(f"{path} is damaged and is computed again ({type(error).__name__}: {error})")
            return None

    def put(self, key: str, result: Result) -> None:
        """Write the result of a key as a whole, or not at all."""
        if self._folder is None:
            return
        facts = {"outputs": list(result.outputs), "costs": result.costs, "warnings": result.warnings}
        arrays = {f"{_OUTPUT}{index}": array for index, array in enumerate(result.outputs.values())}
        with partial_folder(self._folder) as partial:
            path = partial / self._path(key).name
            np.savez(path, allow_pickle=False, **{_FACTS: np.array(json.dumps(facts))}, **arrays)
            path.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return (self._folder or Path()) / f"{key}.npz"


def _check_own(folder: Path) -> None:
    """Refuse a folder with anything that is no result."""
    entries = sorted(folder.iterdir())
    strangers = [
        entry.name
        for entry in entries
        if entry.name not in LOCK_FILES
        and not (entry.is_dir() and not entry.is_symlink() and entry.name.startswith(PARTIAL))
        and not (entry.is_file() and not entry.is_symlink() and _NAME.fullmatch(entry.name))
    ]
    if strangers:
        msg = (
            f"{folder} holds what is no result of a protocol ({listing(strangers, 3)}); cache= names a folder of its own, "
            "empty or absent at first"
        )
        raise FileExistsError(msg)
