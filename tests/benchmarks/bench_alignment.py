"""Verdicts and offsets of hc.pp.check_alignment where the registration is known.

    python tests/benchmarks/bench_alignment.py [--part verdicts offsets calibration xenium slide] [--sections 10]

`verdicts`: synthetic sections, each right, shifted, swapped, mirrored, in a wrong scale, and with the nuclei of another section; once as
they are and once hard: at 2 um/px, half of the nuclei missing, the others jittered by 1.5 um (sd), a tenth as many that are none. `offsets`: shifts
up to 50 um. `calibration`: share of p-values below 5 % where nuclei are those of another section. `xenium`: the real sample in
HISTOCELL_DATA_DIR (200 cells at 2.125 um/px), as it is and changed in the same ways. `slide`: time and memory of 500,000 nuclei on
50,000 px.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import time
import warnings
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import histocell as hc

KINDS = {
    "right": "fits",
    "shifted": "shifted",
    "swapped": "swapped",
    "mirrored": "mirrored",
    "wrong scale": "wrong pixel size",
    "unrelated": "unrelated",
}
SIZE_PX, MPP = 1200, 0.5
FACTORS = (0.2125, 0.25, 0.37, 0.5, 0.8, 0.95, 1.05, 1.3, 2.0, 4.0)


@cache
def section(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (h, w, 3) and centres of the nuclei in px."""
    sdata = hc.datasets.synthetic_tissue(size_px=SIZE_PX, mpp=MPP, rng=seed)
    return np.asarray(sdata["he"].data).transpose(1, 2, 0).copy(), sdata["cell_table"].obsm["spatial"]


