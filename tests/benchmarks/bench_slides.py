"""Benchmarks of slide-level models: planted regions, and memory and speed of many and of large slides.

python tests/benchmarks/bench_slides.py --part abmil survival memory
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

PARTS = ("abmil", "survival", "memory")
REGION = 0.06  # share of the tiles of a slide
COHORTS = ((200, 4.0), (120, 3.0))  # slides, half of which are held out, and shift of the region in standard deviations
SURVIVAL = {"time_key": "time", "event_key": "event"}


def abmil(n_tiles: int, n_features: int, seeds: list[int], preset: str) -> None:
    """AUC on patients who were held out, with and without a region that tells the label, and attention inside of it."""
    for n_slides, effect in COHORTS:
        for seed in seeds:
            tiles, slides, scores = one(
                seed, n_slides, n_tiles, effect, config={"preset": preset}, n_features=n_features
            )
            shares, hits = overlap(tiles, slides.obs_names[slides.obs["split"] == "test"])
            print(
                f"attention in the planted region: {shares.mean():.3f} of all, the region is {REGION:.3f} of the tiles; of as many tiles "
                f"with the most attention {hits.mean():.3f} lie in it; {len(shares)} held-out positive slides"
            )
            found = line(scores, "auc")
            print("PASS" if found["value"] >= 0.95 else "FAIL", "AUC of at least 0.95", flush=True)
    held = []
    for seed in range(5):
        config = {"preset": preset, "hidden": 64, "attention": 32}
        found = line(one(seed, 200, n_tiles // 4, 4.0, config=config, planted=False)[2], "auc")
        held.append(bool(found["low"] <= 0.5 <= found["high"]))
    print(
        "PASS" if sum(held) >= 4 else "FAIL",
        f"without a region 0.5 lies within the interval in {sum(held)} of 5 cohorts",
    )


def survival(n_tiles: int, seeds: list[int], preset: str) -> None:
    """C-index on patients who were held out, of whom those with a planted region die earlier."""
    for n_slides, effect in COHORTS:
        values = []
        for seed in seeds:
            scores = one(seed, n_slides, n_tiles, effect, config={"preset": preset}, **SURVIVAL)[2]
            values.append(float(line(scores, "c_index")["value"]))
        print(
            "PASS" if np.mean(values) >= 0.58 else "FAIL",
            f"mean c-index {np.mean(values):.2f} of at least 0.58, {n_slides // 2} slides to fit on",
        )


def one(
    seed: int,
    n_slides: int,
    n_tiles: int,
    effect: float,
    *,
    config: dict[str, object],
    planted: bool = True,
    n_features: int = 32,
    **outcome: str,
) -> tuple[ad.AnnData, ad.AnnData, pd.DataFrame]:
    """Fit on the patients of one half of a cohort and score those of the other: tiles, slides, scores."""
    tiles = hc.datasets.synthetic_slides(
        n_slides, n_tiles=n_tiles, n_features=n_features, region=REGION, effect=effect, planted=planted, rng=seed
    )
    slides = hc.io.slide_table(tiles)
    slides.obs["split"] = np.where(np.arange(n_slides) % 4 < 2, "test", "train")  # half of each class
    start = time.perf_counter()
    hc.tl.fit_slides(slides, tiles, config=config, **outcome)
    seconds = time.perf_counter() - start
    hc.tl.predict_slides(slides, tiles, attention=True)
    scores = hc.tl.evaluate_slides(slides, inplace=False)
    what = f"a region shifted by {effect:g}" if planted else "no region"
    print(
        f"\ncohort {seed}, {what}: {n_slides} slides of {n_tiles} tiles, half held out; fit {seconds:.0f} s; who knows the region: "
        f"{oracle(tiles, slides, outcome):.3f}"
    )
    shown = scores[scores["class"] == "mean"].drop(columns=["class", "n_undefined", "n_training"])
    print(shown.round(3).to_string(index=False), flush=True)
    return tiles, slides, scores


def line(scores: pd.DataFrame, metric: str) -> pd.Series:
    """The line of abmil."""
    return scores.query("model == 'abmil' and metric == @metric and `class` == 'mean'").iloc[0]


def oracle(tiles: ad.AnnData, slides: ad.AnnData, outcome: dict[str, str]) -> float:
    """AUC or c-index of who knows which training tiles lie in a region, and looks along that direction in others."""
    X = tiles.obsm["X_tiles"].reshape(slides.n_obs, -1, tiles.obsm["X_tiles"].shape[1])
    inside, held = tiles.obs["planted"].to_numpy().reshape(X.shape[:2]), (slides.obs["split"] == "test").to_numpy()
    if not inside.any():
        return 0.5
    along = X @ (X[~held][inside[~held]].mean(axis=0) - X[~held][~inside[~held]].mean(axis=0))
    risk = np.sort(along, axis=1)[held, -round(REGION * X.shape[1]) :].mean(axis=1)
    if outcome:
        return float(hc.metrics.concordance(slides.obs.loc[held, ["time", "event"]].to_numpy(dtype=float), risk)[0])
    positive = (slides.obs["label"] == "positive").to_numpy()[held]
    return float((risk[positive][:, None] > risk[~positive]).mean())


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
        hc.tl.fit_slides(slides, made, config={"preset": "paper", "max_epochs": 1})
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
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="cohorts of abmil and survival")
    parser.add_argument("--features", type=int, default=32, help="features of a tile of abmil")
    parser.add_argument("--preset", default="robust", help="of abmil")
    parser.add_argument("--many", type=int, default=1000, help="slides of memory")
    parser.add_argument("--tiles", type=int, default=10_000, help="tiles of each slide of memory")
    parser.add_argument("--large", type=int, default=100_000, help="tiles of a large slide")
    parser.add_argument("--dim", type=int, default=1536)
    options = parser.parse_args()
    if "abmil" in options.part:
        abmil(200, options.features, options.seeds, options.preset)
    if "survival" in options.part:
        survival(200, options.seeds, options.preset)
    if "memory" in options.part:
        memory(options.many, options.tiles, options.dim, options.large)


if __name__ == "__main__":
    main()
