"""Parallel kernels called from several threads, on the threading layer of numba that cannot do so by itself."""

import os
import subprocess
import sys

_SCRIPT = """
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numba import prange

from histocell.kernels import moran
from histocell.kernels.neighbors import rbf_weights
from histocell.kernels.threads import parallel_njit


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
