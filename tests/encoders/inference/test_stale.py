"""Stores whose slide or encoder is not the same any more: the features of another one are never given back."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import pytest
import tifffile
import torch

import histocell as hc
from histocell.encoders.inference.slides import definition, embed_slide
from histocell.encoders.networks.code import code_digest
from histocell.images import identity
from histocell.images.identity import file_checksum, image_checksum
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1600
CENTERS = np.stack(np.meshgrid(np.arange(40.0, SIZE, 80), np.arange(40.0, SIZE, 80)), axis=-1).reshape(-1, 2)


class Mean(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))


def embed(source, store: Path, module: torch.nn.Module | None = None) -> np.ndarray:
    encoder = hc.encoders.load(module or Mean(), device="cpu", batch_size=32)
    return np.asarray(embed_slide(encoder, open_image(source), CENTERS, mpp=0.5, size_um=40, store=store))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(120, 250, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def write(tmp_path):
    def write(pixels, name="a.tif"):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", tile=(128, 128))
        return tmp_path / name

    return write


def edited(pixels: np.ndarray) -> np.ndarray:
    """A band between the windows that a sample of the slide looks at."""
    pixels = pixels.copy()
    pixels[100:104] = 0
    return pixels


def test_an_array_that_was_edited(pixels, tmp_path, user_sees):
    before = embed(pixels, tmp_path / "s")
    assert (embed(pixels, tmp_path / "s") == before).all()
    assert open_image(pixels).fingerprint() == open_image(edited(pixels)).fingerprint()  # which a sample cannot tell
    with user_sees(
        "Files", "a store of features of a slide that was edited since", ValueError, match="settings: image is"
    ):
        embed(edited(pixels), tmp_path / "s")
    assert (embed(edited(pixels), tmp_path / "t") != before).any()


@pytest.mark.parametrize("chunks", [(300, 500, 3), (SIZE, 128, 3)])
def test_a_dask_array_that_was_edited(pixels, tmp_path, chunks):
    before = embed(da.from_array(pixels, chunks=chunks), tmp_path / "s")
    assert (embed(da.from_array(pixels, chunks=chunks), tmp_path / "s") == before).all()
    with pytest.raises(ValueError, match=r"image is"):
        embed(da.from_array(edited(pixels), chunks=chunks), tmp_path / "s")


def test_a_file_that_was_edited(pixels, write, tmp_path):
    path = write(pixels)
    status = path.stat()
    before = embed(path, tmp_path / "s")
    write(edited(pixels))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    with pytest.raises(ValueError, match=r"image is"):
        embed(path, tmp_path / "s")
    element = hc.io.slide(path, mpp=0.5)["he"]  # the same file as an element
    with pytest.raises(ValueError, match=r"image is"):
        embed(element, tmp_path / "s")
    write(pixels)
    assert (embed(path, tmp_path / "s") == before).all()


def test_a_file_with_the_same_content_is_the_same(pixels, write, tmp_path):
    """Wherever it lies and whenever it was written; it is read as bytes only where it was touched."""
    path = write(pixels)
    before = embed(path, tmp_path / "s")
    copy = shutil.copy(path, tmp_path / "elsewhere.tif")
    os.utime(path, (0, 0))
    assert (embed(copy, tmp_path / "s") == before).all()
    assert (embed(path, tmp_path / "s") == before).all()
    assert (embed(hc.io.slide(path, mpp=0.5)["he"], tmp_path / "s") == before).all()


def test_files_are_read_once(pixels, write, monkeypatch):
    path = write(pixels)
    first = file_checksum(path)
    monkeypatch.setattr(identity, "_checksum_of_block", None)
    assert file_checksum(path) == first
    os.utime(path, (0, 0))
    with pytest.raises(TypeError):
        file_checksum(path)


def test_every_byte_of_a_file_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_BLOCK_BYTES", 64)
    content = bytearray(np.random.default_rng(0).bytes(1000))
    path, found = tmp_path / "a.svs", set()
    for position in (None, *range(0, 1000, 37)):
        changed = bytearray(content)
        if position is not None:
            changed[position] ^= 1
        path.write_bytes(changed)
        os.utime(path, ns=(0, position or 0))
        found.add(file_checksum(path))
    assert len(found) == 1 + len(range(0, 1000, 37))


def test_files_beside_a_slide_count(tmp_path):
    """MIRAX keeps its pixels in a folder."""
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"index")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"pixels")
    (tmp_path / "b.mrxs").write_bytes(b"of another")
    before = file_checksum(path)
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"PIXELS")
    assert file_checksum(path) != before


def test_levels_that_are_not_read_do_not_count(pixels):
    from xarray import DataArray, DataTree

    def pyramid(full: np.ndarray):
        dims = ("y", "x", "c")
        half = DataArray(pixels[::2, ::2], dims=dims)
        return DataTree.from_dict(
            {f"scale{i}": each.to_dataset(name="image") for i, each in enumerate((DataArray(full, dims=dims), half))}
        )

    one, other = (open_image(pyramid(full)) for full in (pixels, edited(pixels)))
    assert image_checksum(one) != image_checksum(other)
    assert image_checksum(one, px=2.0) == image_checksum(other, px=2.0)


def twice(images):
    return images * 2


def thrice(images):
    return images * 3


def module_class(source: str, **names) -> type[torch.nn.Module]:
    """A class called `Net`, from its source."""
    scope = {"torch": torch, **names}
    exec(source, scope)
    return scope["Net"]


FORWARD = """
class Net(torch.nn.Module):
    scale = 1.0
    def __init__(self, **facts):
        super().__init__()
        self.__dict__.update(facts)
    def forward(self, images):
        {comment}
        return {value}.mean(dim=(2, 3)) * self.scale
