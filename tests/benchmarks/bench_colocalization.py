"""Co-localization beside its peers, both sides in one run.

    python tests/benchmarks/bench_colocalization.py [--part speed memory calibration categories category_power
        compositions power permutations compare] [--figure calibration.svg] [--figure-categories categories.svg] [--points 100 1000 ...]

`speed`: R and z of 30 x 30 pairs, weights included: SpatialDM, a KD-tree with a sparse product, histocell.
`memory`: time and peak memory from 10^4 to 10^6 points, each in a process of its own, with the calibrated null.
`calibration`: share of unrelated pairs that are called significant at 5 %. `power`: of related ones, beside an oracle
that knows the true null distribution. `categories`: cell types without preference, under
the null of independent fields (before), under no preference (the default), and in squidpy's nhood_enrichment;
`category_power`: types with a planted preference. `compositions`: independent fields normalised to one. `permutations`: 999 of them. `compare`: figures of published maps.
SpatialDM is taken where it can be imported (pip install spatialdm); its formula is there as null="analytic" anyway.
`HISTOCELL_DATA_DIR` with her2st/ and hist2cell_moran/ adds the real sections.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import multiprocessing
import os
import resource
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import fft, stats
from scipy.spatial import cKDTree

from histocell.kernels import labels as label_moments
from histocell.kernels import moran, null, resampling
from histocell.kernels.neighbors import rbf_radius, rbf_weights
from histocell.kernels.preference import no_preference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    import spatialdm
except ImportError:
    spatialdm = None

K, NEIGHBORS, LENGTH, ALPHA = 30, 100, 220.0, 0.05
ORACLE = {  # power of the test with the true null distribution, one-sided 5 %, by smoothing in um: rho = 0.3, 0.6
    0: (0.950, 1.000),
    150: (0.840, 1.000),
    300: (0.495, 0.985),
    600: (0.210, 0.705),
}


# ---- data


def scattered(n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Points at a density of one, K skewed variables, and the length scale at which a point has 100 neighbours."""
    rng = np.random.default_rng(0)
    xy = rng.random((n, 2)) * np.sqrt(n)
    return xy, rng.gamma(1, size=(n, K)).astype(np.float32), np.sqrt(NEIGHBORS / np.pi) / rbf_radius(1.0, 0.2)


def hexagons(size: int) -> np.ndarray:
    row, column = np.mgrid[:size, :size]
    return np.column_stack([(100 * (column + 0.5 * (row % 2))).ravel(), (50 * np.sqrt(3) * row).ravel()])


