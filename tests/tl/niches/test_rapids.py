"""Which package clusters, and with which arguments; a stand-in takes the place of rapids-singlecell and its GPU."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from anndata import AnnData

import histocell as hc

QUICK = {"n_seeds": 2, "n_permutations": 99, "resolution": 0.3}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 300)
    values = 3.0 * np.eye(3)[kind] + 0.5 * rng.normal(size=(300, 3))
    data = AnnData(obsm={"X_genes": values, "spatial": rng.uniform(0, 900, (300, 2))})
    data.obs["mpp"] = 1.0
    return data


@pytest.fixture
def rapids(monkeypatch):
    """Packages that note what they are called with and let scanpy do it; two GPUs."""
    import scanpy as sc
    import torch

    calls = []

    def neighbors(adata, n_neighbors=15, n_pcs=None, *, use_rep=None, random_state=0, algorithm="brute"):
        calls.append(("neighbors", n_neighbors, use_rep, algorithm, type(random_state)))
        sc.pp.neighbors(adata, n_neighbors, use_rep=use_rep, transformer="sklearn", random_state=random_state)

    def leiden(adata, resolution=1.0, *, random_state=0, key_added="leiden", adjacency=None, n_iterations=100):
        calls.append(("leiden", resolution, adjacency.shape, type(random_state)))
        sc.tl.leiden(adata, resolution, adjacency=adjacency, random_state=random_state, flavor="igraph", directed=False)

    def device(number):
        calls.append(("device", number))
        return nullcontext()

    packages = {"rapids_singlecell": ModuleType("rapids_singlecell"), "cupy": ModuleType("cupy")}
    packages["rapids_singlecell"].pp = SimpleNamespace(neighbors=neighbors)
    packages["rapids_singlecell"].tl = SimpleNamespace(leiden=leiden)
    packages["cupy"].cuda = SimpleNamespace(Device=device)
    for name, module in packages.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return calls


def package(data):
    return hc.get.provenance(data, "niche")["package"]


def test_a_gpu_is_used_where_it_and_the_package_are_there(data, rapids):
    hc.tl.niches(data, "X_genes", **QUICK)
    assert package(data) == "rapids_singlecell"
    seeds = ("leiden", 0.3, (300, 300), int)
    assert [each for each in rapids if each[0] != "device"] == [("neighbors", 15, "X", "brute", int), seeds, seeds]
    assert {each for each in rapids if each[0] == "device"} == {("device", 0)}
    assert data.obs["niche"].cat.categories.to_list() == ["0", "1", "2"]
    rapids.clear()
    hc.tl.niches(data, "X_genes", device="cuda:1", **QUICK)
    assert {each for each in rapids if each[0] == "device"} == {("device", 1)}


def test_scanpy_on_the_processor_and_where_there_is_no_gpu(data, rapids, monkeypatch):
    import torch

    hc.tl.niches(data, "X_genes", device="cpu", **QUICK)
    assert package(data) == "scanpy"
    hc.tl.niches(data, "X_genes", method="kmeans", n_niches=3, n_seeds=1, n_permutations=9)
    assert package(data) == "scikit-learn"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hc.tl.niches(data, "X_genes", **QUICK)
    assert package(data) == "scanpy"
    assert rapids == []


def test_a_gpu_without_the_package(data, rapids, monkeypatch, user_sees):
    monkeypatch.delitem(sys.modules, "rapids_singlecell")
    hc.tl.niches(data, "X_genes", **QUICK)
    assert package(data) == "scanpy"
    with user_sees("Niches", "a GPU without rapids-singlecell", ImportError, match='device="cpu" clusters with scanpy'):
        hc.tl.niches(data, "X_genes", device="cuda", **QUICK)
    with pytest.raises(ValueError, match="device 'cuda:2' is not on this machine"):
        hc.tl.niches(data, "X_genes", device="cuda:2", **QUICK)
