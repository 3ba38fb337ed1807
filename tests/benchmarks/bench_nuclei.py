"""Segmentation of nuclei beside scikit-image's usual recipe, on contours drawn by people.

    python tests/benchmarks/bench_nuclei.py [--part accuracy robustness speed ink] [--methods watershed ...] [--figure outlines.png]

`accuracy`: F1 and PQ at IoU 0.5, and F1 of centres within 3 um (one to one), of all objects of a set as one.
`robustness`: the same on the glioblastoma tiles with other stains, light, sizes, blur, noise and compression. The settings
of "watershed" were chosen on these sets, so expect a little less elsewhere. `speed`: ms of one core per tile of 512 x 512 px, and of
the same field at 0.5 um/px. `ink`: pens drawn over the left part of these tiles and of synthetic sections: how many
"watershed" warns of, and its nuclei under the stroke and beside it, relative to those without ink.
Needs `HISTOCELL_DATA_DIR` with gbm_nuclei/ (20 tiles, all nuclei outlined) and nucls_tiles/ (10 tiles of breast cancer).
The masks of NuCLS are partly those of an algorithm, corrected or accepted by people, and faint nuclei are often not in
them; all that is found there and not in the mask counts as wrong, so that scores on it are too low, for all methods alike.
"""

from __future__ import annotations

import argparse
import io
import os
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import remove_small_objects
from skimage.segmentation import find_boundaries, watershed

from histocell.images.pixels import background_colour
from histocell.images.stain.estimate import REFERENCE, estimate_stains
from histocell.kernels.texture import unmix
from histocell.metrics import segmentation_scores
from histocell.nuclei.methods import load_method
from histocell.nuclei.watershed import segment_nuclei

if TYPE_CHECKING:
    from collections.abc import Callable

    type Tile = tuple[np.ndarray, np.ndarray, float]  # image, true labels, um per px

CENTRE_UM = 3.0
SETS = {"gbm_nuclei": 0.25, "nucls_tiles": 0.2}


# ---- methods: (image, mpp) -> labels


def recipe(image: np.ndarray, mpp: float) -> np.ndarray:
    """scikit-image: haematoxylin of HED, Otsu, watershed of the distance to the edge, small objects removed."""
    h = gaussian(rgb2hed(image)[..., 0], 0.5 / mpp)
    mask = ndimage.binary_fill_holes(h > threshold_otsu(h))
    mask = remove_small_objects(mask, max_size=int(10 / mpp**2))
    distance = gaussian(ndimage.distance_transform_edt(mask), 0.5 / mpp)
    blobs = ndimage.label(mask)[0]
    peaks = peak_local_max(distance, min_distance=int(2 / mpp), labels=blobs, exclude_border=False)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, mask=mask)


def in_morphology(image: np.ndarray, mpp: float) -> np.ndarray:
    """The segmentation inside the encoder `morphology`."""
    pixels = image.reshape(-1, 3)
    stains = estimate_stains(pixels, background=background_colour(pixels))
    h = unmix(image, stains.density, stains.unmixing)[0]
    labels, _ = segment_nuclei(h, threshold=stains.nuclear_threshold, mpp=mpp)
    area = np.bincount(labels.ravel()) * mpp**2
    kept = (area >= 10) & (area <= 400)
    kept[0] = False
    return np.where(kept[labels], labels, 0)


def coarse(image: np.ndarray, mpp: float, *, method: Callable, at: float) -> np.ndarray:
    """A method on the image at a coarser resolution, its labels enlarged again."""
    size = [max(1, round(n * mpp / at)) for n in image.shape[1::-1]]
    labels = method(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)), at)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip(image.shape, labels.shape, strict=False)
    )
    return labels[rows][:, columns]


METHODS = {
    "recipe": recipe,
    "in morphology": in_morphology,
    "watershed": load_method("watershed"),
    "unet": load_method("unet"),
    "watershed, 0.5 um": partial(coarse, method=load_method("watershed"), at=0.5),
}
LEARNT = {"unet": {"nucls_tiles"}}  # train_nuclei_network.py scores it there, on tiles that a network did not see


# ---- data


def tiles(name: str) -> list[Tile]:
    folder = Path(os.environ["HISTOCELL_DATA_DIR"]) / name
    masks = sorted(folder.glob("*_inst.png"))
    images = [np.asarray(Image.open(str(mask).replace("_inst", "")).convert("RGB")) for mask in masks]
    labels = [np.asarray(Image.open(mask)).astype(np.int32) for mask in masks]
    return [(image, truth, SETS[name]) for image, truth in zip(images, labels, strict=True)]