def coarse(image: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of px."""
    height, width = (length // factor for length in image.shape[:2])
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def harder(xy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the nuclei, jittered, and a tenth as many false ones, in px of the full resolution."""
    kept = xy[rng.permutation(len(xy))[: len(xy) // 2]]
    false = rng.uniform(0, SIZE_PX, (len(kept) // 10, 2))
    return np.concatenate([kept + rng.normal(0, 1.5 / MPP, kept.shape), false])


def changed(xy: np.ndarray, kind: str, shape: tuple[int, int], mpp: float, number: int, rng: np.random.Generator):
    """The nuclei with wrong coordinates, and the offset in um that they are shifted by."""
    offset = np.zeros(2)
    if kind == "shifted":
        angle = rng.uniform(0, 2 * np.pi)
        offset = rng.uniform(4, 50) * np.array([np.cos(angle), np.sin(angle)])
        xy = xy + offset / mpp
    elif kind == "swapped":
        xy = xy[:, ::-1].copy()
    elif kind == "mirrored":
        axis = number % 2
        xy = xy.copy()
        xy[:, axis] = shape[1 - axis] - xy[:, axis]
    elif kind == "wrong scale":
        xy = xy * FACTORS[number % len(FACTORS)]
    return xy, offset


def check(image: np.ndarray | str, xy: np.ndarray, mpp: float) -> tuple[pd.Series, float]:
    """The row of a section, and the seconds that it took."""
    adata = ad.AnnData(obs=pd.DataFrame(index=np.arange(len(xy)).astype(str)))
    adata.obsm["spatial"] = xy
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = hc.pp.check_alignment(adata, image=image, mpp=mpp, inplace=False)
    return result.sections.iloc[0], time.perf_counter() - start


def verdicts(n_sections: int) -> None:
    for hard in (False, True):
        rows = []
        for seed, (kind, wanted) in itertools.product(range(n_sections), KINDS.items()):
            rng = np.random.default_rng([seed, len(kind)])
            image, xy = section(seed)
            if kind == "unrelated":
                xy = section((seed + 1) % n_sections)[1]
            mpp = MPP
            if hard:
                image, xy, mpp = coarse(image, 4), harder(xy, rng) / 4, 4 * MPP
            xy, offset = changed(xy, kind, image.shape[:2], mpp, seed, rng)
            row, seconds = check(image, xy, mpp)
            # after a factor the offset at the middle is no residual of the shift
            error = (
                np.nan
                if kind == "wrong scale"
                else np.hypot(*(row[["offset_x_um", "offset_y_um"]].to_numpy(dtype=float) + offset))
            )
            if row["verdict"] != wanted:
                print(f"    wrong: section {seed}, {kind}: {row['says']}", flush=True)
            print(f"    section {seed}, {kind}: {row['verdict']}, error {error:.3f} um, {seconds:.1f} s", flush=True)
            rows.append((kind, row["verdict"] == wanted, error, seconds, row["z"], row["effect"]))
        table = pd.DataFrame(rows, columns=["kind", "right", "error_um", "seconds", "z", "effect"])
        print(f"{'hard' if hard else 'as they are'}: {int(table['right'].sum())} of {len(table)} verdicts are right")
        print(
            table.groupby("kind", sort=False).agg({"right": "sum", "error_um": "max", "seconds": "median", "z": "min"})
        )


def offsets(n_sections: int) -> None:
    for hard in (False, True):
        errors, inside = [], []
        for seed in range(n_sections):
            image, xy = section(seed)
            rng = np.random.default_rng(seed)
            mpp = MPP
            if hard:
                image, xy, mpp = coarse(image, 4), harder(xy, rng) / 4, 4 * MPP
            for length in (0.5, 3, 10, 25, 50):
                angle = rng.uniform(0, 2 * np.pi)
                offset = length * np.array([np.cos(angle), np.sin(angle)])
                row, _ = check(image, xy + offset / mpp, mpp)
                error = row[["offset_x_um", "offset_y_um"]].to_numpy(dtype=float) + offset
                errors.append(np.hypot(*error))
                inside += list(np.abs(error) < 2 * row[["se_x_um", "se_y_um"]].to_numpy(dtype=float))
        print(
            f"{'hard' if hard else 'as they are'}: error of {len(errors)} offsets to 50 um: median {np.median(errors):.3f}, largest "
            f"{np.max(errors):.3f} um; within two standard errors {np.mean(inside):.2f}"
        )


def calibration(n_sections: int) -> None:
    values = []
    for one, other in itertools.permutations(range(n_sections), 2):
        image, _ = section(one)
        row, _ = check(coarse(image, 4), section(other)[1] / 4, 4 * MPP)
        values.append(row["p"])
    values = np.array(values)
    print(
        f"nuclei of other sections: p below 5 % in {(values < 0.05).mean():.3f}, below 1 % in {(values < 0.01).mean():.3f} of {len(values)}"
    )


def xenium() -> None:
    folder = Path(os.environ["HISTOCELL_DATA_DIR"]) / "xenium_ncbi858"
    xy = np.asarray(ad.read_h5ad(folder / "NCBI858_xy.h5ad").obsm["spatial"])
    rng = np.random.default_rng(0)
    for kind in ("right", "shifted", "swapped", "mirrored", "wrong scale"):
        moved, offset = changed(xy, kind, (1249, 1431), 2.125, 3, rng)
        row, seconds = check(folder / "NCBI858.jpg", moved, 2.125)
        print(f"{kind:12s} {np.round(offset, 1)}: {row['says']} ({seconds:.1f} s)")
    print("fewer cells, as they are:")
    for n in (100, 50, 30, 20):
        found = [check(folder / "NCBI858.jpg", xy[rng.permutation(200)[:n]], 2.125)[0] for _ in range(5)]
        print(f"{n:4d}: {[row['verdict'] for row in found]}, p {[float(f'{row.p:.2g}') for row in found]}")


def slide() -> None:
    """500,000 nuclei on an image of 50,000 px that lies in a file of blocks: synthetic tissue, repeated."""
    import dask.array as da
    from spatialdata.models import Image2DModel

    image, xy = section(0)
    n = 50_000 // SIZE_PX + 1
    tiled = da.tile(da.from_array(image.transpose(2, 0, 1), chunks=(3, SIZE_PX, SIZE_PX)), (1, n, n))
    element = Image2DModel.parse(tiled, dims=("c", "y", "x"), scale_factors=None)
    corners = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 1, 2) * SIZE_PX
    everywhere = (xy[None] + corners).reshape(-1, 2)
    everywhere = everywhere[np.random.default_rng(0).permutation(len(everywhere))[:500_000]]
    for name, moved in {
        "as they are": everywhere,
        "shifted by 20 um": everywhere + 40,
        "swapped": everywhere[:, ::-1],
    }.items():
        row, seconds = check(element, moved, MPP)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{len(moved):,} nuclei, {n * SIZE_PX} px, {name}: {row['says']}; {seconds:.0f} s, peak {peak:.2f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=["verdicts", "offsets", "calibration", "xenium", "slide"])
    parser.add_argument("--sections", type=int, default=10)
    options = parser.parse_args()
    for part in options.part:
        print(f"== {part}")
        if part in {"xenium", "slide"}:
            globals()[part]()
        else:
            globals()[part](options.sections)
