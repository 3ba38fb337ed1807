"""Folders of adapters: written, read strictly, merged, and used as encoders by name."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import histocell as hc
from histocell._core.keys import read_provenance
from histocell._core.outputs import file_digest
from histocell.encoders import adapters

pytest.importorskip("peft")


def test_merged_weights_give_the_output_of_the_adapter(folder, images, tiny):
    expected = folder.network(images).detach()
    base = tiny.network()(images).detach()
    assert (expected - base).abs().max() > 1e-3
    read = tiny.network()
    adapters.apply_adapter(read, adapters.read_adapter(folder.path))
    torch.testing.assert_close(read(images).detach(), expected, atol=1e-6, rtol=1e-6)
    beside = adapters.load_adapter(folder.path, tiny.network())
    assert torch.equal(beside(images), expected)
    merged = adapters.merge(beside)
    torch.testing.assert_close(merged(images).detach(), expected, atol=1e-6, rtol=1e-6)
    assert type(merged) is type(tiny.network())


def test_peft_reads_the_folder_by_itself(folder, images, tiny):
    import peft

    theirs = peft.PeftModel.from_pretrained(tiny.network(), folder.path).eval()
    assert torch.equal(theirs(images), folder.network(images))


def test_all_blocks_of_a_deep_network(tmp_path, images, tiny):
    """Of twenty targets and more peft keeps what their names have in common; a folder names each."""
    spec = replace(tiny.spec, arch_kwargs={**tiny.spec.arch_kwargs, "depth": 8})
    network, report = adapters.add_lora(tiny.network(spec), spec, blocks=8)
    assert len(report.targets) == 32
    adapters.save_adapter(tmp_path / "deep", network, spec=spec, version="random-0", metadata={})
    adapter = adapters.read_adapter(tmp_path / "deep")
    assert set(adapter.targets) == set(report.targets)
    again = adapters.load_adapter(adapter, tiny.network(spec))
    torch.testing.assert_close(again(images), network.eval()(images))


def test_only_the_updates_are_trained(folder, tiny):
    again = adapters.load_adapter(folder.path, tiny.network(), trainable=True)
    names = [name for name, parameter in again.named_parameters() if parameter.requires_grad]
    assert len(names) == 8
    assert all("lora_" in name for name in names)
    assert (
        sum(again.get_parameter(name).numel() for name in names) == folder.report.trainable == 8 * 48 * (4 + 2 + 5 + 5)
    )


def test_an_adapter_is_an_encoder_by_name(folder, images, cohort, tiny):
    name = hc.encoders.register_adapter(folder.path)
    assert name == "tiny-breast"
    assert name in hc.encoders.list_encoders().index
    assert hc.encoders.register_adapter(folder.path) == name  # again
    encoder = hc.encoders.load(name, device="cpu")  # the base is random: its seed is known
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    base = hc.encoders.load(tiny.network(), device="cpu")
    assert np.abs(encoder.forward(pixels) - base.forward(pixels)).max() > 1e-3
    hc.pp.embed_image(cohort, name)
    facts = read_provenance(cohort["table"], "X_tiny-breast")
    digest = adapters.read_adapter(folder.path).digest
    assert (facts["base"], facts["adapter"]) == ("tiny", digest)
    assert facts["revision"] == f"random-0+{digest}"
    assert hc.encoders.get_spec(str(folder.path)).name == name  # the path works where a name does, as in the CLI


def test_another_adapter_is_another_revision_and_definition(folder, tmp_path, tiny):
    from histocell.encoders.inference.slides import definition

    net, _ = tiny.tuned(seed=2)
    adapters.save_adapter(tmp_path / "other", net, spec=tiny.spec, version="random-0", metadata={})
    first, second = (hc.encoders.get_spec(str(path)) for path in (folder.path, tmp_path / "other"))
    assert first.adapter.digest != second.adapter.digest
    assert len({definition(first), definition(second), definition(tiny.spec)}) == 3
    with pytest.raises(ValueError, match="'other' is registered already"):
        hc.encoders.register_adapter(folder.path, name="other")
    assert hc.encoders.register_adapter(folder.path, name="other", overwrite=True) == "other"


def test_base_from_a_file(folder, tmp_path, images, tiny):
    name = hc.encoders.register_adapter(folder.path)
    save_file(tiny.network().trunk.state_dict(), tmp_path / "base.safetensors")
    save_file(tiny.network(rng=7).trunk.state_dict(), tmp_path / "another.safetensors")
    encoder = hc.encoders.load(name, weights=tmp_path / "base.safetensors", device="cpu")
    assert encoder.version.startswith("base.safetensors-")
    with pytest.raises(ValueError, match=r"was trained on other weights: its base is 'tiny' in the version 'random-0'"):
        hc.encoders.load(name, weights=tmp_path / "another.safetensors", device="cpu")
    with pytest.raises(ValueError, match="was trained on other weights"):
        hc.encoders.load(name, weights="random", rng=3, device="cpu")


def test_an_adapter_for_another_network(folder, tiny):
    wide = replace(tiny.spec, arch_kwargs={"depth": 2, "img_size": 32, "embed_dim": 96}, dim=96)
    with pytest.raises(
        ValueError, match=r"for another network than this one: .*attn\.proj is \(96, 96\) instead of \(48, 48\)"
    ):
        adapters.apply_adapter(tiny.network(wide), adapters.read_adapter(folder.path))
    shallow = replace(tiny.spec, arch_kwargs={"depth": 1, "img_size": 32, "embed_dim": 48})
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.proj is not there"):
        adapters.load_adapter(folder.path, tiny.network(shallow))


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def with_new_checksums(path):
    files = {name: file_digest(path / name) for name in ("adapter_model.safetensors", "adapter_config.json")}
    change(path / "histocell.json", lambda record: record.update(files=files))


def test_damaged_folders(folder):
    def copy(name):
        return shutil.copytree(folder.path, folder.path.parent / name)

    tensors = "adapter_model.safetensors"
    cut = copy("cut")
    (cut / tensors).write_bytes((cut / tensors).read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not the file that histocell.json was written with: it is truncated"):
        adapters.read_adapter(cut)
    with_new_checksums(cut)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        adapters.read_adapter(cut)

    for name, edit, message in (
        ("fewer", lambda state: state.pop(next(iter(state))), r"missing: base_model\.model\.trunk\.blocks\.1\.attn"),
        ("more", lambda state: state.update({"extra.lora_A.weight": torch.zeros(8, 4)}), r"unexpected: extra\.lora_A"),
        ("nan", lambda state: next(iter(state.values())).fill_(torch.nan), "not finite: "),
        ("rank", lambda state: state.update({next(iter(state)): torch.zeros(4, 48)}), "not of rank 8: "),
    ):
        path = copy(name)
        state = load_file(path / tensors)
        edit(state)
        save_file(state, path / tensors)
        with_new_checksums(path)
        with pytest.raises(ValueError, match=message):
            adapters.read_adapter(path)

    dora = copy("dora")
    change(dora / "adapter_config.json", lambda config: config.update(use_dora=True))
    with_new_checksums(dora)
    with pytest.raises(ValueError, match=r"is not plain LoRA \(LORA; use_dora=True\)"):
        adapters.read_adapter(dora)
    for files in (None, -1, {}, {tensors: "0"}):
        unknown = copy(f"unknown-{files!r:.4}")
        change(unknown / "histocell.json", lambda record, files=files: record.update(files=files))
        with pytest.raises(ValueError, match="does not hold the checksums of"):
            adapters.read_adapter(unknown)
    future = copy("future")
    change(future / "histocell.json", lambda record: record.update(format=2))
    with pytest.raises(ValueError, match="in format 2; this histocell reads 'histocell adapter' in format 1"):
        adapters.read_adapter(future)
    bare = copy("bare")
    (bare / "histocell.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"histocell\.json not found"):
        hc.encoders.register_adapter(bare)
    with pytest.raises(KeyError, match="neither an encoder's name nor the folder of an adapter"):
        hc.encoders.get_spec(str(bare))


def test_a_folder_that_changed_after_it_was_registered(folder, tiny):
    name = hc.encoders.register_adapter(folder.path)
    net, _ = tiny.tuned(seed=9)
    adapters.save_adapter(
        folder.path, net, spec=tiny.spec, version="random-0", metadata={}
    )  # its own files are replaced
    with pytest.raises(ValueError, match="was changed since 'tiny-breast' was registered"):
        hc.encoders.load(name, device="cpu")
    assert hc.encoders.register_adapter(folder.path) == name
    hc.encoders.load(name, device="cpu")


def test_files_of_others_stay(folder, tmp_path, tiny):
    (folder.path / "README.md").write_text("my notes")
    before = (folder.path / "adapter_model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"README\.md would be replaced but was not written by histocell"):
        adapters.save_adapter(folder.path, tiny.tuned(seed=3)[0], spec=tiny.spec, metadata={})
    assert (folder.path / "README.md").read_text() == "my notes"
    assert (folder.path / "adapter_model.safetensors").read_bytes() == before


def test_licences_that_forbid_derivatives(tmp_path, tiny):
    net, _ = tiny.tuned()
    restricted = {name for name in hc.encoders.list_encoders().index if hc.encoders.get_spec(name).forbids_derivatives}
    assert restricted == {"conch", "conch-v1.5", "uni", "uni2-h", "virchow2", "h-optimus-1", "h0-mini", "gpfm"}
    spec = replace(tiny.spec, license="CC-BY-NC-ND-4.0")
    with pytest.raises(PermissionError, match="does not allow to pass on what is derived from it"):
        adapters.save_adapter(tmp_path / "a", net, spec=spec, metadata={})
    assert not (tmp_path / "a").exists()
    adapters.save_adapter(tmp_path / "a", net, spec=spec, metadata={}, allow_restricted=True)
    assert "does not allow to pass on derivatives" in (tmp_path / "a" / "README.md").read_text()


def test_what_cannot_be_saved(tmp_path, tiny):
    net, _ = tiny.tuned()
    with pytest.raises(ValueError, match="metadata must hold what JSON can hold"):
        adapters.save_adapter(tmp_path / "a", net, spec=tiny.spec, metadata={"genes": {1, 2}})
    with pytest.raises(ValueError, match="must come from hc.encoders.adapters.add_lora"):
        adapters.save_adapter(tmp_path / "a", tiny.network(), spec=tiny.spec, metadata={})
    with torch.no_grad():
        next(p for n, p in net.named_parameters() if "lora_B" in n).fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        adapters.save_adapter(tmp_path / "a", net, spec=tiny.spec, metadata={})
    assert not (tmp_path / "a").exists()


def test_no_adapter_on_top_of_an_adapter(folder, tiny):
    spec = hc.encoders.get_spec(str(folder.path))
    with pytest.raises(ValueError, match=r"has an adapter in its weights already.*trainable=True"):
        adapters.add_lora(tiny.network(spec, None), spec)


def test_the_card_says_what_it_is(folder):
    card = (folder.path / "README.md").read_text()
    assert re.search(r"^license: mit$", card, re.MULTILINE)
    assert "holds the updates only" in card
    assert "random-0" in card
