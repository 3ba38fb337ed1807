"""Store of the features of one slide on disk, written chunk by chunk so that a killed run can be resumed."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.errors import listing, warn
from histocell._core.locks import LOCK_FILES, folder_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dask.array as da
    import zarr
    from numpy.typing import ArrayLike
    from zarr.abc.store import Store

    type Manifest = Mapping[str, Any]  # whatever JSON can hold

_ATTRIBUTE = "histocell"
_CHUNK = re.compile(r"c\.(\d+)\.0")
_PARTIAL = re.compile(r"(zarr|c\.\d+)\.[0-9a-f]{32}\.partial")  # what zarr writes to before it renames


class FeatureStore(AbstractContextManager["FeatureStore"]):
    """A zarr array (n, dim) of float32 that is filled chunk by chunk. Made by `FeatureStore.open`.

    On disk it is a zarr v3 array and nothing else: ``zarr.open_array(path)``, ``dask.array.from_zarr(path)`` and
    ``anndata.io.read_elem`` read it. A chunk holds `chunk_rows` whole rows in one file ``c.<chunk>.0``, little-endian,
    uncompressed (features hardly compress), with its CRC-32C at the end; rows not yet written read as NaN. The attribute
    ``histocell`` of ``zarr.json`` holds the manifest. ``zarr.json`` and the chunks are written under another name
    and renamed, so each of them is complete or absent. While chunks are missing, the file ``.lock`` keeps
    other writers away; the system frees it when its process ends, however it ends.

    Attributes
    ----------
    path
        The folder.
    shape
        Rows and width of the features.
    chunk_rows
        Rows of a chunk; the last one may have fewer.
    todo
        Chunks that are still to be written, ascending.
    """

    def __init__(self, path: Path, array: zarr.Array[Any], *, locked: bool = False) -> None:
        self.path = path
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        self.chunk_rows = array.chunks[0]
        self._array = array
        self._lock: ExitStack | None = None
        self.todo = self._find_todo(remove_damaged=locked)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, shape: tuple[int, int], chunk_rows: int, manifest: Manifest
    ) -> FeatureStore:
        """Create a store, or resume one of the same settings.

        Every chunk on disk is read and checked; what is missing or damaged is in `todo` of the result.

        Parameters
        ----------
        path
            A folder that is empty, absent, or a store.
        shape
            Rows and width of the features.
        chunk_rows
            Rows of a chunk.
        manifest
            Everything that the features depend on, as JSON can hold it.

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
        path = Path(path)
        wanted = {"format": 1, **manifest, "shape": list(shape), "chunk_rows": min(chunk_rows, max(1, shape[0]))}
        array = _open_array(path, wanted)
        if array is not None and _chunks_on_disk(path) == set(range(array.nchunks)):
            store = cls(path, array)
            if not store.todo:  # a whole store is only read: nobody is kept away
                return store
        try:
            with ExitStack() as lock:
                lock.enter_context(folder_lock(path))
                for entry in path.iterdir():
                    if _PARTIAL.fullmatch(entry.name):
                        entry.unlink()
                # another run may have created it before the lock was taken
                array = _open_array(path, wanted)
                store = cls(path, _create_array(path, wanted) if array is None else array, locked=True)
                if store.todo:
                    store._lock = lock.pop_all()
                return store
        except FileExistsError:
            raise
        except OSError as error:
            msg = f"the store {path} cannot be written ({error.strerror or error}); choose a folder that can"
            raise OSError(error.errno, msg) from error

    @staticmethod
    def peek(path: str | os.PathLike[str]) -> dict[str, Any] | None:
        """The manifest of a store, `None` where there is none yet; `FileExistsError` where something else is."""
        array = _open_array(Path(path))
        return None if array is None else _manifest(array)

    @staticmethod
    def is_own(path: Path) -> bool:
        """Whether a folder is a store, or the beginning of one, and holds nothing else."""
        if path.is_symlink() or not path.is_dir() or not all(_is_known(entry.name) for entry in path.iterdir()):
            return False
        try:
            FeatureStore.peek(path)
        except FileExistsError:
            return False
        return True

    def __repr__(self) -> str:
        n = self._array.nchunks
        return f"FeatureStore({str(self.path)!r}, shape={self.shape}, {n - len(self.todo)} of {n} chunks written)"

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others write; done by itself when the last chunk is written."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def rows(self, chunk: int) -> slice:
        """The rows of a chunk."""
        return slice(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.shape[0]))

    def write(self, chunk: int, features: ArrayLike) -> None:
        """Write one chunk of `todo`, wholly or not at all.

        Parameters
        ----------
        chunk
            Its number.
        features
            Its rows, shape ``(chunk_rows, dim)``, fewer in the last one.

        Raises
        ------
        OSError
            When the disk is full or cannot be written. The chunks before stay valid.
        """
        if chunk not in self.todo:
            msg = f"chunk {chunk} of {self.path} is written already or does not exist"
            raise ValueError(msg)
        if self._lock is None:
            msg = f"chunk {chunk} of {self.path} cannot be written: the store was closed"
            raise ValueError(msg)
        rows = self.rows(chunk)
        features = np.asarray(features, dtype=np.float32)
        if features.shape != (rows.stop - rows.start, self.shape[1]):
            msg = f"chunk {chunk} has shape {(rows.stop - rows.start, self.shape[1])}, not {features.shape}"
            raise ValueError(msg)
        try:
            self._array[rows] = features
        except OSError as error:
            n = self._array.nchunks
            msg = (
                f"chunk {chunk} of {n} of {self.path} could not be written ({error.strerror or error}). "
                f"The {n - len(self.todo)} chunks that are written stay valid: make room and run the same again, "
                "it goes on from there"
            )
            raise OSError(error.errno, msg) from error
        self.todo.remove(chunk)
        if not self.todo:
            self.close()

    def lazy(self) -> da.Array:
        """The features as a dask array, shape ``(n, dim)``, chunked as on disk; `ValueError` while chunks are missing."""
        import dask.array as da

        if self.todo:
            msg = f"{len(self.todo)} of {self._array.nchunks} chunks of {self.path} are not written yet"
            raise ValueError(msg)
        return da.from_zarr(self._array)

    def _find_todo(self, *, remove_damaged: bool) -> list[int]:
        """Chunks that are missing or damaged."""
        chunks = range(self._array.nchunks)
        existing = sorted(_chunks_on_disk(self.path) & set(chunks))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            intact = {chunk for chunk, ok in zip(existing, pool.map(self._is_intact, existing), strict=True) if ok}
        if remove_damaged and (damaged := [chunk for chunk in existing if chunk not in intact]):
            warn(f"chunks {listing(damaged)} of {self.path} are damaged and are computed again")
            for chunk in damaged:
                (self.path / f"c.{chunk}.0").unlink()
        return [chunk for chunk in chunks if chunk not in intact]

    def _is_intact(self, chunk: int) -> bool:
        try:
            self._array[self.rows(chunk)]
        except ValueError:  # the checksum differs, or the file is too short to have one
            return False
        return True


