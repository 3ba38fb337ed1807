"""Alignment and niches: separation of gene-defined states, calibration of the enrichment, time and memory.

Run all parts, or some: ``python tests/benchmarks/bench_niches.py alignment calibration scale``.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import histocell as hc
from histocell.kernels.tissue.shifts import occur_together
from histocell.models.scaling import apply_input, fit_input

PARTS = ("alignment", "calibration", "scale")


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def separation(values: np.ndarray, truth: np.ndarray) -> float:
    """Adjusted Rand index of k-means, mean of three seeds."""
    k = len(np.unique(truth))
    found = (KMeans(k, n_init=5, random_state=seed).fit_predict(values) for seed in range(3))
    return float(np.mean([adjusted_rand_score(truth, labels) for labels in found]))


def alignment(n_sections: int, size_px: int, seed: int) -> None:
    """Cells of sections of a patient: the image embedding of a section that was not fitted, before and after."""
    sdata = hc.datasets.synthetic_tissue(n_sections, n_patients=1, size_px=size_px, rng=seed)
    hc.pp.patches(sdata, size_um=30, table_key="cell_table")
    hc.pp.embed_image(sdata, "morphology", table_key="cell_table")
    hc.pp.embed_genes(sdata, "pca", table_key="cell_table")
    cells = sdata["cell_table"]
    names = list(cells.obs["section"].cat.categories)
    hc.pp.split(cells, by="section", val=names[-2], test=names[-1])
    start = time.perf_counter()
    hc.tl.fit_alignment(cells, "X_pca_genes", "X_morphology")
    seconds = time.perf_counter() - start
    hc.tl.align(cells)
    model = hc.models.load(cells, model_key="alignment_model")
    test = (cells.obs["split"] == "test").to_numpy()
    state = cells.obs["cell_type"].cat.codes.to_numpy()[test]
    raw = cells.obsm["X_morphology"].astype(np.float64)
    raw = apply_input(raw, fit_input(raw[(cells.obs["split"] == "train").to_numpy()]))
    print(f"\n{cells.n_obs} cells, {test.sum()} of the section that was not fitted; fit {seconds:.0f} s, {model}")
    print("ARI of k-means with the cell types, which genes define, section that was not fitted:")
    views = {
        "image, raw (standardised)": raw[test],
        "image, aligned by CCA": model.baselines["cca"].project("image", cells.obsm["X_morphology"][test]),
        "image, aligned": cells.obsm["X_aligned_image"][test],
        "genes, raw (PCA)": cells.obsm["X_pca_genes"][test],
        "genes, aligned": cells.obsm["X_aligned_genes"][test],
    }
    for name, values in views.items():
        print(f"  {name:28s} {separation(values, state):.3f}")
    scores = hc.tl.evaluate_alignment(cells, block_um=250, inplace=False)
    chosen = scores[scores["metric"].isin(["recall@10", "mrr"])]
    print(chosen.pivot_table("value", ["direction", "gallery", "metric"], "model").round(4).to_string())


def tissue(rng: np.random.Generator, n: int, side_um: float) -> np.ndarray:
    """Points of an irregular outline."""
    xy = rng.uniform(0, side_um, (n, 2))
    dx, dy = (xy - side_um / 2).T
    angle = np.arctan2(dy, dx)
    edge = 0.38 * side_um * (1 + 0.25 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(7 * angle))
    return xy[np.hypot(dx, dy) < edge]


def labels(
    rng: np.random.Generator, xy: np.ndarray, k: int, scale_um: float, noise: float, side_um: float
) -> np.ndarray:
    """The greatest of `k` smooth fields and some noise at each point."""
    n = 200
    row, column = np.clip(xy / side_um * n, 0, n - 1).astype(int).T
    fields = [gaussian_filter(rng.normal(size=(n, n)), scale_um / side_um * n) for _ in range(k)]
    values = np.column_stack([field[row, column] / field.std() for field in fields])
    found = (values + noise * rng.gumbel(size=values.shape)).argmax(axis=1)
    return np.unique(found, return_inverse=True)[1]


def calibration(n_simulated: int) -> None:
    """Share of p below 5 % for niches and types that are smooth over the tissue and independent of each other."""
    print("\nindependent niches (6) and types (5) on about 2,700 cells of 1.5 mm; share of p < 0.05 (nominal 0.05):")
    print("  smooth over (sd of the filter)   shifts          permutation of cells")
    for scale in (20, 50, 100, 200):
        shifts, naive = [], []
        for seed in range(n_simulated):
            rng = np.random.default_rng(seed)
            xy = tissue(rng, 6000, 2000)
            types, niches = labels(rng, xy, 5, scale, 0.5, 2000), labels(rng, xy, 6, scale, 0.3, 2000)
            size = (types.max() + 1, niches.max() + 1)
            found = occur_together([xy], [types], [niches], n_labels=size, n_permutations=199, rng=rng)
            shifts.append((found.p < 0.05).mean())
            naive.append((np.abs(found.z) > 1.96).mean())
        error = np.std(shifts) / np.sqrt(n_simulated)
        print(
            f"  {scale:4d} um                          {np.mean(shifts):.3f} +- {error:.3f}  {np.mean(naive):.3f}",
            flush=True,
        )


def scale(sizes: list[int], method: str) -> None:
    """Time and memory of the parts on cells of 128 dimensions."""
    print("\nn cells   fit 1 epoch   align   evaluate   niches (of it: see the log)   peak GB")
    for n in sizes:
        rng = np.random.default_rng(0)
        side = 10.0 * np.sqrt(n)
        xy = rng.uniform(0, side, (n, 2))
        types = labels(rng, xy, 6, 100, 1.0, side)
        state = 3 * rng.normal(size=(6, 16))[types] + rng.normal(size=(n, 16))
        image = (state @ rng.normal(size=(16, 256)) + 3 * rng.normal(size=(n, 256))).astype(np.float32)
        genes = (state @ rng.normal(size=(16, 128)) + 3 * rng.normal(size=(n, 128))).astype(np.float32)
        cells = AnnData(obsm={"X_image": image, "X_genes": genes, "spatial": xy})
        cells.obs["mpp"], cells.obs["cell_type"] = 1.0, pd.Categorical(types.astype(str))
        cells.obs["split"] = np.array(["train", "val", "test"])[np.digitize(xy[:, 0] / side, [0.7, 0.8])]
        seconds = []
        steps = {
            "fit": lambda c=cells: hc.tl.fit_alignment(c, "X_genes", "X_image", config={"max_epochs": 1}),
            "align": lambda c=cells: hc.tl.align(c),
            "evaluate": lambda c=cells: hc.tl.evaluate_alignment(c),
            "niches": lambda c=cells: hc.tl.niches(
                c, "X_aligned_image", method=method, smooth_um=50, cell_type_key="cell_type"
            ),
        }
        for step in steps.values():
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        times = "   ".join(f"{each:7.0f} s" for each in seconds)
        agreement = adjusted_rand_score(types, cells.obs["niche"])
        print(
            f"{n:8d}   {times}   {peak_gb():.1f}   {cells.obs['niche'].nunique()} niches, ARI with types {agreement:.2f}"
        )
        print(cells.uns["niches"]["summary"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--sections", type=int, default=3)
    parser.add_argument("--size-px", type=int, default=2000)
    parser.add_argument("--rng", type=int, default=0)
    parser.add_argument("--simulated", type=int, default=100)
    parser.add_argument("--cells", type=int, nargs="+", default=[50_000, 460_000])
    parser.add_argument("--method", default="leiden")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = options.parts or PARTS
    if "alignment" in parts:
        alignment(options.sections, options.size_px, options.rng)
    if "calibration" in parts:
        calibration(options.simulated)
    if "scale" in parts:
        scale(options.cells, options.method)


if __name__ == "__main__":
    main()
