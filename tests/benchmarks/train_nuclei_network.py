"""The network of the method "unet", trained on synthetic tissue and NuCLS, and its scores beside "watershed".

    python tests/benchmarks/train_nuclei_network.py --train all even odd --out networks
    python tests/benchmarks/train_nuclei_network.py --score --out networks

It learns from sections of `synthetic_tissue`, whose nuclei are known, and from tiles of NuCLS (CC0), half of each batch from either.
Ground of NuCLS without a mask where the built-in method finds a nucleus at a high sensitivity is left out of the loss,
because faint nuclei are often missing from these masks. Scores on NuCLS come from two networks, each of which saw the
other half of the tiles; those on glioblastoma, which no network sees, from the one that saw all of NuCLS and is shipped
(`networks/all.safetensors` is `src/histocell/nuclei/unet.safetensors`).
Needs `HISTOCELL_DATA_DIR`, and six minutes of one core for each network.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from bench_nuclei import METHODS, evaluate, jpeg, robustness, show, tiles
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch.nn.functional import binary_cross_entropy_with_logits

from histocell.datasets._tissue.anatomy import TYPICAL, draw_anatomy, vary_subject
from histocell.datasets._tissue.cells import place_cells
from histocell.datasets._tissue.rendering import render
from histocell.datasets._tissue.shapes import CHROMATIN
from histocell.images.stain.estimate import REFERENCE
from histocell.nuclei.methods import load_method
from histocell.nuclei.network import MPP, Network, stain_maps
from histocell.nuclei.unet import UNet

CROP, BATCH, RATE = 96, 8, 4e-3
STAINS = np.vstack([REFERENCE, np.cross(*REFERENCE)])
PARTS = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}


class Trained(UNet):
    """The method with a network of another file."""

    def use(self, network: Network) -> Trained:
        object.__setattr__(self, "own", network.eval())
        return self

    def _network(self) -> Network:
        return self.own


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


def disturb(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other stains, light, focus, noise and compression."""
    stains = STAINS + rng.normal(0, 0.06, STAINS.shape)
    amounts = np.exp(rng.normal(0, (0.3, 0.35, 0.3)))
    density = -np.log10((image.astype(np.float32) + 1) / 256)
    density = np.maximum(density @ np.linalg.inv(STAINS) * amounts @ stains, 0) + rng.uniform(0, 0.08, 3)
    out = 255 * 10 ** -density.astype(np.float32)
    if rng.random() < 0.5:
        out = ndimage.gaussian_filter(out, (*(2 * [rng.uniform(0.3, 1.0)]), 0))
    out = np.clip(out + rng.normal(0, rng.uniform(0, 6), out.shape), 0, 255).astype(np.uint8)
    return jpeg(out, int(rng.integers(30, 95))) if rng.random() < 0.5 else out


def seen(data: list, n_variants: int, rng: np.random.Generator) -> list[list]:
    """Stain maps, labels and um per px of each image as it is and disturbed; stains are estimated of each by itself."""
    method, out = load_method("watershed"), []
    for image, labels, mpp in data:
        variants = [image, *(disturb(image, rng) for _ in range(n_variants - 1))]
        maps = [stain_maps(variant, method.context([variant], mpp)).astype(np.float16) for variant in variants]
        out.append([(one, labels, mpp) for one in maps])
    return out