def restain(image: np.ndarray, amounts: tuple[float, float, float], vectors: np.ndarray | None = None) -> np.ndarray:
    """Other amounts of haematoxylin, eosin and the rest, and other colours of the two."""
    light = 250.0
    stains, target = (np.vstack([v, np.cross(*v)]) for v in (REFERENCE, REFERENCE if vectors is None else vectors))
    density = -np.log10(np.clip(image / light, 1 / 255, 1)) @ np.linalg.inv(stains) * amounts @ target
    return np.clip(light * 10**-density, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def resized(tile: Tile, factor: float) -> Tile:
    """A tile whose nuclei are larger or smaller, at the same nominal resolution."""
    image, truth, mpp = tile
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    smooth = Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR
    return (
        np.asarray(Image.fromarray(image).resize(size, smooth)),
        np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST)),
        mpp,
    )


BLUISH, REDDISH = (
    np.array(v) / np.linalg.norm(v, axis=1, keepdims=True)
    for v in ([[0.80, 0.56, 0.20], [0.12, 0.93, 0.35]], [[0.55, 0.76, 0.36], [0.2, 0.9, 0.2]])
)
CHANGES: dict[str, Callable[[Tile], Tile]] = {
    "faint": lambda tile: (restain(tile[0], (0.55, 0.55, 0.55)), *tile[1:]),
    "weak haematoxylin": lambda tile: (restain(tile[0], (0.6, 1.1, 1)), *tile[1:]),
    "weak eosin": lambda tile: (restain(tile[0], (0.9, 0.5, 0.7)), *tile[1:]),
    "bluish": lambda tile: (restain(tile[0], (0.8, 0.8, 1), BLUISH), *tile[1:]),
    "reddish": lambda tile: (restain(tile[0], (0.8, 0.9, 1), REDDISH), *tile[1:]),
    "dim light": lambda tile: ((tile[0] * 0.8).astype(np.uint8), *tile[1:]),
    "jpeg 25": lambda tile: (jpeg(tile[0], 25), *tile[1:]),
    "blur 0.5 um": lambda tile: (ndimage.gaussian_filter(tile[0], (2, 2, 0)), *tile[1:]),
    "noise": lambda tile: (
        np.clip(tile[0] + np.random.default_rng(0).normal(0, 10, tile[0].shape), 0, 255).astype(np.uint8),
        *tile[1:],
    ),
    "0.7 times": lambda tile: resized(tile, 0.7),
    "1.5 times": lambda tile: resized(tile, 1.5),
}


# ---- scores


def centres(labels: np.ndarray) -> np.ndarray:
    index = np.unique(labels[labels > 0])
    return np.array(ndimage.center_of_mass(labels > 0, labels, index)).reshape(-1, 2)


def evaluate(method: Callable, data: list[Tile]) -> dict[str, float]:
    """Scores of the objects of all tiles as one, and the median ratio of the areas of matched objects."""
    trues, founds, hits = [], [], 0
    offset = [0, 0]
    for image, truth, mpp in data:
        found = np.asarray(method(image, mpp))
        a, b = centres(truth), centres(found)
        distance = cdist(a, b) * mpp
        rows, columns = linear_sum_assignment(np.where(distance <= CENTRE_UM, distance, 1e6))
        hits += int((distance[rows, columns] <= CENTRE_UM).sum())
        for k, (labels, out) in enumerate(((truth, trues), (found, founds))):
            out.append(np.where(labels > 0, labels + offset[k], 0).ravel())
            offset[k] += int(labels.max())
    scores = segmentation_scores(np.concatenate(trues), np.concatenate(founds))
    scores["centres"] = 2 * hits / (scores["n_true"] + scores["n_predicted"])
    return scores


SHOWN = ("f1", "pq", "centres", "precision", "recall", "sq", "aji")


def show(rows: dict[str, dict[str, float]], heading: str) -> None:
    print(f"\n{heading:40s}" + "".join(f"{name:>10s}" for name in SHOWN))
    for name, scores in rows.items():
        print(f"  {name:38s}" + "".join(f"{scores[key]:10.3f}" for key in SHOWN), flush=True)


def accuracy(names: list[str]) -> None:
    for name in SETS:
        chosen = [method for method in names if name not in LEARNT.get(method, ())]
        show({method: evaluate(METHODS[method], tiles(name)) for method in chosen}, name)


