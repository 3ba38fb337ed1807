"""Where weights come from, and what is said when they do not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

import histocell as hc
from histocell.encoders import registry
from histocell.encoders.networks.build import build

COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
TINY = hc.encoders.EncoderSpec(
    name="tiny",
    library="timm",
    hub_id="someone/tiny",
    arch="vit_tiny_patch16_224",
    arch_kwargs={"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2},
    pooling="cls",
    patch_px=16,
    prefix_tokens=1,
    input_px=32,
)


@pytest.fixture(autouse=True)
def _tiny_is_registered(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", {"tiny": TINY})


@pytest.fixture
def network():
    torch.manual_seed(3)
    return build(TINY).trunk.eval()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)

    def download(*args, **kwargs):
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path


def snapshot(hub, commit=COMMIT, repository="someone/tiny"):
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    return folder / "snapshots" / commit


def load(**arguments):
    return hc.encoders.load("tiny", device="cpu", precision="fp32", **arguments)


def embed(network):
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (TINY.mean, TINY.std))
    with torch.no_grad():
        return network((images - mean) / std).numpy()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth"])
def test_a_file(network, tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    encoder = load(weights=path)
    np.testing.assert_allclose(hc.encoders.encode(encoder, IMAGES), embed(network), atol=1e-5)
    assert re.fullmatch(rf"mine{re.escape(suffix)}-[0-9a-f]{{8}}", encoder.version)


def test_the_version_is_that_of_the_content(network, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file(network.state_dict(), tmp_path / name / "model.safetensors")
    first, again = (load(weights=tmp_path / name).version.rpartition("-")[2] for name in ("a", "b"))
    network.norm.bias.data += 1
    save_file(network.state_dict(), tmp_path / "a" / "model.safetensors")
    assert first == again != load(weights=tmp_path / "a").version.rpartition("-")[2]


@pytest.mark.parametrize("half", [False, True])
def test_a_folder_with_shards_in_half_precision(network, tmp_path, half):
    state = {name: value.half() if half else value for name, value in network.state_dict().items()}
    names = sorted(state)
    files = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in files.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    out = hc.encoders.encode(load(weights=tmp_path), IMAGES)
    np.testing.assert_allclose(out, embed(network), atol=5e-3 if half else 1e-5)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="shards that are not there: model-00002"):
        load(weights=tmp_path)


def test_the_cache_of_the_hub_needs_no_connection(network, hub):
    save_file(network.state_dict(), snapshot(hub) / "model.safetensors")
    encoder = load()
    np.testing.assert_allclose(hc.encoders.encode(encoder, IMAGES), embed(network), atol=1e-5)
    assert encoder.version == COMMIT


def test_a_config_on_the_hub_sets_the_sizes_of_models_of_transformers(network, hub):
    folder = snapshot(hub)
    save_file(network.state_dict(), folder / "model.safetensors")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    (folder / "config.json").write_text(json.dumps({**sizes, "image_size": 32, "patch_size": 16}))
    registry._REGISTRY["tiny"] = replace(TINY, library="transformers", arch_kwargs={}, input_px=224)
    encoder = load()
    assert (encoder.spec.input_px, encoder.spec.grid, encoder.spec.dim) == (32, (2, 2), 24)
    np.testing.assert_allclose(hc.encoders.encode(encoder, IMAGES), embed(network), atol=1e-5)


def test_a_download_takes_the_pinned_revision(network, hub, monkeypatch):
    asked = []

    def download(repository, name, *, revision):
        asked.append((repository, name, revision))
        if name != "pytorch_model.bin":
            raise errors.EntryNotFoundError("404")
        folder = snapshot(hub, revision)
        torch.save(network.state_dict(), folder / name)
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    registry._REGISTRY["tiny"] = replace(TINY, revision=COMMIT)
    assert load().version == COMMIT
    assert asked == [("someone/tiny", name, COMMIT) for name in ("model.safetensors", "pytorch_model.bin")]
    assert load().version == COMMIT
    assert len(asked) == 2  # the second time it is in the cache


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None, url="")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (lambda: errors.GatedRepoError("401", response=response(401)), PermissionError, "gated.*/someone/tiny.*hf auth login.*HF_TOKEN.*weights="),
        (lambda: errors.LocalEntryNotFoundError("offline"), OSError, "not in the hub's cache.*cannot be reached.*weights="),
        (lambda: errors.OfflineModeIsEnabled("offline"), OSError, "HF_HUB_OFFLINE"),
        (lambda: errors.RepositoryNotFoundError("404", response=response(404)), OSError, "does not exist, or is private"),
        (lambda: errors.RevisionNotFoundError("404", response=response(404)), OSError, "no revision"),
        (lambda: errors.EntryNotFoundError("404"), FileNotFoundError, "someone/tiny has none of model.safetensors"),
        (lambda: errors.HfHubHTTPError("503", response=response(503)), OSError, "could not be downloaded.*try again"),
    ],
)  # fmt: skip
def test_errors_of_the_hub_say_what_to_do(hub, monkeypatch, error, kind, message):
    def download(*args, **kwargs):
        raise error()

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(kind, match=message):
        load()


class Evil:
    def __reduce__(self):
        return (print, ("code of a stranger",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "pointer of git-lfs"),
        (b"", "0 bytes.*Download it again"),
        (b"\x80\x02cbuiltins\nprint\nX\x01\x00\x00\x00a\x85R.", "cannot be read as weights|run code"),
    ],
    ids=["git-lfs", "empty", "pickle"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_files_that_are_no_weights(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){name}.*({message})"):
        load(weights=tmp_path)


def test_truncated_files(network, tmp_path):
    for name, save in (("w.safetensors", save_file), ("w.bin", torch.save)):
        save(network.state_dict(), tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="Download it again"):
            load(weights=tmp_path / name)


def test_a_flipped_bit_in_a_checkpoint(network, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(network.state_dict(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"its part w/data/\d+ differs from its checksum"):
        load(weights=path)


def test_objects_in_a_checkpoint_are_not_built(network, tmp_path, capsys):
    torch.save({"state_dict": network.state_dict(), "args": Evil()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"more than tensors.*save its tensors once"):
        load(weights=tmp_path / "w.pt")
    assert "stranger" not in capsys.readouterr().out


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(weights=tmp_path / "nothing")
    (tmp_path / "readme.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"looked for model.safetensors.*there is readme.txt"):
        load(weights=tmp_path)


def test_weights_of_another_network(tmp_path):
    other = build(replace(TINY, arch_kwargs={**TINY.arch_kwargs, "embed_dim": 48, "depth": 3})).trunk
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"of 'tiny'.*3 blocks, 48 wide, with tokens of 16 px.*unexpected: blocks.2"):
        load(weights=tmp_path / "w.safetensors")
    torch.save({"epoch": 1}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="holds no weights"):
        load(weights=tmp_path / "w.pt")


def test_heads_of_classifiers_are_dropped_and_positions_resampled(network, tmp_path):
    wide = timm.create_model(TINY.arch, **{**TINY.arch_kwargs, "img_size": 64}, num_classes=7)
    save_file(wide.state_dict(), tmp_path / "w.safetensors")
    wide.set_input_size(img_size=32)
    wide.reset_classifier(0)
    out = hc.encoders.encode(load(weights=tmp_path / "w.safetensors"), IMAGES)
    np.testing.assert_allclose(out, embed(wide.eval()), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("{", "no valid JSON"),
        (b"\xff{}", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"model_args": 1}', "describes no network"),
        ('{"model_args": {"depth": 1000000000000}}', "has 1000000000000 blocks"),
        ('{"model_args": {"depth": -1}}', "has -1 blocks"),
        ('{"model_args": {"embed_dim": "x"}}', "describes no network"),
        ('{"model_args": {"embed_dim": 1000000000000}}', "describes no network|not fit|shape"),
        ('{"vision_cfg": {}}', "describes no network"),
        ('{"hidden_size": null}', "describes no network"),
    ],
)
def test_a_config_that_was_damaged(tmp_path, config, match):
    network = timm.create_model("test_vit", num_classes=0)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(config if isinstance(config, bytes) else config.encode())
    with pytest.raises(ValueError, match=match) as error:
        hc.encoders.load("timm/test_vit", weights=tmp_path, device="cpu")
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": 5}', '{"weight_map": {"a": 5}}', '{"weight_map": {}}'])
def test_an_index_that_was_damaged(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match="names no files of weights"):
        hc.encoders.load("timm/test_vit", weights=tmp_path, device="cpu")