def _open_array(path: Path, wanted: Manifest | None = None) -> zarr.Array[Any] | None:
    """The array of a store, `None` where there is none yet, an error where something else or other settings are."""
    if not path.exists():
        return None
    array = None
    if path.is_dir():
        names = [entry.name for entry in path.iterdir()]
        if all(name.startswith(".") or _PARTIAL.fullmatch(name) for name in names):
            return None
        if "zarr.json" in names:
            array = _sound_array(path)
    if array is None:
        msg = f"{path} exists and is no store of features, or its zarr.json is damaged; choose another folder, or move it away"
        raise FileExistsError(msg)
    if wanted is not None and (different := differences(_manifest(array), wanted)):
        msg = (
            f"the store {path} holds features of other settings: {'; '.join(different)}. "
            "Choose another folder, delete it, or use the settings it was made with"
        )
        raise ValueError(msg)
    return array


def _manifest(array: zarr.Array[Any]) -> dict[str, Any]:
    return dict(array.attrs[_ATTRIBUTE])  # type: ignore[arg-type]


def _sound_array(path: Path) -> zarr.Array[Any] | None:
    """The array in a folder, if it is just as we make it for its manifest; else `None`."""
    import zarr
    from zarr.storage import MemoryStore

    try:
        array = zarr.open_array(path, mode="r+")
        manifest = _manifest(array)
        (n, dim), rows, batch_size = manifest["shape"], manifest["chunk_rows"], manifest.get("batch_size", 1)
        sizes = (n + 1, dim, rows, 1 if batch_size is None else batch_size)
        if any(type(size) is not int or size < 1 for size in sizes):
            return None
        expected = _create_array(MemoryStore(), manifest)
    except OSError:
        raise
    except Exception:  # noqa: BLE001 of which kind depends on what is damaged
        return None
    # shape, chunks, type and codecs: nothing is read, or memory asked for, before they are known to be ours
    return array if array.metadata.to_dict() == expected.metadata.to_dict() else None


def _create_array(store: Path | Store, manifest: dict[str, Any]) -> zarr.Array[Any]:
    """Create the array together with its manifest, which are one file, so that a kill cannot separate them."""
    import zarr
    from zarr.codecs import Crc32cCodec

    n, dim = manifest["shape"]
    return zarr.create_array(
        store,
        shape=(n, dim),
        chunks=(manifest["chunk_rows"], dim),
        dtype="float32",
        fill_value=float("nan"),
        filters=None,
        compressors=[Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={_ATTRIBUTE: manifest},
        config={"write_empty_chunks": True},
    )


def differences(known: Manifest, wanted: Manifest) -> list[str]:
    """Differences between the settings of an earlier run, as JSON kept them, and those of now, one sentence each."""
    # as text, since JSON turns tuples into lists, and NaN does not equal itself
    old, new = ({key: json.dumps(value, sort_keys=True) for key, value in facts.items()} for facts in (known, wanted))
    return [
        f"{key} is {old.get(key, 'not there')}, now {new.get(key, 'not there')}"
        for key in dict.fromkeys([*new, *old])
        if old.get(key) != new.get(key)
    ]


def _is_known(name: str) -> bool:
    """Whether a file of a store may have this name."""
    return bool(name == "zarr.json" or name in LOCK_FILES or _CHUNK.fullmatch(name) or _PARTIAL.fullmatch(name))


def _chunks_on_disk(path: Path) -> set[int]:
    return {int(match[1]) for entry in path.iterdir() if (match := _CHUNK.fullmatch(entry.name))}
