from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import histocell as hc
from histocell._core import errors, keys
from histocell._core.rng import as_rng, draw_seed
from histocell._core.settings import Settings, progress_bar


def test_safe_key():
    assert keys.safe_key("MahmoodLab/UNI2-h") == "MahmoodLab_UNI2-h"
    with pytest.raises(ValueError, match="no character"):
        keys.safe_key("///")


def test_safe_keys_are_all_different():
    assert keys.safe_keys(["a b", "a/b", "A_b", "左", "右", "c"]) == [
        "a_b",
        "a_b_2",
        "A_b_3",
        "unnamed",
        "unnamed_2",
        "c",
    ]


def test_safe_names_warn_once_and_keep_the_original():
    with pytest.warns(UserWarning, match="cannot be written") as record:
        names, changed = keys.safe_names(["Tumor/Stroma", "CD3+", "a/b"])
    assert names == ["Tumor_Stroma", "CD3+", "a_b"]
    assert changed == {"Tumor_Stroma": "Tumor/Stroma", "a_b": "a/b"}
    assert len(record) == 1


def test_names_that_become_the_same_are_an_error():
    with pytest.raises(ValueError, match="not unique"):
        keys.safe_names(["a/b", "a_b"])


def test_provenance_round_trip(tmp_path):
    adata = ad.AnnData(np.ones((2, 2), dtype=np.float32))
    keys.write_provenance(adata, "X_uni", encoder="uni", size_um=112.0, mpp=None)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = keys.read_provenance(ad.read_h5ad(tmp_path / "a.h5ad"), "X_uni")
    assert back["encoder"] == "uni"
    assert back["size_um"] == 112.0
    assert back["mpp"] is None
    assert keys.read_provenance(adata, "absent") == {}


def test_missing_key_says_what_exists_and_what_to_run():
    error = errors.missing_key("obsm", "X_uni", ["X_morphology"], 'Run hc.pp.embed_image(data, "uni") first.')
    assert isinstance(error, KeyError)
    assert str(error) == 'obsm["X_uni"] not found; available: X_morphology. Run hc.pp.embed_image(data, "uni") first.'


def test_listing_is_short():
    assert errors.listing(range(30)).endswith("(30 in all)")
    assert errors.listing([]) == "none"


def test_warning_points_at_the_user():
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        keys.safe_names(["a/b"])
    assert record[0].filename == __file__


def test_optional_package_names_its_extra():
    with pytest.raises(ImportError, match=r'pip install "histocell\[wsi\]"'):
        errors.import_optional("no_such_package", "wsi")


def test_rng_is_spec_7():
    assert draw_seed(as_rng(3)) == draw_seed(as_rng(np.random.default_rng(3)))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    draw_seed(as_rng(0))
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_settings_read_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOCELL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HISTOCELL_PROGRESS", "0")
    assert Settings().data_dir == tmp_path
    assert Settings().progress is False
    assert list(progress_bar(range(3))) == [0, 1, 2]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "denied"), OSError(28, "disk full"), MemoryError(), ImportError("no pyarrow")]
)
def test_a_file_is_not_called_damaged_for_what_is_wrong_with_the_machine(error):
    with pytest.raises(type(error)) as found, errors.reading("a.h5"):
        raise error
    assert found.value is error


@pytest.mark.parametrize(
    "error", [KeyError("obs"), OSError("bad superblock"), UnicodeDecodeError("utf-8", b"", 0, 1, "?")]
)
def test_what_a_library_says_of_a_damaged_file_names_the_file(error):
    with pytest.raises(OSError, match=r"a\.h5: the table is damaged or truncated .*; copy or") as found:
        with errors.reading("a.h5"), errors.reading("a.h5", "the table"):
            raise error
    assert found.value.__cause__ is error


def test_no_message_is_quoted():
    """``str`` of a `KeyError` escapes its message; that of what histocell raises is the message."""
    source = Path(errors.__file__).parents[1]
    assert [path.name for path in source.rglob("*.py") if "raise KeyError" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    "call",
    [
        lambda sdata: hc.pp.split(sdata, by="patient", test="it's"),
        lambda sdata: hc.pp.tiles(sdata, image_key="it's"),
        lambda sdata: hc.get.scores(sdata, table_key="it's"),
        lambda sdata: hc.tl.colocalization(sdata, ["it's"]),
        lambda sdata: hc.tl.colocalization(sdata, local=("it's", "plasma")),
        lambda sdata: hc.pp.patches(sdata, mpp={"other": 1.0}),
        lambda sdata: hc.encoders.get_spec("it's"),
    ],
)
def test_missing_names_are_shown_as_they_are(tissue, call):
    with pytest.raises(KeyError) as found:
        call(tissue)
    assert "\\" not in str(found.value)
    assert str(found.value)[0] not in "'\""


def test_missing_pair(tissue, user_sees):
    hc.tl.colocalization(tissue)
    with user_sees("Co-localization", "a pair whose local R was not asked for", KeyError, match="^local R of 'plasma'"):
        hc.pl.colocalization_pair(tissue, "plasma", "tumour")