def robustness(names: list[str]) -> None:
    original = tiles("gbm_nuclei")
    for method in names:
        rows = {name: evaluate(METHODS[method], [f(tile) for tile in original[::2]]) for name, f in CHANGES.items()}
        rows["mean"] = {key: float(np.mean([row[key] for row in rows.values()])) for key in SHOWN}
        show(rows, method)


def speed(names: list[str]) -> None:
    fine = [(image, mpp) for image, _, mpp in tiles("gbm_nuclei")[:5]]
    half = [(np.asarray(Image.fromarray(i).resize((256, 256), Image.Resampling.BOX)), 2 * mpp) for i, mpp in fine]
    for method in names:
        if method == "watershed, 0.5 um":
            continue
        call = METHODS[method]
        for data, text in ((fine, "512 x 512 px, 0.25 um/px"), (half, "256 x 256 px, 0.5 um/px")):
            context = call.context([data[0][0]], data[0][1]) if hasattr(call, "context") else None
            timed = partial(call, context=context) if context else call
            timed(*data[0])
            best = []
            for image, mpp in data:
                times = []
                for _ in range(5):
                    start = time.process_time()
                    timed(image, mpp)
                    times.append(time.process_time() - start)
                best.append(min(times))
            print(f"{method:20s} {text}: {1e3 * np.mean(best):7.2f} ms", flush=True)


INKS = {"none": (245, 245, 245), "red": (200, 30, 40), "green": (20, 120, 60), "blue": (30, 40, 160)}
INKS |= {"light blue": (37, 95, 160), "black": (30, 30, 30)}


def ink(_: list[str]) -> None:
    from histocell.datasets import synthetic_tissue

    glass = np.full((32, 32, 3), 245, np.uint8)
    sections = [np.moveaxis(np.asarray(synthetic_tissue(size_px=600, rng=k)["he"].data), 0, -1) for k in range(10)]
    data = {name: [(image, mpp) for image, _, mpp in tiles(name)] for name in SETS}
    method = METHODS["watershed"]
    for name, images in (data | {"synthetic": [(image, 0.5) for image in sections]}).items():
        before = [method(image, mpp, method.context([image, glass], mpp)) for image, mpp in images]
        print(f"\n{name:24s}{'warned of':>14s}{'under ink':>14s}{'beside it':>14s}")
        for colour, strength in [("none", 1.0), *((colour, s) for colour in list(INKS)[1:] for s in (0.35, 1.0))]:
            n_warned, counts = 0, np.zeros((2, 2))
            for (image, mpp), clean in zip(images, before, strict=True):
                edge = int(0.45 * image.shape[1])
                marked = image.copy()
                marked[:, :edge] = image[:, :edge] * (np.array(INKS[colour]) / 245) ** strength
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    context = method.context([marked, glass], mpp)
                n_warned += any("stained pixels" in str(w.message) for w in caught)
                found = method(marked, mpp, context)
                parts = [[len(np.unique(half)) - 1 for half in np.split(x, [edge], axis=1)] for x in (clean, found)]
                counts += parts
            under, beside = counts[1] / counts[0]
            print(
                f"  {colour:14s}{strength:8.2f}{n_warned:8d} of {len(images):2d}{under:14.2f}{beside:14.2f}", flush=True
            )


def draw(path: str) -> None:
    """Contours of people, green, and of the built-in method, yellow."""
    panels = []
    for image, truth, mpp in (tiles("gbm_nuclei")[7], tiles("gbm_nuclei")[18], tiles("nucls_tiles")[3]):
        found = METHODS["watershed"](image, mpp)
        parts = [np.kron(a[:260, :260], np.ones((3, 3), a.dtype)) for a in (truth, found)]
        panel = np.repeat(np.repeat(image[:260, :260], 3, axis=0), 3, axis=1)
        panel[find_boundaries(parts[0], mode="inner")] = (0, 220, 0)
        panel[find_boundaries(parts[1], mode="inner")] = (255, 240, 0)
        panels.append(panel)
    Image.fromarray(np.concatenate(panels, axis=1)).save(path)


PARTS = {"accuracy": accuracy, "robustness": robustness, "speed": speed, "ink": ink}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--figure")
    arguments = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in arguments.part:
            PARTS[part](arguments.methods)
        if arguments.figure:
            draw(arguments.figure)


if __name__ == "__main__":
    main()