"""


def net(value="images", comment="pass", *, names=None, **facts) -> torch.nn.Module:
    return module_class(FORWARD.format(value=value, comment=comment), **(names or {}))(**facts)


def hooked(factor: float) -> torch.nn.Module:
    module = net()
    module.register_forward_hook(lambda *arguments: arguments[-1] * factor)
    return module


OTHERS = {
    "forward": (net(), net("images[:, :, :5]")),
    "constant": (net("(images + 1)"), net("(images + 2)")),
    "attribute": (net(scale=2.0), net(scale=3.0)),
    "attribute of the class": (
        net(),
        module_class(FORWARD.replace("1.0", "2.0").format(value="images", comment="pass"))(),
    ),
    "function of the file": tuple(net("f(images)", names={"f": f}) for f in (twice, thrice)),
    "number of the file": tuple(net("(images * FACTOR)", names={"FACTOR": f}) for f in (2, 3)),
    "function as an attribute": tuple(net("self.f(images)", f=f) for f in (torch.relu, torch.tanh)),
    "part of a function": tuple(net("self.f(images)", f=partial(torch.mul, other=f)) for f in (2, 3)),
    "hook": (hooked(2.0), hooked(3.0)),
    "stride": tuple(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=s), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        for s in (1, 2)
    ),
    "order": tuple(
        torch.nn.Sequential(Mean(), *layers)
        for layers in ((torch.nn.ReLU(), torch.nn.Tanh()), (torch.nn.Tanh(), torch.nn.ReLU()))
    ),
}
for one, other in OTHERS.values():
    other.load_state_dict(one.state_dict())


@pytest.mark.parametrize(("one", "other"), OTHERS.values(), ids=OTHERS)
def test_a_module_of_the_same_name_and_weights(one, other, pixels, tmp_path):
    """But with another result, which would not be computed."""
    before = embed(pixels, tmp_path / "s", one)
    assert (embed(pixels, tmp_path / "s", one) == before).all()
    with pytest.raises(ValueError, match=r"revision is .*, now"):
        embed(pixels, tmp_path / "s", other)


def test_the_same_module_in_another_process_is_the_same():
    import subprocess
    import sys

    script = """
import timm, torch
from histocell.encoders.networks.code import code_digest
torch.nn.Linear(1, 1).register_forward_hook(print)
module = timm.create_model("resnet18")
module.register_forward_hook(print)
print(code_digest(module))
"""
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 8


def test_comments_and_copies_do_not_count(tmp_path):
    import copy
    import importlib.util

    digests = []
    for text in (
        FORWARD.format(value="images", comment="pass"),
        FORWARD.format(value="images", comment="pass  # fine"),
    ):
        file = tmp_path / f"net{len(digests)}.py"
        file.write_text("import torch\n" + text)
        spec = importlib.util.spec_from_file_location("net", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        digests += [code_digest(module.Net()), code_digest(copy.deepcopy(module.Net()))]
    assert len(set(digests)) == 1


def test_a_spec_that_was_changed(pixels, tmp_path, monkeypatch):
    """The same name and weights, another normalisation."""
    from histocell.encoders import registry

    spec = hc.encoders.EncoderSpec(
        name="ours", library="timm", arch="vit_tiny_patch16_224", arch_kwargs={"img_size": 32, "depth": 1}, input_px=32
    )
    registry.list_encoders()

    def run(spec) -> np.ndarray:
        monkeypatch.setitem(registry._REGISTRY, "ours", spec)
        encoder = hc.encoders.load("ours", weights="random", device="cpu", batch_size=32)
        return embed_slide(encoder, open_image(pixels), CENTERS, mpp=0.5, size_um=40, store=tmp_path / "s")

    run(spec)
    run(replace(spec, summary="reads the same", license="MIT"))
    for change in ({"mean": (0.7, 0.5, 0.7)}, {"interpolation": "bilinear"}):
        with pytest.raises(ValueError, match="definition is"):
            run(replace(spec, **change))


def test_a_definition_is_the_same_in_every_process():
    spec = hc.encoders.get_spec("uni")
    assert definition(spec) == definition(replace(spec, citation=""))
    layer = replace(spec, arch_kwargs={"norm_layer": partial(torch.nn.LayerNorm, eps=1e-6), "act": twice})
    assert definition(layer) == definition(replace(layer, arch_kwargs=dict(layer.arch_kwargs)))
    assert definition(layer) != definition(spec)


def test_other_values_of_black_and_white(tmp_path):
    """A sample that is all white with either of two ranges says nothing, and neither does the file."""
    pixels = np.full((SIZE, SIZE, 3), 3000, np.uint16)
    pixels[100:104] = 1000  # between the windows of the sample
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(128, 128))
    element = hc.io.slide(tmp_path / "a.tif", mpp=0.5, intensity_range=(0, 2000))["he"]
    narrow, wide = (open_image(tmp_path / "a.tif", intensity_range=(0, high)) for high in (2000, 2500))
    assert narrow.fingerprint() == wide.fingerprint()
    before = embed(narrow, tmp_path / "s")
    assert (embed(element, tmp_path / "s") == before).all()
    with pytest.raises(ValueError, match="image is"):
        embed(wide, tmp_path / "s")
