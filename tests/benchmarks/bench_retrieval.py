"""Retrieval: time and memory of a search in a million embeddings beside FAISS, and recall of genes to images.

Run all parts, or some: ``python tests/benchmarks/bench_retrieval.py scale genes``.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import histocell as hc
from histocell.models.alignment.search import nearest

PARTS = ("scale", "genes")
_BLOCK = 50_000


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write_gallery(path: Path, n: int, dim: int) -> None:
    """Random embeddings in a zarr store, written in blocks."""
    import zarr

    rng = np.random.default_rng(0)
    array = zarr.create_array(str(path), shape=(n, dim), chunks=(8192, dim), dtype="float32", compressors=None)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        array[start:stop] = rng.normal(size=(stop - start, dim)).astype(np.float32)


def search(path: str, method: str, n_queries: int, k: int) -> None:
    """One side, in a process of its own: time and memory."""
    import zarr

    gallery = zarr.open_array(path, mode="r")
    queries = np.random.default_rng(1).normal(size=(n_queries, gallery.shape[1])).astype(np.float32)
    start = time.perf_counter()
    if method == "histocell":
        rows = nearest(queries, gallery, k).rows
    else:
        import faiss

        index = faiss.IndexFlatIP(gallery.shape[1])
        for first in range(0, gallery.shape[0], _BLOCK):
            block = np.ascontiguousarray(gallery[first : first + _BLOCK])
            faiss.normalize_L2(block)
            index.add(block)
        faiss.normalize_L2(queries)
        print(f"  index filled after {time.perf_counter() - start:.1f} s")
        rows = index.search(queries, k)[1]
    print(f"  {method}: {time.perf_counter() - start:.1f} s, peak memory {peak_gb():.2f} GB")
    np.save(f"{path}-{method}.npy", rows)


def scale(n: int, dim: int, n_queries: int, k: int) -> None:
    """Exact search in blocks read from a file, beside a flat index of FAISS in memory, on the same cores."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.zarr"
        write_gallery(path, n, dim)
        print(f"{n_queries} queries, {k} nearest of {n:,} x {dim}")
        for method in ("histocell", "faiss"):
            command = [sys.executable, __file__, "--one", str(path), method, str(n_queries), str(k)]
            subprocess.run(command, check=True)
        both = [np.load(f"{path}-{method}.npy") for method in ("histocell", "faiss")]
        print(f"  the same rows in the same places: {(both[0] == both[1]).mean():.6f}")


def genes(n_sections: int, size_px: int) -> None:
    """Spots and cells of a section that was not fitted find their images by their genes, and genes find images."""
    sdata = hc.datasets.synthetic_tissue(n_sections, n_patients=1, size_px=size_px, spot_pitch_um=60, rng=0)
    for table_key, size_um in (("table", 100), ("cell_table", 30)):
        options = {"table_key": table_key}
        hc.pp.patches(sdata, size_um=size_um, **options)
        hc.pp.embed_image(sdata, "morphology", **options)
        hc.pp.embed_genes(sdata, "pca", n_dims=20, **options)
        table = sdata[table_key]
        names = list(table.obs["section"].cat.categories)
        hc.pp.split(table, by="section", val=names[-2], test=names[-1])
        for model in ("contrastive", "cca"):
            config = {"batch_size": 256} if model == "contrastive" else None
            hc.tl.fit_alignment(table, "X_pca_genes", "X_morphology", model=model, config=config)
            hc.tl.align(table)
            test = list(table.obs_names[table.obs["split"] == "test"])
            search = {"query_key": "X_aligned_genes", "gallery": "test", "inplace": False}
            found = hc.tl.retrieve(table, "X_aligned_image", rows=test, k=10, **search)["scores"]
            print(f"\n{table_key}, {model}: {len(test)} rows of a section that was not fitted")
            times = found["value"] / found["chance"]
            print(found[["metric", "k", "value", "chance"]].assign(times=times).round(4).to_string(index=False))
            found = hc.tl.retrieve(table, "X_aligned_image", genes=list(table.var_names[:12]), k=20, **search)["scores"]
            print(found[["query", "value", "chance_low", "chance_high"]].round(2).to_string(index=False))


if __name__ == "__main__":
    if "--one" in sys.argv:
        search(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--sections", type=int, default=4)
    parser.add_argument("--size-px", type=int, default=1600)
    arguments = parser.parse_args()
    if "scale" in arguments.parts:
        scale(arguments.rows, arguments.dim, arguments.queries, 10)
    if "genes" in arguments.parts:
        genes(arguments.sections, arguments.size_px)
