from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import zarr

from histocell.encoders.inference import store as stores
from histocell.encoders.inference.store import FeatureStore

if TYPE_CHECKING:
    from pathlib import Path

N, DIM, ROWS = 22, 5, 4
MANIFEST = {"encoder": "uni", "stain": None, "mpp": 0.5, "mean": (0.5, 0.6)}
FEATURES = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)


def open_store(path: Path, **changes) -> FeatureStore:
    manifest = MANIFEST | changes
    return FeatureStore.open(path, shape=(N, DIM), chunk_rows=ROWS, manifest=manifest)


def fill(store: FeatureStore, chunks=None, features=FEATURES) -> None:
    for chunk in list(store.todo) if chunks is None else chunks:
        store.write(chunk, features[store.rows(chunk)])


def test_it_reads_as_a_plain_array(tmp_path):
    store = open_store(tmp_path / "deep" / "s.zarr")
    assert store.todo == [0, 1, 2, 3, 4, 5]
    fill(store, [5, 0, 3, 1, 2, 4])
    assert store.todo == []
    assert (store.lazy().compute() == FEATURES).all()
    assert store.lazy().chunks == ((4, 4, 4, 4, 4, 2), (DIM,))
    assert (store.lazy().compute() == FEATURES).all()
    plain = zarr.open_array(store.path, mode="r")
    assert (da.from_zarr(str(store.path)).compute() == FEATURES).all()
    assert (ad.io.read_elem(plain) == FEATURES).all()
    assert plain.attrs["histocell"]["encoder"] == "uni"
    assert {name.name for name in store.path.iterdir()} == {"zarr.json", *(f"c.{i}.0" for i in range(6))}


def test_peek(tmp_path):
    assert FeatureStore.peek(tmp_path / "s") is None
    assert not (tmp_path / "s").exists()
    open_store(tmp_path / "s").close()
    found = FeatureStore.peek(tmp_path / "s")
    assert found == {**MANIFEST, "mean": [0.5, 0.6], "format": 1, "shape": [N, DIM], "chunk_rows": ROWS}


def test_it_goes_on_where_it_was(tmp_path):
    with open_store(tmp_path / "s") as store:
        fill(store, [1, 4])
        with pytest.raises(ValueError, match="4 of 6 chunks"):
            store.lazy()
    assert np.isnan(zarr.open_array(tmp_path / "s", mode="r")[:4]).all()
    again = open_store(tmp_path / "s")
    assert again.todo == [0, 2, 3, 5]
    fill(again)
    assert (open_store(tmp_path / "s").lazy().compute() == FEATURES).all()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_empty_chunks_count_as_written(tmp_path, value):
    store = FeatureStore.open(tmp_path / "s", shape=(5, 2), chunk_rows=3, manifest={})
    for chunk, rows in ((0, 3), (1, 2)):
        store.write(chunk, np.full((rows, 2), value))
    again = FeatureStore.open(tmp_path / "s", shape=(5, 2), chunk_rows=3, manifest={})
    assert again.todo == []
    assert np.array_equal(again.lazy().compute(), np.full((5, 2), value, np.float32), equal_nan=True)


def test_no_rows(tmp_path):
    for _ in range(2):
        store = FeatureStore.open(tmp_path / "s", shape=(0, 7), chunk_rows=4, manifest={})
        assert store.todo == []
        assert store.lazy().compute().shape == (0, 7)
        assert store.lazy().compute().shape == (0, 7)


@pytest.mark.parametrize("size", [0, 3, 40, None], ids=["empty", "stub", "truncated", "flipped bit"])
def test_a_damaged_chunk_is_done_again(tmp_path, size):
    fill(open_store(tmp_path / "s"))
    for chunk in (2, 5):
        file = tmp_path / "s" / f"c.{chunk}.0"
        content = bytearray(file.read_bytes())
        content[20] ^= 1
        file.write_bytes(content if size is None else content[:size])
    with pytest.warns(UserWarning, match=r"chunks 2, 5 .* damaged"):
        store = open_store(tmp_path / "s")
    assert store.todo == [2, 5]
    fill(store)
    assert (store.lazy().compute() == FEATURES).all()


