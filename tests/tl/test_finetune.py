"""Tuning of an encoder by expression: what it writes, what it looks at, and bad input."""

from __future__ import annotations

import warnings
from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import histocell as hc
from histocell.encoders import registry
from histocell.models.finetuning.heads import load_heads

pytest.importorskip("peft")
FAST = {"weights": "random", "genes": 12, "warmup_epochs": 1, "max_epochs": 1, "batch_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def _patients():
    sdata = hc.datasets.synthetic_tissue(
        4, n_patients=4, size_px=500, spot_pitch_um=50, spot_diameter_um=50, n_genes=20, rng=0
    )
    some = sdata["table"].X.toarray().sum(axis=1) > 0  # spots between cells have no counts
    sdata["table"] = sdata["table"][some].copy()
    hc.pp.patches(sdata, size_um=50)
    hc.pp.split(sdata, by="patient", val="P3", test="P4")
    return sdata


@pytest.fixture
def patients(_patients, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._registry()))
    spec = hc.encoders.EncoderSpec(
        name="tests-vit",
        library="timm",
        arch="vit_tiny_patch16_224",
        arch_kwargs={"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2},
        input_px=16,
        pooling="cls",
        license="MIT",
    )
    hc.encoders.register(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return deepcopy(_patients)


def tables_of(sdata):
    """A table for each patient, with its image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [sdata.filter_by_coordinate_system(f"global-P{n}S1") for n in (1, 2, 3, 4)]


def test_the_whole_way(patients, tmp_path):
    result = hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)
    assert (result.train_groups, result.val_groups) == (["P1", "P2"], ["P3"])
    assert "of 2 groups, 12 genes; 1 epochs" in repr(result)
    assert "3,072 of" in result.parameters  # rank 8: 8 (24 + 72 + 24 + 24 + 24 + 96 + 96 + 24)
    table = patients["table"]
    assert table.uns["finetuning"]["history"]["train_loss"].shape == (1, 1)
    assert hc.pl.history(patients, key="finetuning", show=False).get_xlabel() == "epoch"
    plt.close("all")
    hc.pp.embed_image(patients, "tests-vit", weights="random")
    hc.pp.embed_image(patients, hc.encoders.register_adapter(tmp_path, name="tests-tuned"))
    tuned, frozen = table.obsm["X_tests-tuned"], table.obsm["X_tests-vit"]
    assert tuned.shape == frozen.shape
    assert not np.allclose(tuned, frozen)
    decoded = load_heads(tmp_path).decoder(torch.tensor(tuned))
    assert decoded.shape == (table.n_obs, 12)


def test_test_rows_are_not_looked_at(patients, tmp_path):
    hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path / "a", **FAST)
    table = patients["table"]
    held = (table.obs["split"] == "test").to_numpy()
    counts = table.X.toarray()
    counts[held] = np.random.default_rng(0).poisson(50, counts[held].shape)
    table.X = counts
    image = patients["he-P4S1"]
    image.data = image.data * 0
    hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path / "b", **FAST)
    a, b = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "ab")
    assert a == b


def test_a_patient_is_held_out_where_none_validates(patients, tmp_path):
    hc.pp.split(patients, by="patient", test="P4")
    with pytest.warns(UserWarning, match="no validation rows: 'P[123]'"):
        result = hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)
    assert len(result.val_groups) == 1
    assert not set(result.val_groups) & set(result.train_groups)
    assert "P4" not in result.train_groups + result.val_groups


def test_one_patient(patients, tmp_path, user_sees):
    hc.pp.split(patients, by="patient", test=["P2", "P3", "P4"])
    overlap = pytest.warns(UserWarning, match="3 training or validation rows are left out: their patches overlap")
    with overlap, user_sees("Tuning", "one patient to train on", UserWarning, match="of one patient"):
        hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)


def test_several_tables(patients, tmp_path):
    tables = tables_of(patients)
    result = hc.tl.finetune_encoder(tables, "tests-vit", out=tmp_path / "b", **FAST)
    assert (result.train_groups, result.val_groups) == (["P1", "P2"], ["P3"])
    whole = hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path / "a", **FAST)
    assert whole.history["val_loss"] == pytest.approx(result.history["val_loss"], rel=1e-5)


def test_tables_without_shared_genes(patients, tmp_path, user_sees):
    tables = tables_of(patients)
    table = tables[1]["table"]
    table.var_names = [f"ENSG{i:011d}" for i in range(table.n_vars)]
    with user_sees("Tuning", "tables that share no gene", ValueError, match="share no gene"):
        hc.tl.finetune_encoder(tables, "tests-vit", out=tmp_path, **FAST)


@pytest.mark.parametrize(
    ("given", "spoil", "message"),
    [
        ("normalised counts", np.log1p, "raw counts.*fractions"),
        (
            "counts with NaN",
            lambda counts: np.where(np.arange(len(counts))[:, None] == 3, np.nan, counts),
            "raw counts.*not finite",
        ),
        ("counts below 0", lambda counts: counts - 1, "raw counts.*below 0"),
    ],
)
def test_values_that_are_no_counts(patients, tmp_path, user_sees, given, spoil, message):
    patients["table"].X = spoil(patients["table"].X.toarray())
    with user_sees("Tuning", given, ValueError, match=message):
        hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)


def test_rows_without_counts_are_left_out(patients, tmp_path, user_sees):
    counts = patients["table"].X.toarray()
    counts[:2] = 0
    patients["table"].X = counts
    match = "2 training or validation rows have no counts"
    with user_sees("Tuning", "spots without counts", UserWarning, match=match):
        hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)


@pytest.mark.parametrize(
    ("given", "encoder", "options", "error", "message"),
    [
        ("an encoder without named attention", "timm/resnet18", {}, ValueError, "attention"),
        ("an encoder without weights", "morphology", {}, ValueError, "no weights to tune"),
        ("an encoder whose licence forbids derivatives", "uni", {}, PermissionError, "licence"),
        ("a batch of one", "tests-vit", {"batch_size": 1}, ValueError, "batch_size must be at least 2"),
        ("a gene that no table has", "tests-vit", {"genes": ["NOPE"]}, KeyError, "NOPE"),
        ("a split that says something else", "tests-vit", {"split_key": "section"}, ValueError, "train, val, test"),
    ],
)
def test_what_cannot_be_tuned(patients, tmp_path, user_sees, given, encoder, options, error, message):
    with user_sees("Tuning", given, error, match=message):
        hc.tl.finetune_encoder(patients, encoder, out=tmp_path, **(FAST | options))


@pytest.mark.parametrize(
    ("encoder", "options", "error", "message"),
    [
        ("no-such-encoder", {}, KeyError, "not known"),
        ("tests-vit", {"method": "clip"}, ValueError, "method must be one of seal, recon, contrastive"),
        ("tests-vit", {"blocks": 3}, ValueError, "blocks"),
        ("tests-vit", {"precision": "fp16"}, ValueError, "precision"),
        ("tests-vit", {"pool": "attention"}, ValueError, "cannot pool"),
        ("tests-vit", {"genes": 0}, ValueError, "genes"),
        ("tests-vit", {"config": {"lr": 1.0}}, TypeError, "config= repeats lr"),
        ("tests-vit", {"config": {"speed": 1.0}}, TypeError, "no setting speed"),
    ],
)
def test_bad_arguments(patients, tmp_path, encoder, options, error, message):
    with pytest.raises(error, match=message):
        hc.tl.finetune_encoder(patients, encoder, out=tmp_path, **(FAST | options))


def test_nothing_to_train_on(patients, tmp_path):
    patients["table"].obs["split"] = "test"
    with pytest.raises(ValueError, match=r'obs\["split"\]'):
        hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)


def test_without_patches(patients, tmp_path, user_sees):
    del patients["table"].obsm["patches"]
    with user_sees("Tuning", "a table without patches", KeyError, match=r"hc\.pp\.patches"):
        hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)


def test_other_settings_in_the_same_folder(patients, tmp_path, user_sees):
    hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)
    with user_sees("Tuning", "other settings in the folder of a run", ValueError, match=r"rank was 8 and is 4"):
        hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, rank=4, **FAST)
    hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, rank=4, overwrite=True, **FAST)


def test_modules_stay_as_they_are(patients, tmp_path):
    timm = pytest.importorskip("timm")
    module = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, num_classes=0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    hc.tl.finetune_encoder(patients, module, out=tmp_path, **{**FAST, "weights": None})
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_files_of_others_stay(patients, tmp_path, user_sees):
    (tmp_path / "README.md").write_text("mine")
    with user_sees("Tuning", "a folder that holds files of others", FileExistsError, match=r"README\.md"):
        hc.tl.finetune_encoder(patients, "tests-vit", out=tmp_path, **FAST)
    assert (tmp_path / "README.md").read_text() == "mine"
