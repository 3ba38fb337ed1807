"""Benchmarks of slide-level models: planted regions, and memory and speed of many and of large slides.

python tests/benchmarks/bench_slides.py --part abmil memory
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import TYPE_CHECKING

import numpy as np

import histocell as hc
from histocell.models.slides.bags import BLOCK

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

REGION = 0.06  # share of the tiles of a slide


def abmil(n_slides: int, n_tiles: int) -> None:
    """AUC on patients who were held out, with and without a region that tells the label, and attention inside of it."""
    for seed in (0, 1):
        tiles, test, found = one(seed, n_slides, n_tiles, planted=True)
        shares, hits = overlap(tiles, test)
        print(
            f"attention in the planted region: {shares.mean():.3f} of all, the region is {REGION:.3f} of the tiles; of as many tiles "
            f"with the most attention {hits.mean():.3f} lie in it; {len(shares)} held-out positive slides"
        )
        print("PASS" if found["value"] >= 0.95 else "FAIL", "AUC of at least 0.95")
    held = []
    for seed in range(5):
        _, _, found = one(seed, n_slides, n_tiles // 4, planted=False, hidden=64, attention=32)
        held.append(bool(found["low"] <= 0.5 <= found["high"]))
    print(
        "PASS" if sum(held) >= 4 else "FAIL",
        f"without a region 0.5 lies within the interval in {sum(held)} of 5 cohorts",
    )


def one(
    seed: int, n_slides: int, n_tiles: int, *, planted: bool, **config: int
) -> tuple[ad.AnnData, np.ndarray, pd.Series]:
    """Fit on the patients of one half of a cohort and score those of the other; the line of the AUC of abmil."""
    tiles = hc.datasets.synthetic_slides(n_slides, n_tiles=n_tiles, region=REGION, planted=planted, rng=seed)
    slides = hc.io.slide_table(tiles)
    slides.obs["split"] = np.where(np.arange(n_slides) % 4 < 2, "test", "train")  # half of each class
    start = time.perf_counter()
    hc.tl.fit_slides(slides, tiles, config=config)
    seconds = time.perf_counter() - start
    hc.tl.predict_slides(slides, tiles, attention=True)
    scores = hc.tl.evaluate_slides(slides, inplace=False)
    what = "with" if planted else "without"
    print(f"\ncohort {seed}, {what} a region: {n_slides} slides of {n_tiles} tiles, half held out; fit {seconds:.0f} s")
    shown = scores[scores["class"] == "mean"].drop(columns=["class", "n_undefined", "n_training"])
    print(shown.round(3).to_string(index=False), flush=True)
    found = scores.query("model == 'abmil' and metric == 'auc' and `class` == 'mean'").iloc[0]
    return tiles, slides.obs_names[slides.obs["split"] == "test"].to_numpy(), found


def overlap(tiles: ad.AnnData, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each held-out positive slide: attention inside of its region, and share of the top tiles that lie in it."""
    shares, hits = [], []
    for name in test:
        obs = tiles.obs[tiles.obs["section"] == name]
        inside, attention = obs["planted"].to_numpy(), obs["attention"].to_numpy()
        if inside.any():
            shares.append(attention[inside].sum())
            hits.append(inside[np.argsort(-attention)[: inside.sum()]].mean())
    return np.array(shares), np.array(hits)


class Made:
    """Tiles of a slide that are made when they are read, a block at a time, from a seed."""

    def __init__(self, seed: int, n: int, dim: int, shift: float) -> None:
        self.seed, self.shape, self.shift = seed, (n, dim), shift

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        parts = []
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            first = block * BLOCK
            rng = np.random.Generator(np.random.SFC64([self.seed, block]))
            made = rng.random((min(BLOCK, self.shape[0] - first), self.shape[1]), dtype=np.float32)
            made[:, 0] += self.shift
            parts.append(made[max(start - first, 0) : stop - first])
        return np.concatenate(parts)


def memory(n_slides: int, n_tiles: int, dim: int, large: int) -> None:
    """Peak memory of a large slide, and of one epoch over many, none of which lies in memory."""
    print(f"\nbefore: peak {peak_mb():.0f} MB")
    for name, (count, size) in {"large": (4, large), "many": (n_slides, n_tiles)}.items():
        made = {f"S{i}": Made(i, size, dim, 0.05 * (i % 2)) for i in range(count)}
        labels = np.arange(count) % 2
        start = time.perf_counter()
        slides = hc.io.slide_table(made)
        slides.obs["label"] = np.where(labels, "positive", "negative")
        slides.obs["patient"], slides.obs["split"] = slides.obs_names, "train"
        read = time.perf_counter() - start
        print(
            f"{name}: {count} slides of {size:,} x {dim}, means {read:.0f} s ({count / read:.1f} slides/s), peak {peak_mb():.0f} MB"
        )
        start = time.perf_counter()
        hc.tl.fit_slides(slides, made, config={"max_epochs": 1})
        fitted = time.perf_counter() - start
        print(f"  one epoch of abmil {fitted:.0f} s ({count / fitted:.1f} slides/s), peak {peak_mb():.0f} MB")
        few = slides[: min(count, 4)].copy()
        start = time.perf_counter()
        hc.tl.predict_slides(few, made, model=slides)
        print(
            f"  prediction by all tiles {few.n_obs / (time.perf_counter() - start):.1f} slides/s, peak {peak_mb():.0f} MB"
        )
    print("PASS" if peak_mb() < 2048 else "FAIL", "below 2 GB")


def peak_mb() -> float:
    """Largest memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=("abmil", "memory"), default=("abmil", "memory"))
    parser.add_argument("--slides", type=int, default=200, help="slides of abmil")
    parser.add_argument("--many", type=int, default=1000, help="slides of memory")
    parser.add_argument("--tiles", type=int, default=10_000, help="tiles of each slide of memory")
    parser.add_argument("--large", type=int, default=100_000, help="tiles of a large slide")
    parser.add_argument("--dim", type=int, default=1536)
    options = parser.parse_args()
    if "abmil" in options.part:
        abmil(options.slides, 200)
    if "memory" in options.part:
        memory(options.many, options.tiles, options.dim, options.large)


if __name__ == "__main__":
    main()
