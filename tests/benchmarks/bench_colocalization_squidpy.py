"""The same unrelated smooth types under hc.tl.colocalization and under squidpy's nhood_enrichment, both in one run.

    python tests/benchmarks/bench_colocalization_squidpy.py [--cells 50000] [--types 12] [--tissues 4]
        [--smoothing 150 300 600] [--figure figure.png]

Each type has a smooth field of its own, drawn independently, and each cell is of a type with a probability that goes by
exp(field) at its place: types mix, and no type knows of another. Lengths are in um, for cells that are 100 um apart: what counts is their ratio. Prints the share of pairs that each calls
significant, and how well R and z agree.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from bench_colocalization import ALPHA, LENGTH, cells, fields, squidpy_z

import histocell as hc

ENRICHED = 2.0  # |z| that is usually taken for enrichment or depletion


def mixed_types(xy: np.ndarray, k: int, smoothing: float, rng: np.random.Generator) -> np.ndarray:
    """Type of each cell, drawn with probabilities that go by the exponential of its field."""
    drawn = fields(xy, smoothing, k, rng)
    return (drawn / drawn.std() + rng.gumbel(size=drawn.shape)).argmax(axis=1)


def both(xy: np.ndarray, types: np.ndarray) -> pd.DataFrame:
    """R, p and squidpy's z of all ordered pairs."""
    adata = ad.AnnData(obs=pd.DataFrame({"type": pd.Categorical(types)}, index=np.arange(len(xy)).astype(str)))
    adata.obsm["spatial"] = xy
    result = hc.tl.colocalization(adata, "type", length_scale_um=LENGTH, mpp=1.0, inplace=False)
    off = ~np.eye(len(result.names), dtype=bool)
    return pd.DataFrame({"R": result.R[off], "p": result.p[off], "z": squidpy_z(xy, types)[off]})


def draw(xy: np.ndarray, types: np.ndarray, pairs: pd.DataFrame, path: Path) -> None:
    """One of the tissues, z over R of all pairs, and the share that each test calls significant."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained", width_ratios=[1, 1.25, 0.8])
    axes[0].scatter(*xy.T, c=types, cmap="tab20", s=0.3, linewidths=0, rasterized=True)
    axes[0].set(aspect="equal", xticks=[], yticks=[])
    axes[0].set_title(f"{types.max() + 1} types that know nothing\nof each other, {len(xy):,} cells", fontsize=9)
    axes[1].axhspan(-ENRICHED, ENRICHED, color="0.9", zorder=0)
    for found, color, label in ((False, "0.45", f"p ≥ {ALPHA}"), (True, "#D55E00", f"p < {ALPHA}")):
        part = pairs[(pairs["p"] < ALPHA) == found]
        axes[1].plot(
            part["R"], part["z"], "o", color=color, markersize=3, markeredgewidth=0, label=f"histocell: {label}"
        )
    axes[1].set(xlabel="Moran's R", ylabel="squidpy's z")
    axes[1].locator_params(axis="x", nbins=5)
    axes[1].set_title(f"every pair of {pairs['tissue'].nunique()} tissues; band: |z| < 2", fontsize=9)
    axes[1].legend(fontsize=7, frameon=False)
    shares = [(pairs["z"].abs() > ENRICHED).mean(), (pairs["p"] < ALPHA).mean()]
    bars = axes[2].bar(["squidpy\n|z| > 2", f"histocell\np < {ALPHA}"], shares, color=["#0072B2", "#D55E00"], width=0.6)
    axes[2].bar_label(bars, [f"{100 * share:.1f} %" for share in shares], fontsize=8)
    axes[2].axhline(ALPHA, color="0.3", linewidth=0.8, linestyle=":")
    axes[2].set(ylim=(0, 1.05), ylabel="share called significant")
    axes[2].set_title("promised: 5 %", fontsize=9)
    for axis in axes[1:]:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--types", type=int, default=12)
    parser.add_argument("--tissues", type=int, default=4, help="of each smoothness")
    parser.add_argument("--smoothing", type=float, nargs="+", default=[150.0, 300.0, 600.0])
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    parts = []
    for smoothing in arguments.smoothing:
        for index in range(arguments.tissues):
            rng, start = np.random.default_rng([int(smoothing), index]), time.perf_counter()
            xy = cells("irregular", arguments.cells, rng)
            types = mixed_types(xy, arguments.types, smoothing, rng)
            parts.append(both(xy, types).assign(tissue=f"{smoothing:g} um, {index}", smoothing=smoothing))
            print(f"{parts[-1]['tissue'].iloc[0]}: {time.perf_counter() - start:.0f} s", flush=True)
    pairs = pd.concat(parts, ignore_index=True)
    pairs["histocell"], pairs["squidpy"] = pairs["p"] < ALPHA, pairs["z"].abs() > ENRICHED
    each = pairs.groupby("tissue", sort=False)
    table = each[["histocell", "squidpy"]].mean()
    table["correlation of R and z"] = each[["R", "z"]].corr().iloc[::2, 1].to_numpy()
    print(f"\nShare of {len(parts[0])} pairs called significant: histocell p < {ALPHA}, squidpy |z| > {ENRICHED:g}")
    print(table.to_string(float_format="{:.3f}".format))
    print(f"all: {pairs[['histocell', 'squidpy']].mean().round(3).to_dict()}")
    if arguments.figure is not None:
        draw(xy, types, pairs, arguments.figure)


if __name__ == "__main__":
    main()
