"""Saving of models: nothing of the user's is lost, and no half of a model is taken for a whole one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from histocell.models import Ridge, load
from histocell.models.files import CARD, CONFIG, WEIGHTS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(cohort):
    model = Ridge(alphas=(0.1, 1.0)).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
    model.targets = ["a", "b", "c"]
    return model


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def mine(tmp_path) -> Path:
    """A folder of the user's."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / CARD).write_text("my notes", encoding="utf-8")
    (folder / WEIGHTS).write_bytes(b"my weights")
    return folder


def test_a_folder_of_the_user_is_left_alone(model, mine, user_sees):
    before = content(mine)
    with user_sees(
        "Files", "a model saved into a folder with files of the user's", FileExistsError, match="a folder of its own"
    ):
        model.save(mine)
    for other in ("{}", '{"model": "bert", "hidden_size": 768}', '{"format": 2, "mod', "[" * 100_000):
        (mine / CONFIG).write_text(other, encoding="utf-8")
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match="a folder of its own"):
                model.save(mine, overwrite=overwrite)
        assert (mine / CONFIG).read_text(encoding="utf-8") == other
    (mine / CONFIG).unlink()
    assert content(mine) == before


def test_a_single_file_of_the_user_is_enough(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"holds other files \(notes.txt\)"):
        model.save(tmp_path, overwrite=True)
    assert content(tmp_path) == {"notes.txt": b"mine"}


def test_a_file_has_the_name_of_the_folder(model, tmp_path, user_sees):
    (tmp_path / "m").write_text("mine", encoding="utf-8")
    with user_sees("Files", "a model saved into a file", NotADirectoryError, match="is a file, not a folder"):
        model.save(tmp_path / "m")
    assert (tmp_path / "m").read_text(encoding="utf-8") == "mine"


def test_overwrite_replaces_a_model_and_nothing_else(model, cohort, tmp_path, user_sees):
    folder = tmp_path / "m"
    model.save(folder)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "plots").mkdir()
    with user_sees("Files", "a model saved over another one", FileExistsError, match="overwrite=True"):
        model.save(folder)
    other = Ridge(alphas=(10.0,)).fit(cohort.X, cohort.Y, groups=cohort.groups, rng=0)
    other.save(folder, overwrite=True)
    np.testing.assert_array_equal(load(folder).predict(cohort.X), other.predict(cohort.X))
    assert {path.name for path in folder.iterdir()} == {CARD, CONFIG, WEIGHTS, "notes.txt", "plots"}
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    other.save(folder, overwrite=True)


def test_an_edited_card_is_not_lost(model, tmp_path, user_sees):
    folder = tmp_path / "m"
    model.save(folder)
    card = folder / CARD
    card.write_text(card.read_text(encoding="utf-8") + "\nFitted on our cohort of 2024.\n", encoding="utf-8")
    before = content(folder)
    with user_sees("Files", "a model saved over one whose card was edited", FileExistsError, match="README.md in"):
        model.save(folder, overwrite=True)
    assert content(folder) == before
    card.unlink()
    model.save(folder, overwrite=True)
    assert set(content(folder)) == {CARD, CONFIG, WEIGHTS}


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_links_are_not_followed(model, tmp_path):
    target = tmp_path / "mine.md"
    folder = tmp_path / "m"
    model.save(folder)
    target.write_bytes((folder / CARD).read_bytes())
    (folder / CARD).unlink()
    (folder / CARD).symlink_to(target)
    with pytest.raises(FileExistsError, match="README.md in"):
        model.save(folder, overwrite=True)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    model.save(tmp_path / "link")  # a link to a folder is that folder
    assert (tmp_path / "link").is_symlink()
    load(tmp_path / "real")


def test_a_full_disk_leaves_the_model_that_was_there(model, cohort, tmp_path, monkeypatch):
    import safetensors.numpy

    def full(*_):
        raise OSError(28, "No space left on device")

    folder = tmp_path / "m"
    model.save(folder)
    before = content(folder)
    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        model.save(folder, overwrite=True)
    assert content(folder) == before
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from histocell.models import Ridge

X = np.random.default_rng(1).normal(size=(60, 8))
model = Ridge(alphas=(1.0,), interval=None).fit(X, X[:, :3], groups=np.arange(60) % 3)
left = [int(sys.argv[2])]
for name in ("replace", "unlink"):
    def step(path, *rest, call=getattr(Path, name), **options):
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return call(path, *rest, **options)
    setattr(Path, name, step)
model.save(sys.argv[1], overwrite=True)
"""


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
def test_killed_while_it_is_saved(model, cohort, tmp_path, there):
    """Between any two steps: the folder holds the old model, the new one, or one that is refused and can be replaced."""
    found = []
    for step in range(6):
        folder = tmp_path / str(step)
        if there:
            model.save(folder)
        run = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(step)], capture_output=True, check=False)
        found.append(run.returncode)
        try:
            loaded = load(folder).predict(cohort.X)
        except FileNotFoundError:
            assert not there
            assert run.returncode == 9
        except ValueError as error:
            if f"the model in {folder} cannot be read: model.safetensors is not the file that" not in str(error):
                raise
            assert run.returncode == 9
        else:
            assert np.array_equal(loaded, model.predict(cohort.X)) == (run.returncode == 9 and step < 2)
        model.save(folder, overwrite=True)
        np.testing.assert_array_equal(load(folder).predict(cohort.X), model.predict(cohort.X))
    assert found == sorted(found, reverse=True)
    assert found[0] == 9
    assert found[-1] == 0
