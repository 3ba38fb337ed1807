from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from histocell._core.outputs import RECORD, check_outputs, is_own, replacing

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write_text(text)


def write_while(path: Path, event) -> None:
    """Write a file; something happens before it is renamed."""
    with replacing(path) as file:
        file.write_text("ours")
        event()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_own_files_are_replaced_and_no_others(tmp_path):
    path = tmp_path / "scores.csv"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert names(tmp_path) == {"scores.csv", RECORD}
    assert f"{hashlib.sha256(b'two').hexdigest()}  scores.csv" in (tmp_path / RECORD).read_text()
    path.write_text("two and my notes")
    for call in (lambda: write(path, "three"), lambda: check_outputs([tmp_path / "new.csv", path])):
        with pytest.raises(
            FileExistsError, match=r"scores.csv would be replaced but was not written by histocell, or was"
        ):
            call()
    assert path.read_text() == "two and my notes"
    check_outputs([tmp_path / "new.csv"])


def test_a_file_that_appears_while_another_is_written(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(FileExistsError):
        write_while(path, lambda: path.write_text("mine"))
    assert path.read_text() == "mine"
    assert names(tmp_path) == {"a.png"}


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.png"
    write(path, "one")
    with pytest.raises(ZeroDivisionError):
        write_while(path, lambda: 1 / 0)
    assert path.read_text() == "one"
    assert is_own(path)
    assert names(tmp_path) == {"a.png", RECORD}


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_links_and_folders_are_not_own(tmp_path):
    write(tmp_path / "a", "one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("one")
    (tmp_path / "a").unlink()
    for target in ("elsewhere/a", "nowhere"):
        (tmp_path / "a").symlink_to(tmp_path / target)
        with pytest.raises(FileExistsError):
            write(tmp_path / "a", "two")
        (tmp_path / "a").unlink()
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError):
        write(tmp_path / "a", "two")
    assert (tmp_path / "elsewhere" / "a").read_text() == "one"


KILLED = """
import os, sys
from pathlib import Path
from histocell._core.outputs import replacing

Path.replace = lambda *_: os._exit(9)
with replacing(Path(sys.argv[1])) as file:
    file.write_text("two")
"""


def test_a_kill_before_the_file_is_renamed(tmp_path):
    path = tmp_path / "a.csv"
    write(path, "one")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9
    assert path.read_text() == "one"
    write(path, "three")  # still known as ours
    assert path.read_text() == "three"


def test_many_write_into_one_folder(tmp_path):
    paths = [tmp_path / f"{i}.csv" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, paths, map(str, range(40))))
    assert all(map(is_own, paths))
    (tmp_path / RECORD).write_bytes(b"\xff\xfe not ours")
    assert not is_own(paths[0])
