"""Parts of bench_embedding.py that run in processes of their own: peak memory, and runs that are killed."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from embedding_slides import TILE_PX, MeanOfPixels, grid, table, write_slide

import histocell as hc

if TYPE_CHECKING:
    from numpy.typing import NDArray


def resident_mib(field: str) -> float:
    """``VmRSS`` now or ``VmHWM`` at its highest, of this process."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def measure_memory(path: Path, size: int, store: Path, tile_px: int) -> dict[str, float]:
    """Embed a slide in this process, which is a new one."""
    adata = table(path, grid(size, tile_px), tile_px)
    encoder = hc.encoders.load(MeanOfPixels(width=1536))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest is now
    before, start = resident_mib("VmRSS"), time.perf_counter()
    hc.pp.embed_image(adata, encoder, image=path, store=store, lazy=True, key_added="X")
    seconds = time.perf_counter() - start
    peak = resident_mib("VmHWM")
    few = np.linspace(0, adata.n_obs - 1, 40).astype(int)
    again = hc.pp.embed_image(adata[few].copy(), encoder, image=path, inplace=False)
    right = np.allclose(np.asarray(adata.obsm["X"][few]), again, atol=1e-5)
    return {"tiles": adata.n_obs, "seconds": seconds, "before": before, "above": peak - before, "right": right}


def memory(folder: Path, sizes: list[int], tile_px: int) -> None:
    context, above = multiprocessing.get_context("spawn"), {}
    print(f"\nmemory: tiles of {tile_px} px, mean of pixels mixed into 1,536 features, store= and lazy=True")
    for size in sizes:
        path, store = write_slide(folder / f"memory-{size}.tif", size), folder / f"memory-{size}"
        rows = []
        for _ in range(1 if size > 50_000 else 3):  # the longer a run, the more its buffers meet by chance
            with context.Pool(1) as pool:
                rows.append(pool.apply(measure_memory, (path, size, store, tile_px)))
            shutil.rmtree(store)
        frame = pd.DataFrame(rows)
        above[size], row = frame["above"].max(), frame.median()
        print(
            f"  {size:7,} px: {row['tiles']:7,.0f} tiles in {row['seconds']:6.1f} s = {row['tiles'] / row['seconds']:6.0f} /s; "
            f"model and libraries {row['before']:5.0f} MiB, above them at most {above[size]:5.0f} MiB of {len(rows)} runs; "
            f"features {row['tiles'] * 1536 * 4 / 2**20:5.0f} MiB, {'right' if frame['right'].all() else 'WRONG'}"
        )
    if len(sizes) > 1:
        print(f"  last / first: {above[sizes[-1]] / above[sizes[0]]:.3f}")


def embed_into(path: Path, corners: NDArray[np.int64], store: Path, log: Path, ready: Any) -> None:
    """One run of `kills`, in a process of its own."""
    torch.set_num_threads(1)
    adata, encoder = table(path, corners), hc.encoders.load(MeanOfPixels(width=1536, log=log))
    ready.send(True)
    hc.pp.embed_image(adata, encoder, image=path, store=store, lazy=True)


def kills(folder: Path, count: int, tiles: int) -> None:
    path = write_slide(folder / "kills.tif", 14_000)
    corners = grid(14_000, TILE_PX, tiles)
    context = multiprocessing.get_context("forkserver")  # what is imported once is there in every run
    context.set_forkserver_preload(
        ["__main__", "zarr", "tifffile", "imagecodecs", "dask.array", "timm", "histocell.encoders.inference.slides"]
    )
    rng = np.random.default_rng(0)

    def run(store: Path, log: Path, after: float | None) -> tuple[bool, float]:
        """Whether the run ended by itself, and its seconds."""
        waiting, ready = context.Pipe(duplex=False)
        process = context.Process(target=embed_into, args=(path, corners, store, log, ready))
        process.start()
        ready.close()
        waiting.recv()
        start = time.perf_counter()
        process.join(after)
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        if process.exitcode not in {0, -signal.SIGKILL}:
            msg = f"a run ended with {process.exitcode}"
            raise RuntimeError(msg)
        return process.exitcode == 0, time.perf_counter() - start

    whole = folder / "whole"
    run(folder / "first", folder / "log-first", None)  # warms the files
    _, seconds = run(whole, folder / "log-whole", None)
    order = fingerprints(folder / "log-whole")
    chunk_of = {mark: place // chunk_rows(whole) for place, mark in enumerate(order)}
    rounds = killed = equal = 0
    repeated: list[int] = []  # rows that a run computed though an earlier one had
    chunks_twice: list[int] = []  # whole chunks of them
    while killed < count:
        store, seen = folder / f"killed-{rounds}", set()
        rounds += 1
        ended = False
        while not ended:
            log = folder / "log"
            log.unlink(missing_ok=True)
            log.touch()
            ended, _ = run(store, log, rng.uniform(0, seconds / 3) if killed < count else None)
            killed += not ended
            marks = fingerprints(log)
            again = pd.Series([chunk_of[mark] for mark in marks if mark in seen], dtype=int).value_counts()
            repeated.append(int(again.sum()))
            chunks_twice.append(int((again >= chunk_rows(whole)).sum()))
            seen |= set(marks)
        equal += same_files(whole, store)
    print(f"\nkills: {tiles:,} tiles, chunks of {chunk_rows(whole)}, a run of {seconds:.1f} s, {killed} times SIGKILL")
    print(f"  {rounds} stores finished after kills, {equal} of them equal to the uninterrupted one, byte for byte")
    print(
        f"  computed more than once: {sum(chunks_twice)} whole chunks, at most {max(chunks_twice)} after a kill; "
        f"{sum(repeated):,} rows, at most {max(repeated)} after a kill"
    )


def fingerprints(log: Path) -> list[bytes]:
    """What tells images apart, in the order in which they were computed."""
    data = log.read_bytes()
    return [data[start : start + 12] for start in range(0, len(data) - 11, 12)]


def stores(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("zarr.json"))


def chunk_rows(folder: Path) -> int:
    facts = json.loads((stores(folder)[0] / "zarr.json").read_text())
    return int(facts["chunk_grid"]["configuration"]["chunk_shape"][0])


def same_files(a: Path, b: Path) -> bool:
    """Whether both folders hold the same files."""
    files = [
        {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()} for top in (a, b)
    ]
    return files[0] == files[1]
