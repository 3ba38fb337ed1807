"""A small network for nuclei, trained on synthetic tissue and NuCLS, beside the built-in method.

    python tests/benchmarks/train_nuclei_network.py [--steps 700 350] [--out network.pt]

A U-Net sees 0.5 um/px and gives, for each pixel, whether it is nuclear and how deep it lies in its nucleus, 0 at the edge and
1 in the middle; a watershed of the depth parts nuclei. It learns from sections of `synthetic_tissue`, whose nuclei are known,
then from these and tiles of NuCLS (CC0). Ground of NuCLS without a mask where the built-in method finds a nucleus at a high
sensitivity is left out of the loss, because faint nuclei are often missing from these masks.
Scores on NuCLS come from two networks, each of which saw the other half of the tiles; those on glioblastoma, which
no network sees, from a third that saw all of NuCLS. Needs `HISTOCELL_DATA_DIR`, and six minutes of one core.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
from bench_nuclei import METHODS, evaluate, jpeg, robustness, show, tiles
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, grid_sample, interpolate

from histocell.datasets._tissue.anatomy import TYPICAL, draw_anatomy, vary_subject
from histocell.datasets._tissue.cells import place_cells
from histocell.datasets._tissue.rendering import render
from histocell.datasets._tissue.shapes import CHROMATIN
from histocell.images.stain.estimate import REFERENCE
from histocell.nuclei.methods import load_method

MPP, CROP, BATCH, WIDTHS = 0.5, 96, 8, (16, 32, 64, 96)
STAINS = np.vstack([REFERENCE, np.cross(*REFERENCE)])


class Network(nn.Module):
    """A U-Net from optical densities (n, 3, h, w) to logits of nucleus and depth (n, 2, h, w); h and w divide by 8."""

    def __init__(self) -> None:
        super().__init__()
        ups = [a + b for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((3, *WIDTHS), WIDTHS, strict=False))
        self.up = nn.ModuleList(_block(a, b) for a, b in zip(ups, WIDTHS, strict=False))
        self.head = nn.Conv2d(WIDTHS[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = []
        for k, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if k else x)
            levels.append(x)
        for block, level in zip(self.up[::-1], levels[-2::-1], strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2.0), level], dim=1))
        return self.head(x)


def _block(n_in: int, n_out: int) -> nn.Sequential:
    layers = [[nn.Conv2d(n, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()] for n in (n_in, n_out)]
    return nn.Sequential(*layers[0], *layers[1])


class Segmenter:
    """A trained network as a method: (image, mpp) -> labels."""

    mpp, halo_um = MPP, 24.0

    def __init__(self, network: Network) -> None:
        self.network = network.eval()

    def __call__(self, image: np.ndarray, mpp: float) -> np.ndarray:
        density = torch.from_numpy(_density(image)).permute(2, 0, 1)[None]
        size = [max(8, round(n * mpp / MPP / 8) * 8) for n in image.shape[:2]]
        small = interpolate(density, size, mode="bilinear", antialias=True)
        turned = [(), (2,), (3,), (2, 3)]
        with torch.no_grad():
            seen = [torch.sigmoid(self.network(_scaled(small.flip(axes)))).flip(axes) for axes in turned]
            large = interpolate(sum(seen) / 4, image.shape[:2], mode="bicubic")
        return parted(*large[0].numpy(), mpp)


def parted(nuclear: np.ndarray, depth: np.ndarray, mpp: float) -> np.ndarray:
    """Labels of nuclei from the chance that a pixel is nuclear and its depth."""
    mask = ndimage.binary_fill_holes(nuclear > 0.5)
    depth = ndimage.gaussian_filter(depth, 0.5 / mpp)
    peaks = peak_local_max(
        depth, min_distance=round(1.5 / mpp), threshold_abs=0.35, labels=mask.astype(int), exclude_border=False
    )
    marks = np.zeros(mask.shape, np.int32)
    marks[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-depth, marks, mask=mask)
    area = np.bincount(labels.ravel()) * mpp**2
    return np.where((area >= 8)[labels], labels, 0)


# ---- what it learns from: (image, labels, -1 where not known; um per px)


def synthetic(n: int, side_px: int = 700) -> list:
    """Sections of synthetic tissue of many patients, and their nuclei."""
    out = []
    for rng in np.random.default_rng(0).spawn(n):
        subject = vary_subject(TYPICAL, rng, spread=2.0)
        anatomy = draw_anatomy(subject, side_px * MPP, rng=rng)
        cells = place_cells(anatomy, subject, rng=rng)
        image = render(anatomy, cells, subject, size_px=side_px, mpp=MPP, rng=rng)
        out.append((image, outlined(cells, side_px), MPP))
    return out


def outlined(cells, side_px: int) -> np.ndarray:
    """The nuclei as they are painted, later ones over earlier ones."""
    labels = np.zeros((side_px, side_px), np.int32)
    for k, c in enumerate(cells.itertuples(index=False), start=1):
        wobble = CHROMATIN["wobble"].iloc[int(c.type)]
        reach = max(c.long, c.short) * (1 + 2 * wobble) + abs(c.bend) * c.long**2 + 1
        top, left = (max(int((at - reach) / MPP), 0) for at in (c.y, c.x))
        window = labels[top : int((c.y + reach) / MPP) + 2, left : int((c.x + reach) / MPP) + 2]
        y, x = np.indices(window.shape)
        dy, dx = (y + top + 0.5) * MPP - c.y, (x + left + 0.5) * MPP - c.x
        u = (np.cos(c.angle) * dx + np.sin(c.angle) * dy) / c.long
        v = (np.cos(c.angle) * dy - np.sin(c.angle) * dx - c.bend * (u * c.long) ** 2) / c.short
        v = v * (1 + 0.7 * u**2) if c.long > 2.5 * c.short else v
        two, three = np.sin(12.9 * c.x + 4.1 * c.y), np.sin(7.7 * c.y - 3.3 * c.x)
        turn = np.arctan2(v, u)
        window[np.hypot(u, v) <= 1 + wobble * (two * np.cos(2 * turn) + three * np.cos(3 * turn))] = k
    return labels


def nucls() -> list:
    """Tiles of NuCLS; what may be a nucleus but has no mask is not known."""
    sensitive = load_method("watershed", sensitivity=0.75)
    out = []
    for image, truth, mpp in tiles("nucls_tiles"):
        found = sensitive(image, mpp)
        covered = np.bincount(found[truth > 0], minlength=found.max() + 1) / np.bincount(found.ravel())
        out.append((image, np.where((truth == 0) & (found > 0) & (covered < 0.1)[found], -1, truth), mpp))
    return out


# ---- training


def _density(image: np.ndarray) -> np.ndarray:
    return -np.log10((image.astype(np.float32) + 1) / 256)


def _scaled(density: torch.Tensor) -> torch.Tensor:
    """Densities of images, those of each in units of its strongest pixels."""
    strong = density.mean(dim=1).flatten(1).quantile(0.98, dim=1)
    return density / strong.clip(0.2)[:, None, None, None]


def crop(tile: tuple, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A piece of a tile, turned, flipped and scaled: image and labels."""
    image, labels, mpp = tile
    scale, turn = MPP / mpp * np.exp(rng.uniform(-0.35, 0.35)), rng.uniform(0, 2 * np.pi)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * scale
    turned[:, 0] *= rng.choice([-1, 1])
    at = (rng.uniform(0.2, 0.8, 2) * labels.shape)[:, None, None]
    where = np.einsum("ij,jhw->ihw", turned, np.indices((CROP, CROP)) - CROP / 2) + at
    grid = torch.from_numpy(2 * where[::-1].copy() / np.array(labels.shape[::-1])[:, None, None] - 1).float()
    grid = grid.permute(1, 2, 0)[None]
    planes = ndimage.gaussian_filter(image, (*(2 * [max(0.0, 0.4 * (scale - 1))]), 0))
    seen = grid_sample(
        torch.from_numpy(planes).permute(2, 0, 1)[None].float(), grid, padding_mode="reflection", align_corners=False
    )
    known = grid_sample(
        torch.from_numpy(labels)[None, None].double(),
        grid.double(),
        mode="nearest",
        padding_mode="reflection",
        align_corners=False,
    )
    return seen[0].permute(1, 2, 0).numpy(), known[0, 0].numpy().astype(np.int32)