def crop(source: tuple, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A piece of the maps and labels at `MPP`, turned, flipped, scaled and stretched."""
    maps, labels, mpp = source
    scale, turn = MPP / mpp * np.exp(rng.uniform(-0.45, 0.35)), rng.uniform(0, 2 * np.pi)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * scale
    stretch = np.exp(rng.normal(0, 0.1))
    turned = turned @ np.diag([stretch, 1 / stretch])
    turned[:, 0] *= rng.choice([-1, 1])
    middle = (rng.uniform(0.2, 0.8, 2) * labels.shape)[:, None, None]
    where = np.einsum("ij,jhw->ihw", turned, np.indices((CROP, CROP)) - CROP / 2) + middle
    corner = np.floor(where.min(axis=(1, 2))).astype(int) - 2
    ends = np.ceil(where.max(axis=(1, 2))).astype(int) + 3
    rows, columns = (_mirrored(np.arange(a, b), n) for a, b, n in zip(corner, ends, labels.shape, strict=True))
    piece = maps[:, rows][:, :, columns].astype(np.float32)
    if (sigma := 0.4 * (scale - 1)) > 0.1:
        piece = ndimage.gaussian_filter(piece, (0, sigma, sigma))
    y, x = where - corner[:, None, None]
    pixels = np.stack([ndimage.map_coordinates(plane, (y, x), order=1) for plane in piece])
    return pixels, labels[rows[np.rint(y).astype(int)], columns[np.rint(x).astype(int)]].astype(np.int32)


def _mirrored(index: np.ndarray, n: int) -> np.ndarray:
    place = np.abs(index) % (2 * n - 2)
    return np.where(place >= n, 2 * n - 2 - place, place)


def augment(maps: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nuclei of other contrast, uneven and fibrous ground, blur, noise, and errors of the estimated stains."""
    if rng.random() < 0.7:
        factor = np.exp(rng.normal(0, 0.25, labels.max() + 1)).astype(np.float32)
        factor[0] = 1
        maps[0] *= ndimage.gaussian_filter(factor[np.maximum(labels, 0)], 0.8)
    if rng.random() < 0.5:
        for plane in maps[:2]:
            coarse = ndimage.gaussian_filter(rng.standard_normal((CROP // 8 + 2,) * 2), 1.0)
            cloud = ndimage.zoom(coarse / coarse.std(), 8, order=1)[:CROP, :CROP]
            plane += 0.15 * rng.uniform(0, 1.5) * cloud
    if rng.random() < 0.6:
        grain = ndimage.gaussian_filter(
            rng.standard_normal((CROP, CROP)), np.exp(rng.uniform(np.log(0.6), np.log(3), 2))
        )
        wide = np.pad(grain / grain.std(), CROP // 4, mode="wrap")
        turned = ndimage.rotate(wide, rng.uniform(0, 180), reshape=False, order=1)
        ground = ndimage.gaussian_filter(np.where(labels > 0, rng.uniform(0, 0.8), 1.0), 1)
        maps[0] += rng.uniform(0, 0.3) * ground * turned[CROP // 4 : -(CROP // 4), CROP // 4 : -(CROP // 4)]
    if rng.random() < 0.4:
        maps = ndimage.gaussian_filter(maps, (0, *(2 * [rng.uniform(0.3, 1.0)])))
    gain, shift = np.exp(rng.normal(0, (0.12, 0.2, 0.15, 0.3))), rng.normal(0, (0.07, 0.15, 0.1, 0.1))
    maps = maps * gain[:, None, None] + shift[:, None, None]
    return (maps + rng.normal(0, rng.uniform(0, 0.1), maps.shape)).astype(np.float32)


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


def train(sources: list[list], steps: int, rng: np.random.Generator) -> Network:
    """AdamW with one cycle of the rate on crops, as many from each source; products of bfloat16."""
    network = Network().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    start, recent = time.process_time(), []
    for step in range(steps):
        images = [source[rng.integers(len(source))] for source in (sources[k] for k in rng.integers(0, 2, BATCH))]
        pairs = [crop(variants[rng.integers(len(variants))], rng) for variants in images]
        maps = torch.from_numpy(np.stack([augment(*pair, rng) for pair in pairs]))
        nuclear, depth, known = torch.from_numpy(np.stack([targets(labels) for _, labels in pairs])).unbind(1)
        with torch.autocast("cpu", torch.bfloat16):
            out = network(maps.to(memory_format=torch.channels_last))
        out = out.float()
        chance = torch.sigmoid(out[:, 0]) * known
        overlap = (2 * (chance * nuclear).sum((1, 2)) + 20) / (chance.sum((1, 2)) + (nuclear * known).sum((1, 2)) + 20)
        loss = binary_cross_entropy_with_logits(out[:, 0], nuclear, weight=known) + 0.5 * (1 - overlap).mean()
        loss = loss + 2 * ((torch.sigmoid(out[:, 1]) - depth).abs() * known).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
        recent.append(loss.item())
        if step % 200 == 199:
            print(
                f"  {step + 1} of {steps}: {np.mean(recent[-200:]):.4f}, {time.process_time() - start:.0f} s",
                flush=True,
            )
    return network


def score(folder: Path) -> None:
    networks = {}
    for name in PARTS:
        networks[name] = Network()
        networks[name].load_state_dict(load_file(folder / f"{name}.safetensors"))
    METHODS["unet"] = Trained().use(networks["all"])
    data = tiles("nucls_tiles")
    show({name: evaluate(METHODS[name], tiles("gbm_nuclei")) for name in ("watershed", "unet")}, "gbm_nuclei")
    rows = {}
    for half, other in (("even", "odd"), ("odd", "even")):
        rows[f"watershed, {half} tiles"] = evaluate(METHODS["watershed"], data[PARTS[half]])
        rows[f"unet, {half} tiles"] = evaluate(Trained().use(networks[other]), data[PARTS[half]])
    show(rows, "nucls_tiles, by the network that saw the other half")
    robustness(["watershed", "unet"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", choices=PARTS, default=[], help="the tiles of NuCLS that it sees")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--sections", type=int, default=24)
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.train:
        arguments.out.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        drawn, real = seen(synthetic(arguments.sections), 3, rng), seen(nucls(), 6, rng)
        print(f"{sum(p.numel() for p in Network().parameters()):,} parameters", flush=True)
        for name in arguments.train:
            torch.manual_seed(0)
            network = train([drawn, real[PARTS[name]]], arguments.steps, np.random.default_rng(1))
            weights = {key: value.contiguous() for key, value in network.half().state_dict().items()}
            save_file(weights, arguments.out / f"{name}.safetensors")
    if arguments.score:
        score(arguments.out)


if __name__ == "__main__":
    main()
