"""The encoder engine beside LazySlide and beside the bare network, both sides in one run.

    python tests/benchmarks/bench_embedding.py [--part pipeline vit gpu memory kills cells parity cost]

`pipeline`: tiles per second with an encoder that costs next to nothing, the mean of the pixels: reading, decoding, resizing.
`vit`: ViT-S/16 end to end beside its forward passes alone (same network, precision, batch; input ready on the device) and
beside LazySlide's default (fp32, batches of 32, no workers); agreement of the half precision with fp32.
`gpu`: the same for UNI2-h, with the share of the device's arithmetic that is used. `memory`: peak above the model while a slide
of 100,000 and of 20,000 px is embedded into a store, 1,536 features a tile, by an encoder that costs next to nothing so that it ends
in minutes. `kills`: SIGKILL at random moments of a run with a store. `cells`: one embedding per nucleus, a patch each or shared
tiles. `parity`: outputs of the original implementations. `cost`: arithmetic of the encoders of the catalogue.
Weights are random: only speed and agreement are looked at. Slides repeat real tissue where `HISTOCELL_DATA_DIR` names a folder with
slides/CMU-1-Small-Region.svs, else synthetic tissue; `parity` takes the fixtures beside that folder. LazySlide is taken where it can
be imported. Figures are medians of runs in turn.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from embedding_runs import kills, memory
from embedding_slides import MPP, TILE_PX, MeanOfPixels, grid, table, write_slide
from torch import nn

import histocell as hc
from histocell.encoders.inference.nucleus_tokens import NucleusPooling, pool_tokens, token_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from histocell.encoders.inference.patch_encoder import PatchEncoder

PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}  # dense bf16, as sold


# ---- both sides


def lazyslide(path: Path) -> tuple[Callable[..., NDArray[np.float32]], NDArray[np.int64]] | None:
    """A function that embeds the tiles of a slide by a module, and the corners (x, y) of the tiles."""
    try:
        import lazyslide as zs
        from lazyslide_models.base import ImageModel
        from wsidata import open_wsi
    except ImportError:
        print("LazySlide cannot be imported: pip install lazyslide")
        return None
    from torchvision.transforms import v2

    logging.getLogger("lazyslide").setLevel(logging.ERROR)
    wsi = open_wsi(path, store=None)
    zs.pp.tile_tissues(wsi, TILE_PX, mpp=MPP, tissue_key=None)

    class Model(ImageModel):
        def __init__(self, module: nn.Module) -> None:
            self.model = module

        def encode_image(self, image: torch.Tensor) -> torch.Tensor:
            return self.model(image)

    def run(module: nn.Module, spec: Any, *, num_workers: int = 0, device: str = "cpu") -> NDArray[np.float32]:
        steps = [  # those of ImageModel, with the encoder's mean and deviation
            v2.ToImage(),
            v2.ToDtype(dtype=torch.float32, scale=True),
            v2.Resize(size=(spec.input_px, spec.input_px), antialias=True),
            v2.Normalize(mean=spec.mean, std=spec.std),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return zs.tl.feature_extraction(
                wsi,
                Model(module),
                model_name="bench",
                transform=v2.Compose(steps),
                num_workers=num_workers,
                device=device,
                pbar=False,
                return_features=True,
            )

    return run, wsi.shapes["tiles"].bounds[["minx", "miny"]].to_numpy().astype(np.int64)


def in_turn(
    runs: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Seconds of each, run in turn, and their last results."""
    seconds = {name: np.empty(repeats) for name in runs}
    found = {}
    for number in range(repeats):
        for name, run in runs.items():
            gc.collect()
            start = time.perf_counter()
            found[name] = run()
            seconds[name][number] = time.perf_counter() - start
    return seconds, found


