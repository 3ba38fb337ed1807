"""Lazy arrays over files: what they read, and how few files stay open."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from collections.abc import Sized
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from histocell.images.dask_arrays import array_levels, file_arrays
from histocell.images.slide_image import open_image
from histocell.io.elements import image_element

N_FILES = 100
FILES = Path("/proc/self/fd")


def write(path: Path, value: int) -> Path:
    pixels = np.full((300, 280, 3), value, np.uint8)
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128))
    return path


def n_open() -> int:
    gc.collect()
    return len(list(FILES.iterdir()))


def sizes() -> dict[str, int]:
    """Sizes of all containers and caches that modules of histocell.images and histocell.io hold."""
    gc.collect()
    found = {}
    for module in [m for name, m in sys.modules.items() if name.startswith(("histocell.images", "histocell.io"))]:
        for name, value in vars(module).items():
            if hasattr(value, "cache_info"):
                found[f"{module.__name__}.{name}"] = value.cache_info().currsize
            elif isinstance(value, Sized) and not isinstance(value, type | str) and not name.startswith("__"):
                found[f"{module.__name__}.{name}"] = len(value)
    return found


@pytest.mark.skipif(not FILES.is_dir(), reason="counts the open files of this process")
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_files_read_one_after_the_other_do_not_stay(tmp_path: Path, suffix: str) -> None:
    first = image_element(write(tmp_path / f"first{suffix}", 7), mpp=0.5)
    assert (first.data[:, :5, :5].compute() == 7).all()
    before, held = n_open(), sizes()
    for number in range(N_FILES):
        element = image_element(write(tmp_path / f"{number}{suffix}", number), mpp=0.5)
        assert (element.data[:, :5, :5].compute() == number).all()
        assert (open_image(element).read(0, 0, 5, 5) == number).all()
    del element
    assert n_open() - before < 10
    grown = {name: (held.get(name, 0), size) for name, size in sizes().items() if size > held.get(name, 0) + 10}
    assert not grown
    # the first file was closed long ago: its array opens it again
    assert (first.data[:, :5, :5].compute() == 7).all()
    assert (open_image(first).read(100, 100, 105, 105) == 7).all()


def test_arrays_of_a_file_are_read_from_the_file(tmp_path: Path) -> None:
    (array,) = file_arrays(write(tmp_path / "a - 1-2-3.tif", 9))
    (level,) = array_levels([array], ("c", "y", "x"))[0]
    (file,) = array_levels(file_arrays(tmp_path / "a - 1-2-3.tif"), ("c", "y", "x"))[0]
    assert type(level) is type(file)
    assert level.shape == (300, 280)
    assert array_levels([array[:, :100]], ("c", "y", "x"))[0][0].shape == (100, 280)
    assert (array_levels([255 - array], ("c", "y", "x"))[0][0].window(0, 0, 3, 3) == 246).all()
    other = file_arrays(write(tmp_path / "b.tif", 3))[0]
    mixed = array_levels([array, other], ("c", "y", "x"))[0]
    assert [int(level.window(0, 0, 1, 1)[0, 0, 0]) for level in mixed] == [9, 3]


def test_a_changed_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", 9)
    element = image_element(path, mpp=0.5)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(OSError, match="changed since it was opened"):
        element.data.compute()
    with pytest.raises(OSError, match="changed since it was opened"):
        open_image(element)


def test_arrays_are_read_in_another_process(tmp_path: Path) -> None:
    (array,) = file_arrays(write(tmp_path / "a.tif", 9))
    (tmp_path / "array.pickle").write_bytes(pickle.dumps(array))
    script = (
        "import pickle, pathlib, sys\n"
        "from histocell.images.dask_arrays import array_levels\n"
        "array = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "level = array_levels([array], ('c', 'y', 'x'))[0][0]\n"
        "assert level._axis == 2  # tiles of the file, not chunks of the array\n"
        "print(array.compute().sum(), level.window(0, 0, 300, 280).sum())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "array.pickle")], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == [str(300 * 280 * 3 * 9)] * 2, done.stderr