def disturb(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other stains, light, focus, noise and compression."""
    stains = STAINS + rng.normal(0, 0.06, STAINS.shape)
    amounts = np.exp(rng.normal(0, (0.3, 0.35, 0.3)))
    density = np.maximum(_density(image) @ np.linalg.inv(STAINS) * amounts @ stains, 0) + rng.uniform(0, 0.08, 3)
    out = 255 * 10 ** -density.astype(np.float32)
    if rng.random() < 0.5:
        out = ndimage.gaussian_filter(out, (*(2 * [rng.uniform(0.3, 1.0)]), 0))
    out = np.clip(out + rng.normal(0, rng.uniform(0, 6), out.shape), 0, 255).astype(np.uint8)
    return jpeg(out, int(rng.integers(30, 95))) if rng.random() < 0.5 else out


def targets(labels: np.ndarray) -> np.ndarray:
    """Nuclear or not, depth from 0 to 1, and whether the pixel is known."""
    wide = np.pad(labels, 1, mode="edge")
    inner = labels > 0
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inner = inner & (wide[dy : dy + CROP, dx : dx + CROP] == labels)
    depth = ndimage.distance_transform_edt(inner) + 0.5
    deepest = ndimage.maximum(depth, labels, np.arange(labels.max() + 1))
    depth = np.where(labels > 0, depth / np.maximum(deepest, 1)[np.maximum(labels, 0)], 0)
    return np.stack([labels > 0, depth, labels >= 0]).astype(np.float32)


def train(network: Network, sources: list[list], steps: int, rate: float, rng: np.random.Generator) -> Network:
    """Crops of all sources in turn, AdamW with one cycle of the rate."""
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    start, recent = time.process_time(), []
    for step in range(steps):
        tile = [sources[k % len(sources)][rng.integers(len(sources[k % len(sources)]))] for k in range(BATCH)]
        pairs = [crop(one, rng) for one in tile]
        seen = torch.from_numpy(np.stack([_density(disturb(image, rng)) for image, _ in pairs])).permute(0, 3, 1, 2)
        nuclear, depth, known = torch.from_numpy(np.stack([targets(labels) for _, labels in pairs])).unbind(1)
        out = network(_scaled(seen))
        loss = binary_cross_entropy_with_logits(out[:, 0], nuclear, weight=known)
        loss = loss + 2 * ((torch.sigmoid(out[:, 1]) - depth).abs() * known).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
        recent.append(loss.item())
        if step % 100 == 99:
            print(
                f"  {step + 1:5d} of {steps}: {np.mean(recent[-100:]):.4f}, {time.process_time() - start:.0f} s",
                flush=True,
            )
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps", nargs=2, type=int, default=[700, 350], help="on synthetic tissue, and on this and NuCLS"
    )
    parser.add_argument("--sections", type=int, default=16)
    parser.add_argument("--out", help="file for the weights of the network that saw all of NuCLS")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    drawn, real = synthetic(arguments.sections), nucls()
    print(f"{sum(p.numel() for p in Network().parameters()):,} parameters; {len(drawn)} synthetic sections", flush=True)
    first = train(Network(), [drawn], arguments.steps[0], 4e-3, rng)
    halves = {"all": range(10), "even": range(0, 10, 2), "odd": range(1, 10, 2)}
    networks = {}
    for name, chosen in halves.items():
        networks[name] = Network()
        networks[name].load_state_dict(first.state_dict())
        train(networks[name], [drawn, [real[k] for k in chosen]], arguments.steps[1], 2e-3, rng)
    if arguments.out:
        torch.save(networks["all"].state_dict(), arguments.out)
    METHODS["network"] = Segmenter(networks["all"])
    show({name: evaluate(METHODS[name], tiles("gbm_nuclei")) for name in ("watershed", "network")}, "gbm_nuclei")
    data = tiles("nucls_tiles")
    parts = {
        half: evaluate(Segmenter(networks[other]), data[k::2])
        for k, (half, other) in enumerate((("even", "odd"), ("odd", "even")))
    }
    rows = {f"network, {half} tiles": scores for half, scores in parts.items()}
    rows |= {
        f"watershed, {half} tiles": evaluate(METHODS["watershed"], data[k::2]) for k, half in enumerate(("even", "odd"))
    }
    show(rows, "nucls_tiles, by the network that saw the other half")
    robustness(["network"])


if __name__ == "__main__":
    main()
