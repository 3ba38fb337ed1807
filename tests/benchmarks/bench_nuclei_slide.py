"""Nuclei of whole slides: the same in blocks of any size, no seams, bounded memory, and mm² per second.

``python tests/benchmarks/bench_nuclei_slide.py`` prints all parts, ``--part blocks`` one of them; ``--side 20000`` is the
side of the slide of the last two. ``--method unet`` is the other built-in method. The slide is synthetic tissue, mirrored side by side into a tiled JPEG TIFF. The recipe
beside is that of scikit-image's gallery: haematoxylin of HED, Otsu's threshold, watershed on distances, of blocks of the
same size with the same margin, on as many threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import shapely
import tifffile

import histocell as hc
from histocell.images.slide_image import open_image

MPP = 0.5
TILE = 2000
BLOCKS = (512, 1024, 2048, 4096)
METHOD = ["watershed"]


def tissue(side: int = TILE, rng: int = 0) -> np.ndarray:
    """Synthetic tissue, shape (side, side, 3)."""
    image = open_image(hc.datasets.synthetic_tissue(size_px=side, mpp=MPP, rng=rng)["he"])
    return image.read(0, 0, *image.shape)


def write_slide(path: Path, side: int) -> None:
    """A slide of `side` px: tissue, mirrored from tile to tile, in tiles of 256 px."""
    tile = tissue()

    def tiles():
        for row in range(0, side, 256):
            for column in range(0, side, 256):
                rows, columns = (np.arange(start, start + 256) for start in (row, column))
                yield tile[np.ix_(mirrored(rows), mirrored(columns))]

    resolution = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(256, 256), compression="jpeg", photometric="rgb",
        compressionargs={"level": 90}, **resolution,
    )  # fmt: skip


def mirrored(index: np.ndarray) -> np.ndarray:
    """Rows of the tile for rows of the slide: forth and back."""
    place = index % (2 * TILE)
    return np.where(place < TILE, place, 2 * TILE - 1 - place)


def recipe(image: np.ndarray) -> np.ndarray:
    """The usual recipe of scikit-image."""
    from scipy import ndimage
    from skimage.color import rgb2hed
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import regionprops_table
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import watershed

    haematoxylin = gaussian(rgb2hed(image)[..., 0], 1)
    mask = remove_small_objects(ndimage.binary_fill_holes(haematoxylin > threshold_otsu(haematoxylin)), max_size=40)
    distance = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(distance, min_distance=6, labels=ndimage.label(mask)[0])
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-distance, markers, mask=mask)
    regionprops_table(labels, properties=("label", "centroid", "bbox"))  # what merging blocks needs
    return labels


def outlines(labels: np.ndarray) -> list[shapely.Polygon]:
    """Outlines of labels, by marching squares of scikit-image on each: what a table of shapes needs."""
    from skimage.measure import find_contours, regionprops

    found = []
    for region in regionprops(labels):
        contour = max(find_contours(np.pad(region.image_filled, 1), 0.5), key=len)
        found.append(shapely.Polygon(contour[:, ::-1] - 0.5 + region.bbox[1::-1]))
    return found


def segmented(path: Path, **options: object):
    """The nuclei of a slide, all of which is tissue."""
    result = hc.pp.segment_nuclei(
        hc.io.slide(path), method=METHOD[0], region=None, inplace=False, measure=False, **options
    )
    return result["nuclei"], result["nucleus_table"].obsm["spatial"]


def part_blocks(folder: Path, side: int) -> None:
    """Nuclei that are the same, to the last point of their outline, in blocks of all sizes."""
    slides = {"synthetic": folder / "blocks.tif"}
    write_slide(slides["synthetic"], 5000)
    slides["CMU-1, real"] = hc.datasets.example_slide()
    for name, path in slides.items():
        whole = set(shapely.to_wkb(segmented(path, block_px=8192)[0].geometry))
        for block_px in BLOCKS:
            parts = set(shapely.to_wkb(segmented(path, block_px=block_px)[0].geometry))
            share = len(whole & parts) / len(whole | parts)
            print(
                f"{name}, blocks of {block_px}: {len(parts)} nuclei, {share:.4%} the same as in one block of {len(whole)}"
            )


def part_seams(folder: Path, side: int) -> None:
    """Nuclei near borders of blocks, over those that one block finds there."""
    path = folder / "seams.tif"
    write_slide(path, 4096)
    whole = segmented(path, block_px=8192)[1]
    parts = segmented(path, block_px=512)[1]
    print("distance to a border of a block, um: nuclei in blocks of 512, in one block, ratio")
    for low, high in ((0, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 128)):
        counts = [int(((near := _to_border(xy, 512) * MPP) >= low).__and__(near < high).sum()) for xy in (parts, whole)]
        print(f"{low:>3} to {high:>3}: {counts[0]:>6} {counts[1]:>6} {counts[0] / counts[1]:.4f}")
    pairs = shapely.STRtree(polygons := segmented(path, block_px=512)[0].geometry.to_numpy()).query(
        polygons, "overlaps"
    )
    print(f"pairs of outlines that overlap: {len(pairs.T) // 2}")


def _to_border(xy: np.ndarray, edge: int) -> np.ndarray:
    """Distance to the nearest border of a block, px."""
    return np.abs((xy + edge / 2) % edge - edge / 2).min(axis=1)


def part_memory(folder: Path, side: int) -> None:
    """Peak memory of a process that segments a small and a large slide, and its time."""
    for length in (2000, side):
        path = folder / f"{length}.tif"
        write_slide(path, length)
        run = subprocess.run(
            [sys.executable, __file__, "--one", str(path), "--method", METHOD[0]],
            capture_output=True,
            text=True,
            check=True,
        )
        facts = json.loads(run.stdout)
        area = (length * MPP / 1000) ** 2
        print(
            f"{length} x {length} px ({3 * length**2 / 2**30:.2f} GiB of pixels): {facts['n']} nuclei, "
            f"{facts['seconds']:.1f} s, {area / facts['seconds']:.2f} mm²/s, peak {facts['peak'] / 2**30:.2f} GiB, "
            f"{(facts['peak'] - facts['before']) / 2**30:.2f} GiB more than before it began"
        )


def run_one(path: Path) -> None:
    """Segment one slide and print time and memory as JSON."""
    import resource

    hc.pp.segment_nuclei(hc.datasets.synthetic_tissue(size_px=600), method=METHOD[0])  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    found, _ = segmented(path)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"n": len(found), "seconds": seconds, "before": before, "peak": peak}))


def part_speed(folder: Path, side: int) -> None:
    """mm² per second, beside scikit-image's recipe block by block; of the CPU, too, which other programs do not slow."""
    path = folder / "speed.tif"
    write_slide(path, 4096)
    image = open_image(path)
    hc.pp.segment_nuclei(hc.datasets.synthetic_tissue(size_px=600), method=METHOD[0])
    margin, n_threads = 64, numba.get_num_threads()

    def labels(corner: tuple[int, int]) -> np.ndarray:
        y, x = corner
        return recipe(image.read(y - margin, x - margin, y + 2048 + margin, x + 2048 + margin))

    def blocks(work) -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(work, [(0, 0), (0, 2048), (2048, 0), (2048, 2048)]))

    runs = {
        "histocell, labels, outlines and union": lambda: segmented(path, block_px=2048),
        "scikit-image, labels": lambda: blocks(labels),
        "scikit-image, labels and outlines": lambda: blocks(lambda corner: outlines(labels(corner))),
    }
    rates: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for _ in range(3):
        for name, run in runs.items():
            start = np.array([time.perf_counter(), time.process_time()])
            run()
            rates[name].append(
                (4096 * MPP / 1000) ** 2 / (np.array([time.perf_counter(), time.process_time()]) - start)
            )
    for name, values in rates.items():
        wall, cpu = (", ".join(f"{value[k]:.2f}" for value in values) for k in (0, 1))
        print(f"{name}: {wall} mm² per second on {n_threads} threads; {cpu} mm² per second of the CPU")
    ours, *others = (np.max(values, axis=0) for values in rates.values())
    for name, other in zip(list(rates)[1:], others, strict=True):
        print(
            f"{ours[0] / other[0]:.1f} times as fast as {name}, {ours[1] / other[1]:.1f} times by the CPU (best of 3)"
        )


PARTS = {"blocks": part_blocks, "seams": part_seams, "speed": part_speed, "memory": part_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=("watershed", "unet"), default="watershed")
    options = parser.parse_args()
    METHOD[0] = options.method
    if options.one:
        run_one(options.one)
        return
    for name in [options.part] if options.part else PARTS:
        print(f"## {name}")
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), options.side)


if __name__ == "__main__":
    main()
