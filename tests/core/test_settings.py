"""Settings of the session."""

from __future__ import annotations

from pathlib import Path

import pytest

import histocell as hc


def test_the_folder_of_datasets_may_be_text(monkeypatch, tmp_path):
    monkeypatch.setattr(hc.settings, "data_dir", hc.settings.data_dir)
    hc.settings.data_dir = str(tmp_path)
    assert hc.settings.data_dir == tmp_path
    hc.settings.data_dir = "~/tissue"
    assert hc.settings.data_dir == Path.home() / "tissue"
    assert f"data_dir={hc.settings.data_dir!r}" in repr(hc.settings)


def test_an_unknown_setting_is_an_error():
    with pytest.raises(AttributeError, match="data_folder"):
        hc.settings.data_folder = "tissue"
