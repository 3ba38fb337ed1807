from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from histocell.encoders.inference.nucleus_tokens import NucleusPooling
from histocell.encoders.inference.patch_encoder import PatchEncoder
from histocell.encoders.inference.slides import embed_slide
from histocell.encoders.loading import encode
from histocell.encoders.networks.backbone import Backbone
from histocell.encoders.spec import EncoderSpec
from histocell.images.slide_image import open_image

EDGE = 16
SPEC = EncoderSpec(name="tiny", library="module", input_px=EDGE)
WINDOW = {"mpp": 0.5, "size_um": 0.5 * EDGE}


class Mean(torch.nn.Module):
    """Mean colour of a patch and of its upper half, in the order and scale in which patches come."""

    def forward(self, images):
        return torch.cat([images.mean(dim=(2, 3)), images[:, :, : EDGE // 2].mean(dim=(2, 3))], dim=1)


class Hungry(Mean):
    """Has memory for `limit` images."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit
        self.seen = []

    def __deepcopy__(self, memo):
        return self  # encoders work on a copy; these tests look at what it was given

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.limit:
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB."
            raise torch.OutOfMemoryError(msg)
        return super().forward(images)


class Broken(Mean):
    """Does something else with its output."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, images):
        return self.change(super().forward(images))


def encoder_of(network, **arguments):
    return PatchEncoder(Backbone(network), SPEC, version="1", **{"device": "cpu", **arguments})


@pytest.fixture
def slide():
    return open_image(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8), mpp=0.5)


@pytest.fixture
def centers():
    return np.random.default_rng(1).uniform(EDGE, 300 - EDGE, (70, 2)).round()


def expected(slide, centers):
    """Means of the patches, one at a time in double precision."""
    mean, std = np.array(SPEC.mean), np.array(SPEC.std)
    out = []
    for x, y in centers:
        patch = slide.read(y - EDGE / 2, x - EDGE / 2, y + EDGE / 2, x + EDGE / 2)
        patch = (patch.astype(np.float64) / 255 - mean) / std
        out.append([*patch.mean(axis=(0, 1)), *patch[: EDGE // 2].mean(axis=(0, 1))])
    return np.array(out)


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("histocell")}


def assert_threads_end(before):
    """Threads that were started since end by themselves."""
    for _ in range(100):
        if threads() <= before:
            return
        time.sleep(0.05)
    assert threads() <= before


def test_values_are_those_of_each_patch(slide, centers):
    features = encoder_of(Mean(), batch_size=8).embed(slide, centers, **WINDOW)
    np.testing.assert_allclose(features, expected(slide, centers), atol=1e-5)


@pytest.mark.parametrize("limit", [31, 8, 1])
def test_out_of_memory_halves_the_batch_and_loses_nothing(slide, centers, limit):
    network = Hungry(limit)
    with pytest.warns(UserWarning, match="memory"):
        features = encoder_of(network, batch_size=32).embed(slide, centers, **WINDOW)
    np.testing.assert_allclose(features, expected(slide, centers), atol=1e-5)
    # the smaller size is kept: few attempts fail
    assert sum(n > limit for n in network.seen) <= 6


def test_out_of_memory_late_in_a_run(slide, centers):
    """Memory may shrink while batches wait: rows already done stay, none is done twice."""
    network = Hungry(32)

    class Bar:
        done = 0

        def update(self, n):
            self.done += n
            network.limit = 4

    bar = Bar()
    with pytest.warns(UserWarning, match="memory"):
        features = encoder_of(network, batch_size=16).embed(slide, centers, **WINDOW, progress=bar)
    np.testing.assert_allclose(features, expected(slide, centers), atol=1e-5)
    assert bar.done == len(centers)


class Cells(Backbone):
    """Tokens are the mean colours of squares of 4 px; has memory for `limit` images."""

    patch_px = 4
    n_blocks = 1
    poolings = ("mean",)

    def __init__(self, limit):
        super().__init__(torch.nn.Identity())
        self.limit = limit

    def tokens(self, images, *, block=-1):
        if len(images) > self.limit:
            msg = "out of memory"
            raise torch.OutOfMemoryError(msg)
        return torch.nn.functional.avg_pool2d(images, 4).flatten(2).mT


@pytest.mark.filterwarnings("ignore:.*memory:UserWarning")
@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("strategy", ["centered", "shared"])
def test_nuclei_keep_their_tokens_in_smaller_batches(slide, limit, strategy):
    """The token nearest to a nucleus in the middle of a cell of the slide is that cell, whatever the tile."""
    cell = np.random.default_rng(2).integers(5, 60, (90, 2))
    pooling = NucleusPooling(strategy=strategy, k=1)
    encoder = PatchEncoder(Cells(limit), SPEC, version="1", device="cpu", pool=pooling, batch_size=16)
    # centred patches end on cells when the nucleus lies at the start of one
    nuclei = cell * 4 + (2.0 if strategy == "shared" else 0.0)
    # k = 1 of a nucleus on a corner of four cells is the one above, to the left
    first = cell if strategy == "shared" else cell - 1
    features = encoder.embed(slide, nuclei, **WINDOW)
    pixels = slide.read(0, 0, 300, 400)
    means = [pixels[y * 4 : y * 4 + 4, x * 4 : x * 4 + 4].mean(axis=(0, 1)) for x, y in first]
    np.testing.assert_allclose(features, (np.array(means) / 255 - SPEC.mean) / SPEC.std, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*memory:UserWarning")
def test_out_of_memory_for_a_single_patch(slide, centers):
    before = threads()
    with pytest.raises((MemoryError, torch.OutOfMemoryError), match="not even one patch fits"):
        encoder_of(Hungry(0), batch_size=4).embed(slide, centers, **WINDOW)
    assert_threads_end(before)


@pytest.mark.parametrize(
    "change",
    [
        lambda out: out[:, :, None],
        lambda out: out[:-1],
        lambda out: out[:, 0],
        lambda out: (out, out),
        lambda out: {"features": out},
        lambda out: None,
    ],
    ids=["maps", "rows", "scalars", "tuple", "dict", "none"],
)
def test_outputs_of_a_wrong_shape(slide, centers, change):
    before = threads()
    with pytest.raises(ValueError, match=r"Broken must give embeddings of shape \(n, dim\)"):
        encoder_of(Broken(change)).embed(slide, centers, **WINDOW)
    assert_threads_end(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("stored", [False, True])
def test_outputs_that_are_no_numbers(slide, centers, tmp_path, value, stored):
    before = threads()
    encoder = encoder_of(Broken(lambda out: out + value), batch_size=1)
    store = tmp_path / "features" if stored else None
    with pytest.raises(ValueError, match="'tiny' gave NaN or infinite values in 8 of 8 rows") as caught:
        embed_slide(encoder, slide, centers, **WINDOW, store=store)
    # the error is still at hand, as in a notebook, and holds nothing that works on
    assert_threads_end(before)
    assert caught.value.__traceback__ is not None


def test_half_precision_that_overflows_names_the_precision(slide, centers):
    encoder = encoder_of(Broken(lambda out: (out.abs() + 1) * 60000), precision="fp16")
    with pytest.raises(ValueError, match="fp16 overflows"):
        embed_slide(encoder, slide, centers, **WINDOW)


@pytest.mark.parametrize("pool", ["nucleus", NucleusPooling(strategy="shared"), "cls", "mean"])
def test_an_encoder_without_tokens_is_asked_for_tokens(pool):
    with pytest.raises(ValueError, match="Mean (has no grid of tokens|cannot pool by)"):
        encoder_of(Mean(), pool=pool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": -3}, "batch_size must be"),
        ({"precision": "int8"}, "precision.*int8"),
        ({"device": []}, "device"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(Mean(), **arguments)


def test_nothing_to_do(slide, centers):
    encoder = encoder_of(Mean())
    assert encoder.embed(slide, np.empty((0, 2)), **WINDOW).shape == (0, 6)
    assert list(encoder.embed_chunks(slide, [], **WINDOW)) == []
    chunks = [centers[:0], centers[:3], centers[:0], centers[:0], centers[3:], centers[:0]]
    parts = list(encoder.embed_chunks(slide, chunks, **WINDOW))
    assert [part.shape for part in parts] == [(len(chunk), 6) for chunk in chunks]
    np.testing.assert_allclose(np.concatenate(parts), expected(slide, centers), atol=1e-5)


def test_chunks_do_not_depend_on_each_other(slide, centers):
    encoder = encoder_of(Mean(), batch_size=8)
    chunks = [centers[:30], centers[30:41], centers[41:]]
    for part, chunk in zip(encoder.embed_chunks(slide, chunks, **WINDOW), chunks, strict=True):
        np.testing.assert_array_equal(part, encoder.embed(slide, chunk, **WINDOW))


@pytest.mark.parametrize("taken", [0, 1])
def test_threads_end_when_nobody_wants_more(slide, centers, taken):
    before = threads()
    parts = encoder_of(Mean(), batch_size=4).embed_chunks(slide, [centers] * 20, **WINDOW)
    for _ in range(taken):
        next(parts)
    parts.close()
    assert_threads_end(before)


def test_an_error_of_the_reader_reaches_the_caller(slide, centers, monkeypatch):
    before = threads()
    level = slide.level_for(1.0)[2]
    window, calls = level.window, []

    def failing(*args):
        calls.append(args)
        if len(calls) > 20:
            msg = "block 21 of slide.tif is truncated"
            raise OSError(msg)
        return window(*args)

    monkeypatch.setattr(level, "window", failing)
    with pytest.raises(OSError, match="slide.tif is truncated"):
        encoder_of(Mean(), batch_size=4).embed(slide, centers, **WINDOW)
    assert_threads_end(before)


def test_an_error_of_the_network_reaches_the_caller(slide, centers):
    before = threads()

    def fail(out):
        if len(out) != 1:  # the probe that tells the width
            msg = "mat1 and mat2 shapes cannot be multiplied"
            raise RuntimeError(msg)
        return out

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        encoder_of(Broken(fail), batch_size=4).embed(slide, centers, **WINDOW)
    assert_threads_end(before)


def test_an_error_of_the_caller_stops_the_threads(slide, centers):
    before = threads()

    class Bar:
        def update(self, n):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder_of(Mean(), batch_size=4).embed(slide, centers, **WINDOW, progress=Bar())
    assert_threads_end(before)


@pytest.mark.parametrize("bad", [[[1.0, np.nan]], [[np.inf, 1.0]], [1.0, 2.0], [[1.0, 2.0, 3.0]]])
def test_centers_that_are_no_places(slide, bad):
    with pytest.raises(ValueError, match="centers must be finite"):
        encoder_of(Mean()).embed(slide, np.array(bad), **WINDOW)


@pytest.mark.parametrize("window", [{"mpp": 0.0}, {"mpp": np.nan}, {"size_um": 0.0}, {"size_um": -1.0}])
def test_sizes_that_cannot_be(slide, centers, window):
    with pytest.raises(ValueError, match="above 0|size|mpp"):
        encoder_of(Mean()).embed(slide, centers, **{**WINDOW, **window})


def test_patches_beyond_the_slide_are_background(slide):
    far = np.array([[-500.0, -500.0], [1e6, 1e6], [0.0, 0.0]])
    features = encoder_of(Mean()).embed(slide, far, **WINDOW)
    np.testing.assert_allclose(features, expected(slide, far), atol=1e-5)


def test_slides_are_for_encoders_that_see_patches_only():
    images = np.zeros((3, EDGE, EDGE, 3), np.uint8)
    encoder = encoder_of(Mean())
    assert encode(encoder, images).shape == (3, 6)
    for bad in (images.astype(np.float32), images[0], images[..., :2]):
        with pytest.raises(ValueError, match="images must be uint8 of shape"):
            encode(encoder, bad)
