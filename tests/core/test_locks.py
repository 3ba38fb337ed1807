from __future__ import annotations

import pytest

from histocell._core.locks import folder_lock


def test_a_locked_folder_is_refused_to_others_and_free_afterwards(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with (
        folder_lock(folder),
        pytest.raises(RuntimeError, match=r"process \d+ on .* is writing into"),
        folder_lock(folder),
    ):
        pass
    assert list(folder.iterdir()) == []
    with folder_lock(folder):
        assert (folder / ".lock").exists()


def test_an_error_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), folder_lock(tmp_path):
        raise KeyError
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