def test_other_settings_are_named(tmp_path):
    fill(open_store(tmp_path / "s"), [0])
    with pytest.raises(
        ValueError, match=r'encoder is "uni", now "conch"; stain is null, now "macenko"; tta is not there'
    ) as error:
        open_store(tmp_path / "s", encoder="conch", stain="macenko", tta=2)
    assert "mpp" not in str(error.value)
    assert "delete it" in str(error.value)
    with pytest.raises(ValueError, match=r"shape is \[22, 5\], now \[23, 5\]"):
        FeatureStore.open(tmp_path / "s", shape=(23, DIM), chunk_rows=ROWS, manifest=MANIFEST)
    with pytest.raises(ValueError, match="chunk_rows is 4, now 8"):
        FeatureStore.open(tmp_path / "s", shape=(N, DIM), chunk_rows=8, manifest=MANIFEST)
    assert open_store(tmp_path / "s").todo == [1, 2, 3, 4, 5]


def _text(path: Path) -> None:
    path.write_text("mine")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.partial").write_text("mine")


def _group(path: Path) -> None:
    zarr.create_group(path)


def _foreign_array(path: Path) -> None:
    zarr.create_array(path, shape=(N, DIM), chunks=(ROWS, DIM), dtype="float32")[:] = 1


def _broken(path: Path) -> None:
    fill(open_store(path))
    (path / "zarr.json").write_text("{")


@pytest.mark.parametrize("make", [_text, _folder, _group, _foreign_array, _broken])
def test_what_is_no_store_is_left_alone(tmp_path, make):
    path = tmp_path / "s"
    make(path)
    before = {p: p.read_bytes() for p in [path, *path.rglob("*")] if p.is_file()}
    with pytest.raises(FileExistsError, match="no store of features"):
        open_store(path)
    assert {p: p.read_bytes() for p in [path, *path.rglob("*")] if p.is_file()} == before


def test_leftovers_of_a_killed_run(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / f"zarr.{'0' * 32}.partial").write_text("{")
    (tmp_path / "s" / ".lock").touch()
    store = open_store(tmp_path / "s")
    assert store.todo == [0, 1, 2, 3, 4, 5]
    store.close()
    leftover = tmp_path / "s" / f"c.3.{'0' * 32}.partial"
    leftover.write_bytes(b"123")
    fill(open_store(tmp_path / "s"))
    assert not leftover.exists()


def test_two_writers(tmp_path):
    store = open_store(tmp_path / "s")
    with pytest.raises(RuntimeError, match=f"process {os.getpid()} on .* is writing"):
        open_store(tmp_path / "s")
    with pytest.raises(ValueError, match="encoder"):
        open_store(tmp_path / "s", encoder="conch")
    del store
    store = open_store(tmp_path / "s")
    fill(store)
    # a whole store only is read
    assert (open_store(tmp_path / "s").lazy().compute() == open_store(tmp_path / "s").lazy().compute()).all()
    with pytest.raises(ValueError, match="encoder"):
        open_store(tmp_path / "s", encoder="conch")


def test_wrong_chunks(tmp_path):
    store = open_store(tmp_path / "s")
    with pytest.raises(ValueError, match=r"has shape \(4, 5\), not \(3, 5\)"):
        store.write(0, FEATURES[:3])
    with pytest.raises(ValueError, match=r"has shape \(2, 5\), not \(4, 5\)"):
        store.write(5, FEATURES[:4])
    fill(store, [0])
    for chunk in (0, 6, -1):
        with pytest.raises(ValueError, match=f"chunk {chunk} .* is written already or does not exist"):
            store.write(chunk, FEATURES[:4])
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.write(1, FEATURES[4:8])


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from histocell.encoders.inference.store import FeatureStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = FeatureStore.open(sys.argv[1], shape=(3000, 10), chunk_rows=1000, manifest={})
store.write(0, np.ones((1000, 10)))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    store.write(1, np.ones((1000, 10)))
except OSError as error:
    print(error.errno, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_full_disk(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "s")], capture_output=True, text=True, check=True
    )
    assert "chunk 1 of 3" in done.stdout
    assert "The 1 chunks that are written stay valid" in done.stdout
    store = FeatureStore.open(tmp_path / "s", shape=(3000, 10), chunk_rows=1000, manifest={})
    assert store.todo == [1, 2]
    assert not list((tmp_path / "s").glob("*.partial"))


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"the store .* cannot be written"):
        open_store(tmp_path / "file" / "s")
    fill(open_store(tmp_path / "s"))
    monkeypatch.setattr(stores, "folder_lock", None)  # a whole store takes no lock, so a disk that is only read will do
    assert (open_store(tmp_path / "s").lazy().compute() == FEATURES).all()