def fields(xy: np.ndarray, smoothing: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Independent stationary Gaussian fields: white noise under a Gaussian kernel."""
    if smoothing == 0:
        return rng.standard_normal((len(xy), count))
    pixel, margin = max(25.0, smoothing / 6), 4 * smoothing
    shape = ((np.ptp(xy, axis=0) + 2 * margin) / pixel).astype(int) + 2
    frequency = fft.fftfreq(shape[0])[:, None] ** 2 + fft.rfftfreq(shape[1])[None] ** 2
    kernel = np.exp(-2 * (np.pi * smoothing / pixel) ** 2 * frequency)
    place = (xy - xy.min(axis=0) + margin) / pixel
    (x, y), (dx, dy) = place.astype(int).T, (place % 1).T
    out = np.empty((len(xy), count))
    for index in range(count):
        image = fft.irfft2(fft.rfft2(rng.standard_normal(shape)) * kernel, s=shape)
        near = image[x, y] * (1 - dx) + image[x + 1, y] * dx
        out[:, index] = near * (1 - dy) + (image[x, y + 1] * (1 - dx) + image[x + 1, y + 1] * dx) * dy
    return out


def tissues(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
    grid = hexagons(45)
    hole = np.hypot(*(grid - [2000, 2200]).T) < 900
    corner = (grid[:, 0] > 3500) & (grid[:, 1] < 900)
    return {
        "hex grid": (grid, np.asarray),
        "5,000 irregular cells": (rng.random((5000, 2)) * [4500, 3900], np.asarray),
        "tissue with a hole": (grid[~hole & ~corner], np.asarray),
        "log-normal fields": (grid, np.exp),
    }


def her2st(tier: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Places in um and proportions of the sections in the folder."""
    out = {}
    for folder in sorted(Path(os.environ.get("HISTOCELL_DATA_DIR", "")).glob("her2st/*/")):
        if not (folder / "selection.tsv").exists() or not (folder / f"props_{tier}.tsv").exists():
            continue
        spots = pd.read_csv(folder / "selection.tsv", sep="\t").query("selected == 1")
        spots.index = spots["x"].astype(int).astype(str) + "x" + spots["y"].astype(int).astype(str)
        props = pd.read_csv(folder / f"props_{tier}.tsv", sep="\t", index_col=0)
        shared = spots.index.intersection(props.index)
        spots = spots.loc[shared]
        slopes = [np.polyfit(spots[f"new_{a}"], spots[f"pixel_{a}"], 1)[0] for a in "xy"]
        xy = spots[["pixel_x", "pixel_y"]].to_numpy() * 200 / np.mean(np.abs(slopes))
        out[folder.name] = (xy, props.loc[shared].to_numpy())
    return out


def unrelated_sections(tier: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One patient's fields under another patient's, turned, mirrored and moved onto them."""
    sections, rng = her2st(tier), np.random.default_rng(0)
    while sections and count:
        a, b = rng.choice(list(sections), 2, replace=False)
        if a[0] == b[0]:
            continue
        (xy, first), (other, second) = sections[a], sections[b]
        other = other[:, :: rng.choice([-1, 1])] * rng.choice([-1, 1], 2)
        distance, nearest = cKDTree(other - other.mean(axis=0)).query(xy - xy.mean(axis=0))
        under = distance < 150
        if under.sum() < 120:
            continue
        count -= 1
        first, second = first[under], second[nearest[under]]
        keep = [part[:, part.std(axis=0) > 1e-6] for part in (first, second)]
        yield xy[under], *keep


# ---- contenders


def ours(xy: np.ndarray, values: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    z, _ = moran.standardize(values)
    lag = moran.rbf_lag(xy, z, length_scale=length)
    r = moran.mean_products(z, lag.values)
    return r, r / np.sqrt(lag.analytic_variance)


def tree_and_product(xy: np.ndarray, values: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    tree = cKDTree(xy)
    weights = tree.sparse_distance_matrix(tree, rbf_radius(length, 0.2), output_type="coo_matrix").tocsr()
    weights.data = np.exp(-(weights.data**2) / (2 * length**2))
    n, total = len(xy), weights.sum()
    weights = weights * (n / total)
    z = (values - values.mean(axis=0)) / values.std(axis=0)
    r = z.T @ (weights @ z) / n
    rows = np.asarray(weights.sum(axis=1)).ravel()
    variance = (n**2 * (weights.data**2).sum() - 2 * n * rows @ rows + n**2) / (n**2 * (n - 1) ** 2)
    return r, r / np.sqrt(variance)


def spatialdm_pairs(xy: np.ndarray, values: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    rbfweight = importlib.import_module("spatialdm.stats").rbfweight  # its package hides the module behind scipy's
    weights, _ = rbfweight(xy, l=length, cutoff=0.2, n_neighbors=2 * NEIGHBORS, single_cell=False)
    k = values.shape[1]
    first, second = np.repeat(values, k, axis=1), np.tile(values, (1, k))
    r, z, _ = spatialdm.Moran_R(first, second, weights)
    return np.asarray(r).reshape(k, k), np.asarray(z).reshape(k, k)


def timed(run: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# ---- parts


def speed() -> None:
    xy, values, length = scattered(500)
    ours(xy, values, length)  # compiles
    for n in (20_000, 200_000):
        xy, values, length = scattered(n)
        contenders: dict[str, tuple[Callable, int]] = {
            "histocell": (ours, 5),
            "KD-tree + product": (tree_and_product, 3),
        }
        if spatialdm is None:
            print("SpatialDM cannot be imported: pip install spatialdm")
        elif n == 20_000:
            contenders["SpatialDM"] = (spatialdm_pairs, 1)
        found = {name: run(xy, values, length) for name, (run, _) in contenders.items() if name != "SpatialDM"}
        seconds = {name: timed(partial(run, xy, values, length), times) for name, (run, times) in contenders.items()}
        print(f"\n{n:,} points, {NEIGHBORS} neighbours, {K} x {K} pairs, R and z")
        for name, second in seconds.items():
            print(f"  {name:18s} {second:8.3f} s   histocell is {second / seconds['histocell']:6.1f} x as fast")
        differ = np.abs(found["histocell"][0] - found["KD-tree + product"][0]).max()
        print(f"  largest difference of R: {differ:.1e}")


def stationary(xy: np.ndarray, values: np.ndarray, length: float) -> None:
    """The whole of it: lags, R, the calibrated null, p."""
    z, _ = moran.standardize(values)
    lag = moran.rbf_lag(xy, z, length_scale=length)
    r = moran.mean_products(z, lag.values)
    null.tail_probabilities(r, null.stationary_spread(xy, z, lag.values, length_scale=length))


def peak_mib(work: Callable[[], object]) -> float:
    """Memory that `work` added at its peak, watched from a thread."""
    peak, done = [0.0], threading.Event()
    page = resource.getpagesize()

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(peak[0], resident()) - before


def measure(name: str, n: int) -> tuple[float, float, float]:
    """Seconds, MiB added, MiB of the whole process; after compiling on a few points."""
    run = {"histocell": ours, "KD-tree + product": tree_and_product, "stationary": stationary}[name]
    stationary(*scattered(500))
    work = partial(run, *scattered(n))
    start = time.perf_counter()
    added = peak_mib(work)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # ru_maxrss would remember the process that started this one
    return seconds, added, int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory() -> None:
    context = multiprocessing.get_context("spawn")

    def apart(name: str, n: int) -> tuple[float, float, float]:
        with context.Pool(1) as pool:
            return pool.apply(measure, (name, n))

    print("\n200,000 points, R and z")
    added = {}
    for name in ("histocell", "KD-tree + product"):
        seconds, added[name], _ = apart(name, 200_000)
        print(f"  {name:18s} {seconds:6.2f} s, {added[name]:7.0f} MiB on top of the data")
    print(f"  share of the memory: {added['histocell'] / added['KD-tree + product']:.2f}")
    print(f"\nR with the calibrated null, {K} variables, {NEIGHBORS} neighbours; memory with the data and Python")
    for n in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        seconds, _, whole = apart("stationary", n)
        print(f"  {n:9,} points {seconds:7.2f} s = {seconds / n * 1e6:5.1f} us a point, process {whole:6.0f} MiB")


def both_tests(xy: np.ndarray, first: np.ndarray, second: np.ndarray, length: float, pairs: object) -> pd.DataFrame:
    """p of pairs of unrelated or related fields: calibrated, and SpatialDM's."""
    z, _ = moran.standardize(np.hstack([first, second]))
    lag = moran.rbf_lag(xy, z, length_scale=length)
    r = moran.mean_products(z, lag.values)
    spread = null.stationary_spread(xy, z, lag.values, length_scale=length)
    upper, lower = (tail[pairs].ravel() for tail in null.tail_probabilities(r, spread))
    score = (r / np.sqrt(lag.analytic_variance))[pairs].ravel()
    return pd.DataFrame(
        {
            "two-sided": null.combine_tails(upper, lower, "two-sided"),
            "greater": upper,
            "less": lower,
            "SpatialDM greater": stats.norm.sf(score),
            "SpatialDM two-sided": 2 * stats.norm.sf(np.abs(score)),
            "n_eff": spread.n_eff[pairs].ravel(),
        }
    )


def calibration(figure: Path | None) -> None:
    rows, count = [], 100
    blocks = np.s_[:count, count:]
    for smoothing in (0, 150, 300, 600):
        rng = np.random.default_rng(smoothing)
        for name, (xy, transform) in tissues(rng).items():
            drawn = fields(xy, smoothing, 2 * count, rng)
            drawn = transform(drawn / drawn.std())
            rows.append((name, smoothing, both_tests(xy, drawn[:, :count], drawn[:, count:], LENGTH, blocks)))
    for tier in ("major", "minor"):
        parts = [
            both_tests(xy, a, b, 440.0, np.s_[: a.shape[1], a.shape[1] :])
            for xy, a, b in unrelated_sections(tier, 120 if tier == "major" else 60)
        ]
        if parts:
            rows.append((f"her2st, {tier} types", np.nan, pd.concat(parts)))
    table = []
    for name, smoothing, p in rows:
        rates = (p.drop(columns="n_eff") < ALPHA).mean().to_dict()
        table.append(
            {"tissue": name, "smoothing_um": smoothing, "pairs": len(p), "n_eff": p["n_eff"].median(), **rates}
        )
    frame = pd.DataFrame(table).sort_values(["tissue", "smoothing_um"], ignore_index=True)
    print("\nShare of unrelated pairs with p < 0.05")
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.3f}" if value < 1 else f"{value:.0f}"))
    if figure is not None:
        draw(frame, figure)


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Type I error of both tests over the smoothness of the fields."""
    import matplotlib.pyplot as plt

    simulated = frame[frame["smoothing_um"].notna()]
    real = frame[frame["smoothing_um"].isna()]
    _, (left, right) = plt.subplots(
        1, 2, figsize=(7.2, 2.9), layout="constrained", sharey=True, width_ratios=[2.4, 1], squeeze=True
    )
    colors = dict(zip(simulated["tissue"].unique(), ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=True))
    for name, part in simulated.groupby("tissue", sort=False):
        left.plot(part["smoothing_um"], part["two-sided"], "o-", color=colors[name], label=name, markersize=4)
        left.plot(part["smoothing_um"], part["SpatialDM two-sided"], "x:", color=colors[name], markersize=5)
    left.plot([], [], "o-", color="0.3", label="stationary null", markersize=4)
    left.plot([], [], "x:", color="0.3", label="analytic null", markersize=5)
    left.set_xlabel("smoothness of the fields (um)")
    left.set_ylabel("share called significant")
    left.legend(fontsize=7, frameon=False, loc="center right")
    places = np.arange(len(real))
    right.plot(places, real["two-sided"], "o", color="0.3", markersize=5)
    right.plot(places, real["SpatialDM two-sided"], "x", color="0.3", markersize=6)
    right.set_xticks(places, [name.replace(", ", "\n") for name in real["tissue"]], fontsize=8)
    right.set_xlim(-0.6, len(real) - 0.4)
    for axis in (left, right):
        axis.axhspan(0.03, 0.07, color="0.9", zorder=0)
        axis.axhline(ALPHA, color="0.5", linewidth=0.8, zorder=1)
        axis.set_ylim(0, 1)
        axis.spines[["top", "right"]].set_visible(False)
    left.set_title("unrelated simulated fields, two-sided 5 %", fontsize=9)
    right.set_title("real sections", fontsize=9)
    plt.savefig(path)


def cells(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Places of cells at a pitch of 100."""
    if kind == "hexagons":
        return hexagons(int(np.ceil(np.sqrt(n))))[:n]
    return rng.random((n, 2)) * np.sqrt(n * 100 * 50 * np.sqrt(3))


def types_of(
    xy: np.ndarray, k: int, smoothing: float, unequal: float, rng: np.random.Generator, planted: float = 0.0
) -> np.ndarray:
    """Each point is of the type whose field is largest; the first two fields share `planted`."""
    drawn = fields(xy, smoothing, k, rng)
    drawn /= drawn.std()
    drawn[:, 1] = planted * drawn[:, 0] + np.sqrt(1 - planted**2) * drawn[:, 1]
    return np.unique((drawn + unequal * np.linspace(0.5, -0.5, k)).argmax(axis=1), return_inverse=True)[1]


def squidpy_z(xy: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Its defaults: six neighbours, 1,000 permutations."""
    import anndata as ad
    import squidpy as sq

    adata = ad.AnnData(obs=pd.DataFrame({"type": pd.Categorical(types)}, index=np.arange(len(xy)).astype(str)))
    adata.obsm["spatial"] = xy
    sq.gr.spatial_neighbors(adata, coord_type="generic")
    found = sq.gr.nhood_enrichment(adata, cluster_key="type", copy=True, show_progress_bar=False, seed=0)
    return np.asarray(found[0] if isinstance(found, tuple) else found.zscore)


def category_tests(xy: np.ndarray, types: np.ndarray, *, squidpy: bool) -> dict[str, np.ndarray]:
    """p of all ordered pairs: before, by default, of random labels, and squidpy's z; and p of each type with itself."""
    k = int(types.max()) + 1
    indicators = moran.indicators(types, k)
    z, _ = moran.standardize(indicators)
    lag = moran.rbf_label_lag(xy, types, k, length_scale=LENGTH)
    r = moran.mean_products(z, lag.values)
    r = (r + r.T) / 2
    fields_null = null.stationary_spread(xy, z, lag.values, length_scale=LENGTH)
    neutral = no_preference(xy, indicators, lag.values, length_scale=LENGTH, categories=True)
    mean, variance = label_moments.random_labels(label_moments.WeightSums.of_lag(lag), indicators.mean(axis=0))
    random = 2 * stats.norm.sf(np.abs(r - mean) / np.sqrt(variance))
    off = ~np.eye(k, dtype=bool)
    return {
        "before": null.combine_tails(*null.tail_probabilities(r, fields_null), "two-sided")[off],
        "no preference": neutral.p_values(r, "two-sided")[off],
        "random labels": random[off],
        "self": np.diag(random),
        "squidpy": 2 * stats.norm.sf(np.abs(squidpy_z(xy, types)[off])) if squidpy else np.full(off.sum(), np.nan),
    }


def categories(points: list[int], figure: Path | None) -> None:
    rows = []
    repeats = {100: 300, 1_000: 150, 10_000: 30, 100_000: 8}
    for n in points:
        for kind, k, smoothing, unequal in itertools.product(("hexagons", "irregular"), (3, 5, 12), (0, 150), (0, 1)):
            rng, found = np.random.default_rng([n, k, smoothing, unequal]), []
            for index in range(repeats[n]):
                xy = cells(kind, n, rng)
                types = types_of(xy, k, smoothing, unequal, rng)
                if types.max() > 1:
                    found.append(category_tests(xy, types, squidpy=n <= 10_000 and index < 30))
            rates = {}
            for name in found[0]:
                p = np.concatenate([one[name] for one in found])
                rates[name] = np.mean(p[np.isfinite(p)] < ALPHA) if np.isfinite(p).any() else np.nan
            each = [np.mean(one["no preference"] < ALPHA) for one in found]
            error = np.std(each) / np.sqrt(len(each))
            abundance = "unequal" if unequal else "equal"
            rows.append({"points": n, "on": kind, "types": k, "smoothing": smoothing, "abundance": abundance})
            rows[-1] |= {**rates, "error": error, "tissues": len(found)}
    frame = pd.DataFrame(rows)
    print("\nCell types without preference: share of pairs (self: of types) with p < 0.05; error of `no preference`")
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print("\nMean over points and places")
    names = ["before", "no preference", "random labels", "squidpy"]
    print(frame.groupby(["types", "smoothing", "abundance"])[names].mean().to_string(float_format="{:.3f}".format))
    if figure is not None:
        draw_categories(frame, figure)


def category_power() -> None:
    """A planted pair among five types, beside squidpy; each also at the thresholds that give it 5 % without the pair."""
    rows = []
    for smoothing, planted in itertools.product((60, 150), (0.8, -0.8)):
        found = {}
        for value in (0.0, planted):
            rng, scores = np.random.default_rng(smoothing), []
            for _ in range(100):
                xy = cells("irregular", 4_000, rng)
                types = types_of(xy, 5, smoothing, 0, rng, value)
                indicators = moran.indicators(types, 5)
                z, _ = moran.standardize(indicators)
                both = []
                for length in (LENGTH, 80.0):  # the latter has squidpy's six neighbours
                    lag = moran.rbf_label_lag(xy, types, 5, length_scale=length).values
                    neutral = no_preference(xy, indicators, lag, length_scale=length, categories=True)
                    r = moran.mean_products(z, lag)
                    both.append((r - neutral.nearest(r))[0, 1] / np.sqrt(neutral.spread.variance[0, 1]))
                scores.append((*both, squidpy_z(xy, types)[0, 1]))
            found[value] = np.array(scores)
        low, high = np.quantile(found[0.0], [ALPHA / 2, 1 - ALPHA / 2], axis=0)
        nominal = {value: (np.abs(z) > stats.norm.isf(ALPHA / 2)).mean(axis=0) for value, z in found.items()}
        equal = ((found[planted] < low) | (found[planted] > high)).mean(axis=0)
        row = {"smoothing": smoothing, "planted": planted}
        for index, name in enumerate(("no preference, 220 um", "no preference, 80 um", "squidpy")):
            row[f"{name}: type I, |z| > 1.96"] = nominal[0.0][index]
            row[f"{name}: power, |z| > 1.96"] = nominal[planted][index]
            row[f"{name}: power at 5 % type I"] = equal[index]
        rows.append(row)
    print("\nPower: attraction (+) or avoidance (-) between two of five types, 4,000 cells")
    print(pd.DataFrame(rows).T.to_string(header=False, float_format=lambda value: f"{value:.3f}"))


def draw_categories(frame: pd.DataFrame, path: Path) -> None:
    """Type I error over the number of points: before, by default, and squidpy's."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.9), layout="constrained", sharey=True)
    looks = {"before": ("#D55E00", "x:"), "squidpy": ("#0072B2", "s--"), "no preference": ("0.2", "o-")}
    for axis, (k, part) in zip(axes, frame.groupby("types"), strict=True):
        axis.axhspan(0.03, 0.07, color="0.9", zorder=0)
        for name, (color, style) in looks.items():
            for _, lines in part.groupby(["on", "smoothing", "abundance"]):
                axis.plot(lines["points"], lines[name], style, color=color, markersize=3, linewidth=0.8, alpha=0.8)
        axis.set_xscale("log")
        axis.set_ylim(0, 1.02)
        axis.set_title(f"{k} types", fontsize=9)
        axis.set_xlabel("cells")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share called significant")
    for name, (color, style) in looks.items():
        axes[-1].plot([], [], style, color=color, label={"before": "independent fields"}.get(name, name), markersize=4)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    plt.savefig(path, dpi=150)


def compositions() -> None:
    """Independent smooth fields, normalised to one."""
    rows = []
    for n, k, smoothing, unequal, own in itertools.product(
        (400, 2_000), (3, 5, 8, 22), (150, 400), (0, 1), (True, False)
    ):
        rng, before, after = np.random.default_rng([n, k, smoothing, unequal]), [], []
        xy, off = cells("hexagons", n, rng), ~np.eye(k, dtype=bool)
        for _ in range(60 if k < 8 else 20):
            drawn = fields(xy, smoothing, k, rng)
            shares = np.exp(drawn / drawn.std() + unequal * np.linspace(1, -1, k))
            shares /= shares.sum(axis=1, keepdims=True)
            z, _ = moran.standardize(shares)
            lag = moran.rbf_lag(xy, z, length_scale=LENGTH, include_self=own)
            r = moran.mean_products(z, lag.values)
            r = (r + r.T) / 2
            spread = null.stationary_spread(xy, z, lag.values, length_scale=LENGTH)
            before.append(null.combine_tails(*null.tail_probabilities(r, spread), "two-sided")[off])
            found = no_preference(xy, shares, lag.values, length_scale=LENGTH, categories=False)
            after.append(found.p_values(r, "two-sided")[off])
        rates = {name: np.mean(np.concatenate(p) < ALPHA) for name, p in (("before", before), ("no preference", after))}
        rows.append({"spots": n, "types": k, "smoothing": smoothing, "unequal": unequal, "self": own, **rates})
    print(
        "\nShares that sum to one, of independent fields: share of pairs with p < 0.05; self: a spot is its own neighbour"
    )
    frame = pd.DataFrame(rows).set_index(["types", "unequal", "spots", "smoothing", "self"])
    print(frame.unstack("self").to_string(float_format=lambda value: f"{value:.3f}"))


def power() -> None:
    """The two positive controls: y shares rho of x, on a grid cut from the middle of a larger one."""
    size, margin = 93, 24
    row, column = np.divmod(np.arange(size**2), size)
    inner = (row >= margin) & (row < size - margin) & (column >= margin) & (column < size - margin)
    large = hexagons(size)
    xy, rows = large[inner], []
    pairs = (np.arange(200), np.arange(200, 400))
    for smoothing, oracle in ORACLE.items():
        kernel = None
        if smoothing:
            squared = ((xy[:, None] - large[None]) ** 2).sum(axis=-1)
            kernel = np.exp(-squared / (2 * smoothing**2))
            kernel /= np.sqrt((kernel**2).sum(axis=1, keepdims=True))
        for rho, seed, best in zip((0.3, 0.6), (44000, 47000), oracle, strict=True):
            noise = np.random.default_rng(seed + smoothing).standard_normal((size**2, 400))
            drawn = noise[inner] if kernel is None else kernel @ noise
            first, second = drawn[:, :200], rho * drawn[:, :200] + np.sqrt(1 - rho**2) * drawn[:, 200:]
            p = both_tests(xy, first, second, LENGTH, pairs)
            found = {name: float((p[name] < ALPHA).mean()) for name in ("greater", "two-sided")}
            rows.append(
                {"smoothing_um": smoothing, "rho": rho, **found, "oracle": best, "share": found["greater"] / best}
            )
    print("\nPower at 5 %: greater, two-sided, the oracle (greater), and greater / oracle")
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def permutations() -> None:
    xy, values, length = scattered(5000)
    z, _ = moran.standardize(values)
    rng = np.random.default_rng(0)
    weights = moran.normalize_weights(rbf_weights(xy, length_scale=length))
    lag = moran.rbf_lag(xy, z, length_scale=length).values
    permute = {"permute": resampling.permute_points, "permute_y": resampling.permute_second}
    print("\n999 draws, 5,000 points, 30 x 30 pairs")
    for name, run in permute.items():
        run(weights, z, resampling.Draws(2, rng))
        print(f"  {name:10s} {timed(partial(run, weights, z, resampling.Draws(999, rng)), 1):6.2f} s")
    shift = partial(resampling.shift_fields, xy, z, lag, resampling.Draws(999, rng), pixel=length / 2)
    print(f"  {'shift':10s} {timed(shift, 1):6.2f} s")


def compare() -> None:
    from histocell.tl import evaluate_colocalization

    folder, maps = Path(os.environ.get("HISTOCELL_DATA_DIR", "")) / "hist2cell_moran", []
    for name in ("Cell2location", "Hist2Cell"):
        path = folder / f"WSA_LngSP10193347_MoranR_{name}.csv"
        if not path.exists():
            print(f"\n{path.name} is not in the folder")
            return
        table = pd.read_csv(path, index_col=0)
        both = pd.concat([table, table.rename(columns={"A": "B", "B": "A"})])
        maps.append(both.pivot_table(index="A", columns="B", values="R_val"))
    print("\nHist2Cell's map beside cell2location's, lung slide WSA_LngSP10193347")
    print(evaluate_colocalization(*maps).to_string(index=False))


PARTS = {
    "speed": speed,
    "memory": memory,
    "calibration": calibration,
    "categories": categories,
    "category_power": category_power,
    "compositions": compositions,
    "power": power,
    "permutations": permutations,
    "compare": compare,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--figure", type=Path, help="where to draw the calibration")
    parser.add_argument("--figure-categories", type=Path, help="where to draw that of cell types")
    parser.add_argument("--points", nargs="+", type=int, default=[100, 1_000, 10_000, 100_000], help="of categories")
    arguments = parser.parse_args()
    given = {
        "calibration": (arguments.figure,),
        "categories": (arguments.points, arguments.figure_categories),
    }
    for name in arguments.part:
        start = time.perf_counter()
        PARTS[name](*given.get(name, ()))
        print(f"[{name}: {time.perf_counter() - start:.0f} s]")


if __name__ == "__main__":
    main()