def share_of_forward(forward: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    """Rate of a whole run by that of its forward passes, round by round: what else the machine does hits both."""
    return float(np.median(forward / whole))


def with_threads(count: int, run: Callable[[], Any]) -> Any:
    """Run with that many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return run()
    finally:
        torch.set_num_threads(before)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def forward_only(encoder: PatchEncoder, n: int) -> Callable[[], None]:
    """Forward passes over `n` images in the encoder's own batches, nothing else: the input lies on the device.

    Batches of each size have passed once: the first one of a size is slower.
    """
    replica = encoder._executor.replicas[0]
    size, edge = min(encoder._full_batch(encoder.spec.input_px), n), encoder.spec.input_px
    sample = torch.randint(0, 256, (size, edge, edge, 3), dtype=torch.uint8).to(replica.device)
    images = replica.prepare(sample)

    def passes(count: int) -> None:
        with torch.inference_mode():
            for start in range(0, count, size):
                out = replica.backbone(images[: count - start])
            if replica.device.type == "cuda":
                out.cpu()

    def run(count: int = n) -> None:
        # in a thread, as the engine does: threads of OpenMP wait in another way where there are more of them than cores
        with ThreadPoolExecutor(1) as pool:
            pool.submit(passes, count).result()

    run(size + n % size)
    return run


def machine() -> str:
    abilities = {
        "AMX": getattr(torch.cpu, "_is_amx_tile_supported", bool)(),
        "AVX512-bf16": getattr(torch.cpu, "_is_avx512_bf16_supported", bool)(),
    }
    words = ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in abilities.items())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {words}, {gpu}, torch {torch.__version__}"


# ---- parts


def pipeline(folder: Path, size: int, repeats: int) -> None:
    path = write_slide(folder / "pipeline.tif", size)
    peer = lazyslide(path)
    corners = grid(size, TILE_PX) if peer is None else peer[1]
    adata, module = table(path, corners), MeanOfPixels()
    encoder = hc.encoders.load(module)
    runs: dict[str, Callable[[], Any]] = {
        "histocell": lambda: hc.pp.embed_image(adata, encoder, image=path, inplace=False),
    }
    if peer is not None:
        run, cores = peer[0], os.cpu_count() or 1
        runs["LazySlide, default"] = lambda: run(module, encoder.spec)
        # threads of torch get into each other's way on images this small
        runs["LazySlide, 1 torch thread"] = lambda: with_threads(1, lambda: run(module, encoder.spec))
        for workers in sorted({1, cores, 2 * cores}):
            runs[f"LazySlide, {workers} workers"] = lambda n=workers: run(module, encoder.spec, num_workers=n)
    next(iter(runs.values()))()  # what is imported or compiled at the first use
    seconds, found = in_turn(runs, repeats)
    print(f"\npipeline: {len(corners)} tiles of {TILE_PX} px, slide of {size} x {size} px, mean of pixels")
    report(seconds, len(corners), "histocell")
    for name, features in found.items():
        if name == "LazySlide, default":
            print(f"  lowest cosine to its features {cosine(found['histocell'], features).min():.6f}")


def report(seconds: Mapping[str, NDArray[np.float64]], n: int, ours: str) -> None:
    for name, times in seconds.items():
        ratio = "" if name == ours else f"   {ours} is {np.median(times / seconds[ours]):5.2f} x as fast"
        print(f"  {name:32s} {n / np.median(times):9.1f} tiles/s{ratio}")


def vit(folder: Path, tiles: int, repeats: int) -> None:
    import timm

    size = TILE_PX * round(tiles**0.5)
    path = write_slide(folder / "vit.tif", size)
    peer = lazyslide(path)
    corners = grid(size, TILE_PX) if peer is None else peer[1]
    adata, n = table(path, corners), len(corners)
    torch.manual_seed(0)
    module = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    encoders = {
        "auto": hc.encoders.load("timm/vit_small_patch16_224", weights="random"),
        "fp32": hc.encoders.load(module, precision="fp32"),
        "bf16": hc.encoders.load(module, precision="bf16"),
    }
    print(f"\nvit: ViT-S/16, {n} tiles; precision chosen by itself: {encoders.pop('auto').precision}")
    runs: dict[str, Callable[[], Any]] = {}
    for name, encoder in encoders.items():
        runs[f"forward only, {name}"] = forward_only(encoder, n)
        runs[f"histocell, {name}"] = lambda one=encoder: hc.pp.embed_image(adata, one, image=path, inplace=False)
    if peer is not None:
        runs["LazySlide, default"] = lambda: peer[0](module, encoders["fp32"].spec)
        runs["LazySlide, all cores as workers"] = lambda: peer[0](
            module, encoders["fp32"].spec, num_workers=os.cpu_count() or 1
        )
    seconds, found = in_turn(runs, repeats)
    report(seconds, n, "histocell, bf16")
    for name in encoders:
        share = share_of_forward(seconds[f"forward only, {name}"], seconds[f"histocell, {name}"])
        print(f"  {name}: end to end at {share:.1%} of the forward rate")
    agreement = cosine(found["histocell, bf16"], found["histocell, fp32"])
    print(f"  cosine of bf16 to fp32: lowest {agreement.min():.6f}, median {np.median(agreement):.6f}")
    if peer is not None:
        same = cosine(found["LazySlide, default"], found["histocell, fp32"])
        print(f"  cosine of fp32 to LazySlide: lowest {same.min():.6f}")


def vit_flops(network: Any, input_px: int) -> float:
    """Floating-point operations of one image through a vision transformer, by hand: matrix products alone."""
    width, depth = network.embed_dim, len(network.blocks)
    patches = (input_px // network.patch_embed.patch_size[0]) ** 2
    tokens = patches + network.num_prefix_tokens
    in_blocks = sum(layer.weight.numel() for layer in network.blocks.modules() if isinstance(layer, nn.Linear))
    attention = 2 * 2 * tokens**2 * width * depth  # scores, and their product with the values
    return 2 * tokens * in_blocks + attention + 2 * patches * network.patch_embed.proj.weight.numel()


def counted_flops(backbone: nn.Module, images: torch.Tensor) -> float:
    """The same by torch's counter."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone(images)
    return counter.get_total_flops() / len(images)


def cost() -> None:
    """Arithmetic of one image, counted on networks without weights."""
    from histocell.encoders.networks.build import build

    found = {}
    for name in hc.encoders.list_encoders().index:
        spec = hc.encoders.get_spec(name)
        if spec.library != "builtin":
            with torch.device("meta"):
                found[name] = counted_flops(
                    build(spec).eval().requires_grad_(False), torch.empty(1, 3, spec.input_px, spec.input_px)
                )
    print("\ncost: GFLOP an image, and relative to kaiko-s16")
    for name, count in sorted(found.items(), key=lambda item: item[1]):
        print(f"  {name:16s} {count / 1e9:7.1f} {count / found['kaiko-s16']:6.1f}")


def matmul_tflops(device: torch.device, edge: int) -> float:
    """What one large product of bf16 matrices reaches."""
    a, b = (torch.randn(edge, edge, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = np.inf
    for _ in range(20):
        start = time.perf_counter()
        (a @ b)[:1, :1].cpu()  # waits for the product
        best = min(best, time.perf_counter() - start)
    return 2 * edge**3 / best / 1e12


def gpu(folder: Path, name: str, device: str, size: int, repeats: int) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        print("\ngpu: no GPU here")
        return
    path = write_slide(folder / "gpu.tif", size)
    corners = grid(size, TILE_PX)
    adata, n = table(path, corners), len(corners)
    is_gpu = device != "cpu"
    peak = matmul_tflops(torch.device(device), 8192 if is_gpu else 1024)
    sold = next((value for key, value in PEAK_TFLOPS.items() if is_gpu and key in torch.cuda.get_device_name()), None)
    print(f"\ngpu: {name} with random weights, bf16, {n} tiles, {device}; a large product reaches {peak:.3g} TFLOP/s")
    for compiled in (False, True):
        start = time.perf_counter()
        encoder = hc.encoders.load(name, weights="random", precision="bf16", device=device, compile=compiled)
        hc.pp.embed_image(adata[: min(n, 600)].copy(), encoder, image=path, inplace=False)
        warm = time.perf_counter() - start
        runs = {
            "forward": forward_only(encoder, n),
            "end to end": lambda one=encoder: hc.pp.embed_image(adata, one, image=path, inplace=False),
        }
        seconds, _ = in_turn(runs, repeats)
        replica = encoder._executor.replicas[0]
        by_hand = vit_flops(replica.backbone.trunk, encoder.spec.input_px)
        rate = {key: n / float(np.median(times)) for key, times in seconds.items()}
        print(f"  {'compiled' if compiled else 'eager'}: batch {encoder.batch_size}, ready after {warm:.0f} s")
        for key, images in rate.items():
            tflops = images * by_hand / 1e12
            of_sold = "" if sold is None else f", {tflops / sold:.1%} of {sold} TFLOP/s as sold"
            print(
                f"    {key:12s} {images:9.1f} img/s, {tflops:6.1f} TFLOP/s: {tflops / peak:.1%} of the product{of_sold}"
            )
        share = share_of_forward(seconds["forward"], seconds["end to end"])
        print(f"    end to end at {share:.1%} of the forward rate")
        if not compiled:
            images = torch.zeros((1, 3, *(encoder.spec.input_px,) * 2), device=replica.device, dtype=torch.bfloat16)
            counted = counted_flops(replica.backbone, images)
            print(f"    GFLOP an image: {by_hand / 1e9:.1f} by hand, {counted / 1e9:.1f} by torch's counter")
        del encoder, replica, runs
        if is_gpu:
            torch.cuda.empty_cache()


def cells(folder: Path, area_mm2: float, density: float) -> None:
    import timm

    size = round(1000 * area_mm2**0.5 / MPP)
    path = write_slide(folder / "cells.tif", size + 2 * TILE_PX)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, size, (round(density * area_mm2), 2)) + TILE_PX / 2
    adata = table(path, corners)
    torch.manual_seed(0)
    module = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    images, seconds, found = {}, {}, {}
    counter = [0]
    module.patch_embed.register_forward_hook(lambda _, inputs, __: counter.__setitem__(0, counter[0] + len(inputs[0])))
    for strategy in ("centered", "shared"):
        encoder = hc.encoders.load(module, pool=NucleusPooling(strategy=strategy), precision="bf16")
        hc.pp.embed_image(adata[:64].copy(), encoder, image=path, inplace=False)  # what happens once
        counter[0], start = 0, time.perf_counter()
        found[strategy] = hc.pp.embed_image(adata, encoder, image=path, inplace=False)
        seconds[strategy], images[strategy] = time.perf_counter() - start, counter[0]
    a, b = found["centered"], found["shared"]
    print(f"\ncells: {adata.n_obs:,} nuclei on {area_mm2:g} mm2, ViT-S/16, random weights, bf16, 4 nearest tokens")
    for strategy in found:
        print(f"  {strategy:9s} {images[strategy]:6,} images through the network, {seconds[strategy]:7.1f} s")
    print(
        f"  {images['centered'] / images['shared']:.1f} x fewer images, "
        f"{seconds['centered'] / seconds['shared']:.1f} x as fast"
    )
    for name, (one, other) in {
        "as they are": (a, b),
        "mean taken off": (a - a.mean(axis=0), b - b.mean(axis=0)),
    }.items():
        similar = cosine(one, other)
        print(f"  cosine, {name}: median {np.median(similar):.4f}, 5th percentile {np.quantile(similar, 0.05):.4f}")
    r = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)]
    print(
        f"  correlation of a feature over the cells: median {np.median(r):.4f}, 5th percentile {np.quantile(r, 0.05):.4f}"
    )