RUN = textwrap.dedent(
    """
    import sys, time
    import numpy as np
    from histocell.encoders.inference.store import FeatureStore

    features = np.random.default_rng(0).normal(size=(4000, 50)).astype(np.float32)
    store = FeatureStore.open(sys.argv[1], shape=features.shape, chunk_rows=100, manifest={"encoder": "uni"})
    print(len(store.todo), flush=True)
    for chunk in list(store.todo):
        store.write(chunk, features[store.rows(chunk)])
        time.sleep(0.005)
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_killed_at_any_moment(tmp_path):
    random.seed(0)
    features = np.random.default_rng(0).normal(size=(4000, 50)).astype(np.float32)
    left = []
    for _ in range(3):
        run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
        left.append(int(run.stdout.readline()))
        time.sleep(random.uniform(0, 0.08))
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
    assert left == sorted(left, reverse=True)
    assert left[-1] < left[0] == 40
    store = FeatureStore.open(tmp_path / "s", shape=features.shape, chunk_rows=100, manifest={"encoder": "uni"})
    assert len(store.todo) <= left[-1]
    fill(store, features=features)
    assert (store.lazy().compute() == features).all()


def change(path: Path, keys: tuple, value: object) -> None:
    """Change a value of the zarr.json by hand; `...` removes it."""
    whole = json.loads((path / "zarr.json").read_text())
    inner = whole
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    (path / "zarr.json").write_text(json.dumps(whole))


def test_a_store_that_claims_too_much(tmp_path, user_sees):
    """The memory of a set of 10^12 numbers is never asked for."""
    fill(open_store(tmp_path / "s"))
    change(tmp_path / "s", ("shape",), [10**12, DIM])
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    with user_sees("Files", "a store whose zarr.json claims 10^12 rows", FileExistsError, match="zarr.json is damaged"):
        open_store(tmp_path / "s")
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("shape",), [N, 10**12]),
        (("shape",), [-1, DIM]),
        (("data_type",), "float64"),
        (("fill_value",), 0.0),
        (("codecs",), [{"name": "bytes", "configuration": {"endian": "little"}}]),
        (("codecs", 0, "configuration", "endian"), "big"),
        (("chunk_grid", "configuration", "chunk_shape"), [1, 1]),
        (("chunk_key_encoding", "configuration"), ...),
        (("chunk_key_encoding", "configuration", "separator"), "/"),
        (("attributes",), ...),
        (("attributes", "histocell"), []),
        (("attributes", "histocell", "shape"), "22"),
        (("attributes", "histocell", "chunk_rows"), 0),
        (("attributes", "histocell", "batch_size"), "8"),
        (("attributes", "histocell", "batch_size"), -8),
        (("zarr_format",), 2),
        (("node_type",), "group"),
    ],
)
def test_a_store_that_was_changed_by_hand(tmp_path, keys, value):
    fill(open_store(tmp_path / "s", batch_size=8))
    change(tmp_path / "s", keys, value)
    for call in (lambda: open_store(tmp_path / "s", batch_size=8), lambda: FeatureStore.peek(tmp_path / "s")):
        with pytest.raises(FileExistsError, match=r"zarr.json is damaged"):
            call()
    assert not FeatureStore.is_own(tmp_path / "s")


@pytest.mark.filterwarnings("ignore:chunks .* are damaged")
def test_any_damage_is_noticed(tmp_path):
    """Bits flipped, ends cut off and thrown in: an error of ours, or the features as they were."""
    fill(open_store(tmp_path / "s"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        name = rng.choice([*sorted(files), *["zarr.json"] * 6])
        content, start = bytearray(files[name]), rng.randrange(len(files[name]))
        content[start] ^= 1 << rng.randrange(8)
        damaged = rng.choice([content, content[:start], content + b"junk", content[start:], b""])
        (tmp_path / "s" / name).write_bytes(damaged)
        try:
            with open_store(tmp_path / "s") as store:
                fill(store)
        except (FileExistsError, ValueError) as error:
            refused += 1
            if str(tmp_path / "s") not in str(error):
                raise
            (tmp_path / "s" / name).write_bytes(files[name])
        else:
            assert (store.lazy().compute() == FEATURES).all()
    assert refused > 30
