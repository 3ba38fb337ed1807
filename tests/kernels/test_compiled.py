"""Parallel kernels called from several threads, in forked processes, and where numba cannot keep compiled code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import histocell

_SCRIPT = """
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numba import prange

from histocell.kernels import moran
from histocell.kernels.neighbors import rbf_weights
from histocell.kernels.compiled import parallel_njit


def squares(values, out):
    for i in prange(len(values)):
        total = 0.0
        for k in range(200):
            total += (values[i] + k) ** 2
        out[i] = total


def run(seed):
    values = np.random.default_rng(seed).normal(size=20_000)
    out = np.empty_like(values)
    for _ in range(20):
        kernel(values, out)
    xy, z = values[:4000].reshape(-1, 2), values[:8000].reshape(-1, 4)
    lag = moran.rbf_lag(xy, z, length_scale=0.1)
    weights = rbf_weights(xy, length_scale=0.1)
    return np.concatenate([out, moran.mean_products(z, lag.values).ravel(), weights.data])


kernel = parallel_njit(cache=False)(squares)
alone = [run(seed) for seed in range(8)]
assert numba.threading_layer() == "workqueue"
with ThreadPoolExecutor(4) as pool:
    together = list(pool.map(run, range(8)))
assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
print("same")
"""


def test_parallel_kernels_survive_calls_from_several_threads():
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"


_FORK = """
import multiprocessing
import sys
import warnings

import numpy as np
import torch

import histocell as hc
from histocell.kernels import moran, resampling
from histocell.kernels.neighbors import rbf_weights

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
xy, z = rng.random((3000, 2)), rng.normal(size=(3000, 4))
X = rng.normal(size=(600, 40)).astype(np.float32)


def colocalize():
    lag = moran.rbf_lag(xy, z, length_scale=0.1).values
    weights = rbf_weights(xy, length_scale=0.1)
    return [lag, moran.mean_products(z, lag), weights.data]


def train():
    model = hc.models.MLP(max_epochs=2, hidden=(256, 256)).fit(X, X[:, :3], rng=0, device="cpu")
    return [model.predict(X, device="cpu")]


def embed():
    sdata = hc.datasets.synthetic_tissue(size_px=500, spot_pitch_um=50, spot_diameter_um=50, rng=0)
    sdata["he"] = sdata["he"].chunk({"y": 128, "x": 128})
    hc.pp.patches(sdata, size_um=112)
    hc.pp.embed_image(sdata, "timm/test_vit", weights="random", device="cpu", precision="fp32")
    return [sdata["table"].obsm["X_test_vit"]]


work = {"colocalize": colocalize, "train": train, "embed": embed}[sys.argv[1]]
expected = work()
torch.randn(2000, 2000) @ torch.randn(2000, 2000)  # the threads of torch, too, are in the parent
with multiprocessing.get_context("fork").Pool(1) as pool:
    got = pool.apply_async(work).get(timeout=200)
tolerance = 0 if work is colocalize else 1e-5  # torch sums in another order on one thread
for a, b in zip(expected, got, strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
print("same")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("work", ["colocalize", "train", "embed"])
def test_a_forked_process_computes_the_same(work):
    """The threads stay in the parent: a child that waited for them would hang, or be ended by OpenMP."""
    done = subprocess.run([sys.executable, "-c", _FORK, work], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"


_NO_CACHE = """
import warnings

import numpy as np

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from histocell.kernels import filters, moran

said = [str(one.message) for one in caught if "NUMBA_CACHE_DIR" in str(one.message)]
print(len(said), filters.halve(np.ones((4, 4), dtype=np.float32)).shape)
"""


def test_an_installation_that_cannot_be_written(tmp_path):
    """Neither the package nor the home folder has room for numba's cache: compiled anew, and said once."""
    package = Path(histocell.__file__).parent
    copy = tmp_path / "src" / "histocell"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("kernels", "images"):
        (copy / folder / "__pycache__").touch()  # a file: no folder can be made
    nowhere = tmp_path / "file"
    nowhere.touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere), "LOCALAPPDATA": str(nowhere)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", _NO_CACHE], env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "(2,", "2)"], done.stdout
