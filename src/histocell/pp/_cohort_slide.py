"""One slide of a cohort, from the file to its result on disk."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from histocell._core import keys
from histocell._core.settings import logger, settings
from histocell.encoders.inference.store import claim, unclaim
from histocell.encoders.loading import load
from histocell.encoders.registry import register
from histocell.images.slide_image import open_image
from histocell.io._slide import slide as open_slide
from histocell.pp._embed_image import embed_image
from histocell.pp._tiles import tiles
from histocell.pp._tissue import tissue_mask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spatialdata import SpatialData

    from histocell.encoders.spec import Encoder, EncoderSpec
    from histocell.images.stain.normalize import StainNormalizer

THUMBNAIL, THUMBNAIL_PX = "thumbnail", 1024
_ONE_SLIDE = threading.Lock()  # a worker of several threads takes one slide at a time: they share memory and device


@dataclass(frozen=True)
class Job:
    """A slide and all that is to be done with it, as it travels to a worker.

    Attributes
    ----------
    slide, output
        Absolute paths of the slide and of its result.
    encoder, spec, loading
        Name of the encoder, what is known of it, and how to load it.
    tiling, stain, mpp
        Arguments of :func:`tiles`, stain normalisation, resolution.
    facts
        The settings, as they are written into the result and compared with those of a later run.
    overwrite
        Whether nothing of an earlier run is to be used.
    """

    slide: Path
    output: Path
    encoder: str
    spec: EncoderSpec
    loading: dict[str, Any]
    tiling: dict[str, Any]
    stain: StainNormalizer | None
    mpp: float | None
    facts: dict[str, Any]
    overwrite: bool

    @property
    def store(self) -> Path:
        """Where the features lie until the slide is done."""
        return self.output.with_suffix(".store")

    def row(self, status: str, *, n_tiles: int = 0, seconds: float = 0.0, error: str = "") -> dict[str, Any]:
        """A row of the report."""
        return {
            "path": str(self.slide),
            "output": str(self.output),
            "status": status,
            "n_tiles": n_tiles,
            "seconds": round(seconds, 2),
            "error": error,
        }

    def failed(self, error: Exception, *, seconds: float = 0.0) -> dict[str, Any]:
        """The row of a slide that failed."""
        return self.row("failed", seconds=seconds, error=f"{type(error).__name__}: {error}")


def work(job: Job) -> dict[str, Any]:
    """A job on a worker."""
    import dask

    if job.encoder == job.spec.name:
        register(job.spec, overwrite=True)  # it may be known to the user's process alone
    # Arrays are computed here: were they sent to the scheduler, this task would wait for a thread that it holds itself.
    # In a thread of a worker `dask.array.store` makes a client, which overrides the setting; so it is another thread.
    with _ONE_SLIDE, dask.config.set(scheduler="threads"), _quiet(), ThreadPoolExecutor(1) as thread:
        return thread.submit(embed, job).result()


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars: those of several workers would write over each other."""
    before, settings.progress = settings.progress, False
    try:
        yield
    finally:
        settings.progress = before


@lru_cache(maxsize=1)
def loaded(encoder: str, **options: Any) -> Encoder:
    """The encoder, loaded once for all slides of a process."""
    return load(encoder, **options)


def embed(job: Job) -> dict[str, Any]:
    """One slide; whatever goes wrong with it ends up in its row."""
    start = time.perf_counter()
    try:
        n_tiles = _write_slide(job)
    except Exception as error:  # noqa: BLE001 one slide must not end the others
        logger.info("%s failed", job.slide, exc_info=True)
        return job.failed(error, seconds=time.perf_counter() - start)
    return job.row("done", n_tiles=n_tiles, seconds=time.perf_counter() - start)


def _write_slide(job: Job) -> int:
    """Embed a slide into its store, write all into a folder beside the result and rename it; the number of tiles."""
    if job.overwrite:
        shutil.rmtree(job.store, ignore_errors=True)
    lock = claim(job.store)
    try:
        sdata = open_slide(job.slide, mpp=job.mpp)
        tissue_mask(sdata)
        tiles(sdata, **job.tiling)
        encoder = loaded(job.encoder, **job.loading)
        embed_image(sdata, encoder, stain=job.stain, store=job.store, lazy=True, table_key=keys.TILE_TABLE)
        n_tiles = sdata.tables[keys.TILE_TABLE].n_obs
        _replace_image(sdata)
        sdata.attrs[keys.PROVENANCE] |= {"slide": str(job.slide), "n_tiles": n_tiles, "settings": job.facts}
        partial = job.store / "result.partial"
        if partial.exists():
            shutil.rmtree(partial)
        sdata.write(partial)
        if job.output.exists():
            shutil.rmtree(job.output)
        partial.rename(job.output)
    finally:
        unclaim(job.store, lock)
        with suppress(OSError):
            job.store.rmdir()  # of a slide that failed before its first feature
    shutil.rmtree(job.store)
    return n_tiles


def _replace_image(sdata: SpatialData) -> None:
    """A thumbnail, in its place, instead of the slide."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale, Sequence, get_transformation

    name, element = next(iter(sdata.images.items()))
    picture = open_image(element)
    small = picture.thumbnail(THUMBNAIL_PX)
    shrink = Scale([picture.shape[1] / small.shape[1], picture.shape[0] / small.shape[0]], axes=("x", "y"))
    systems = get_transformation(element, get_all=True)
    del sdata.images[name]
    sdata.images[THUMBNAIL] = Image2DModel.parse(
        small.transpose(2, 0, 1),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={system: Sequence([shrink, place]) for system, place in systems.items()},
    )