def parity() -> None:
    folder = Path(os.environ.get("HISTOCELL_DATA_DIR", "")).resolve().parent / "parity"
    if not (folder / "conch_tiny").exists():
        print("\nparity: no fixtures beside HISTOCELL_DATA_DIR")
        return
    rows = {}
    expected = np.load(folder / "conch_tiny" / "expected.npz")
    images = np.load(folder / "conch_tiny" / "images.npy")
    for pool, key in (("attention", "embed_noproj"), ("projected", "embed_proj"), ("cls", "cls_token")):
        encoder = hc.encoders.load("conch", weights=str(folder / "conch_tiny"), pool=pool, precision="fp32")
        rows[f"conch_tiny, {pool}"] = hc.encoders.encode(encoder, images), expected[key]
    tokens = encoder._executor.replicas[0].backbone.tokens(torch.from_numpy(expected["preprocessed"])).detach().numpy()
    rows["conch_tiny, tokens"] = tokens, expected["patch_tokens"]

    expected = np.load(folder / "vit_tokens" / "expected.npz")
    images = np.load(folder / "vit_tokens" / "images.npz")["images"]
    facts = json.loads((folder / "vit_tokens" / "kwargs.json").read_text())["kwargs"]
    uni = hc.encoders.get_spec("uni2-h")  # the fixture is of its family
    tiny = {
        "name": "vit-tokens",
        "dim": facts["embed_dim"],
        "params": None,
        "arch_kwargs": {**uni.arch_kwargs, **facts},
    }
    hc.encoders.register(replace(uni, **tiny))
    for pool in ("cls", "cls_mean"):
        encoder = hc.encoders.load(
            "vit-tokens", weights=folder / "vit_tokens" / "model.safetensors", pool=pool, precision="fp32"
        )
        rows[f"vit_tokens, {pool}"] = hc.encoders.encode(encoder, images), expected[pool]
    replica = encoder._executor.replicas[0]
    with torch.inference_mode():
        tokens = replica.backbone.tokens(replica.prepare(torch.from_numpy(images)))
    rows["vit_tokens, tokens"] = tokens.numpy(), expected["token_grid"].reshape(tokens.shape)
    for key, pooling in {
        "k1_pool": NucleusPooling(k=1),
        "k4_pool": NucleusPooling(k=4),
        "k12_pool": NucleusPooling(k=12),
        "gauss_pool": NucleusPooling(kernel="gaussian", sigma=1.0),
    }.items():
        index, weight = token_weights(expected["nucleus_yx"], grid=uni.grid, patch_px=uni.patch_px, pooling=pooling)
        pooled = pool_tokens(tokens, expected["nucleus_image"], index, weight)
        rows[f"vit_tokens, {key}"] = pooled.numpy(), expected[key]
    print("\nparity: largest absolute difference to the original implementations, fp32")
    for name, (ours, theirs) in rows.items():
        print(f"  {name:26s} {np.abs(ours - theirs).max():.1e}")


