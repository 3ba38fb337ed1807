"""Nuclei on disk while a slide is segmented: resumed after a kill, damaged, of other settings, somebody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from scipy import ndimage

import histocell as hc

if TYPE_CHECKING:
    from pathlib import Path

    from spatialdata import SpatialData

CALLS = SimpleNamespace(n=0)
THRESHOLD = 140


def dark(image: np.ndarray, mpp: float) -> np.ndarray:
    """Connected dark pixels; counts its calls."""
    CALLS.n += 1
    return ndimage.label(image[..., 0] < THRESHOLD)[0]


def segmented(sdata: SpatialData, store: Path | None = None, **options: object) -> tuple[list[bytes], int]:
    """The nuclei, and for how many blocks the method was called."""
    before = CALLS.n
    options = {"method": dark, "region": None, "block_px": 200, "store": store, "measure": False, **options}
    shapes = hc.pp.segment_nuclei(sdata, inplace=False, **options)["nuclei"]
    return shapely.to_wkb(shapes.geometry.to_numpy()).tolist(), CALLS.n - before


def test_a_store_changes_nothing_and_is_not_computed_again(tissue, tmp_path):
    expected, n_blocks = segmented(tissue)
    assert n_blocks == 16
    assert segmented(tissue, tmp_path / "store") == (expected, 16)
    assert segmented(tissue, tmp_path / "store") == (expected, 0)
    files = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert len(files) == 17
    assert files[-1] == "nuclei.json"


def test_a_run_that_failed_goes_on(tissue, tmp_path):
    expected, _ = segmented(tissue)
    seen = []

    def fails(image: np.ndarray, mpp: float) -> np.ndarray:
        seen.append(image.shape)
        if len(seen) == 9:
            msg = "the power is gone"
            raise OSError(msg)
        return dark(image, mpp)

    fails.version = "1"  # the same method, whatever it has seen
    with pytest.raises(OSError, match="the power is gone") as error:
        segmented(tissue, tmp_path / "store", method=fails)
    assert "in the block of" in error.value.__notes__[0]
    found, n_blocks = segmented(tissue, tmp_path / "store", method=fails)
    assert found == expected
    assert 7 <= n_blocks < 16


def test_a_killed_run_goes_on(tmp_path):
    """A process that is killed in the middle, at no particular moment."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "import histocell as hc\n"
        "from scipy import ndimage\n"
        "def slow(image, mpp):\n"
        "    time.sleep(0.3)\n"
        "    return ndimage.label(image[..., 0] < 140)[0]\n"
        "sdata = hc.datasets.synthetic_tissue(size_px=700, rng=0)\n"
        "hc.pp.segment_nuclei(sdata, method=slow, region=None, block_px=200, store=sys.argv[1], measure=False)\n"
        "print(len(sdata['nuclei']), sdata['nuclei'].area.sum())\n"
    )
    run = [sys.executable, str(script)]
    store = tmp_path / "killed"
    with subprocess.Popen([*run, str(store)], stdout=subprocess.DEVNULL) as process:
        for _ in range(3000):
            if len(list(store.glob("block-*.npz"))) >= 4 or process.poll() is not None:
                break
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    done = len(list(store.glob("block-*.npz")))
    assert 4 <= done < 16
    times = {path: path.stat().st_mtime_ns for path in store.glob("block-*.npz")}
    resumed, whole = (
        subprocess.run([*run, str(folder)], capture_output=True, text=True, check=True).stdout
        for folder in (store, tmp_path / "whole")
    )
    assert resumed == whole
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())


def test_a_damaged_block_is_computed_again(tissue, tmp_path, user_sees):
    expected, _ = segmented(tissue, tmp_path / "store")
    path = tmp_path / "store" / "block-1-2.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with user_sees("Nuclei", "a store with a damaged block", UserWarning, match="is damaged"):
        assert segmented(tissue, tmp_path / "store") == (expected, 1)
    path.write_bytes(content[:100])
    with pytest.warns(UserWarning, match="block-1-2.npz is damaged"):
        assert segmented(tissue, tmp_path / "store") == (expected, 1)


def test_other_settings_are_refused(tissue, tmp_path, user_sees, monkeypatch):
    store = tmp_path / "store"
    segmented(tissue, store)
    with user_sees("Nuclei", "a store of other settings", ValueError, match="block_px is 200, now 300"):
        segmented(tissue, store, block_px=300)
    with pytest.raises(ValueError, match="halo_um is"):
        segmented(tissue, store, halo_um=30)
    with pytest.raises(ValueError, match="tissue is null"):
        segmented(tissue, store, region="tissue")
    monkeypatch.setitem(globals(), "THRESHOLD", 100)  # a number that the function uses
    with pytest.raises(ValueError, match="code is"):
        segmented(tissue, store)


def test_another_slide_is_refused(tissue, tmp_path, user_sees):
    segmented(tissue, tmp_path / "store")
    other = tissue["he"].copy(deep=True)
    other.data = other.data.map_blocks(
        lambda block: np.where(np.arange(block.size).reshape(block.shape) == 5000, 0, block)
    )
    tissue.images["he"] = other
    with user_sees("Nuclei", "a store of another slide", ValueError, match="image is"):
        segmented(tissue, tmp_path / "store")


@pytest.mark.parametrize("name", ["notes.txt", "nuclei.json", "block-0-0.npz"])
def test_a_folder_of_somebody_else_is_refused(tissue, tmp_path, name):
    store = tmp_path / "store"
    store.mkdir()
    (store / name).write_text("mine")
    with pytest.raises(FileExistsError, match="is no store of nuclei"):
        segmented(tissue, store)
    assert [path.name for path in store.iterdir()] == [name]
    assert (store / name).read_text() == "mine"


def test_a_file_is_no_folder(tissue, tmp_path, user_sees):
    (tmp_path / "store").write_text("mine")
    with user_sees("Nuclei", "a store that is a file", FileExistsError, match="is no store of nuclei"):
        segmented(tissue, tmp_path / "store")


def test_another_run_is_writing(tissue, tmp_path):
    from histocell._core.locks import folder_lock

    store = tmp_path / "store"
    with folder_lock(store), pytest.raises(RuntimeError, match="is writing into"):
        segmented(tissue, store)
    assert segmented(tissue, store)[1] == 16


def test_thousands_of_blocks(tissue, tmp_path):
    expected, _ = segmented(tissue, block_px=2048, halo_um=60)
    many = hc.pp.segment_nuclei(
        tissue,
        method=dark,
        region=None,
        halo_um=60,
        block_px=64,
        store=tmp_path / "store",
        inplace=False,
        measure=False,
    )["nuclei"]
    assert len(list((tmp_path / "store").glob("block-*.npz"))) == 121
    assert shapely.to_wkb(many.geometry.to_numpy()).tolist() == expected