PARTS = ("pipeline", "vit", "gpu", "memory", "kills", "cells", "parity", "cost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is taken")
    parser.add_argument("--size", type=int, nargs="+", help="edge of the slide in px; memory: several")
    parser.add_argument("--tiles", type=int, help="tiles of vit (400) and kills (3,000)")
    parser.add_argument("--device", default="cuda", help="of gpu")
    parser.add_argument("--encoder", default="uni2-h", help="of gpu")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--area", type=float, default=0.25, help="mm2 of cells")
    parser.add_argument("--density", type=float, default=5000, help="cells per mm2")
    given = parser.parse_args()
    hc.settings.progress = False
    os.environ["HISTOCELL_PROGRESS"] = "0"  # of the processes that are started
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # killed ones clean nothing up
    print(machine())
    with tempfile.TemporaryDirectory(prefix="histocell-bench-") as name:
        folder = Path(name)
        parts: dict[str, Callable[[], None]] = {
            "pipeline": lambda: pipeline(folder, (given.size or [12_000])[0], given.repeats),
            "vit": lambda: vit(folder, given.tiles or 400, given.repeats),
            "gpu": lambda: gpu(folder, given.encoder, given.device, (given.size or [24_000])[0], given.repeats),
            "memory": lambda: memory(folder, given.size or [20_000, 100_000], TILE_PX),
            "kills": lambda: kills(folder, given.kills, given.tiles or 3000),
            "cells": lambda: cells(folder, given.area, given.density),
            "parity": parity,
            "cost": cost,
        }
        for part in given.part:
            parts[part]()


if __name__ == "__main__":
    main()
