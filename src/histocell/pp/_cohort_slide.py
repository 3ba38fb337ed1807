"""One slide of a cohort: tissue, tiles and embedding, from its file to its result on disk."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from histocell import io
from histocell._core import keys
from histocell._core.locks import folder_lock
from histocell._core.settings import logger, settings
from histocell.encoders.loading import load
from histocell.encoders.registry import register
from histocell.images.identity import file_checksum, file_state
from histocell.images.slide_image import open_image
from histocell.pp._cohort_files import PARTIAL, THUMBNAIL, check_store, remove_if_empty, remove_store, replace_result
from histocell.pp._embed_image import embed_image
from histocell.pp._tiles import tiles
from histocell.pp._tissue import tissue_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from spatialdata import SpatialData

    from histocell.encoders.spec import Encoder, EncoderSpec
    from histocell.images.stain.normalize import StainNormalizer

type Report = dict[str, object]  # of one slide: path, output, status, n_tiles, seconds, error

THUMBNAIL_PX = 1024
_ONE_SLIDE = threading.Lock()  # a worker of several threads takes one slide at a time: they share memory and device


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """What all slides of a cohort have in common.

    Attributes
    ----------
    spec, loading
        The encoder, and the arguments of :func:`histocell.encoders.load`.
    tiling
        Options of :func:`histocell.pp.tiles`.
    stain
        Stain normalisation.
    mpp
        Micrometres per full-resolution px, where the files do not say it.
    settings
        All that the results depend on, as JSON can hold it.
    """

    spec: EncoderSpec
    loading: dict[str, Any]
    tiling: dict[str, Any]
    stain: StainNormalizer | None
    mpp: float | None
    settings: dict[str, object]


@dataclass(frozen=True, eq=False)
class SlideTask:
    """A slide that is to be embedded, as it travels to a worker.

    Attributes
    ----------
    slide, output
        Absolute paths of the slide and of its result.
    cohort
        What it shares with other slides.
    """

    slide: Path
    output: Path
    cohort: Cohort

    @property
    def store(self) -> Path:
        """Folder of the features until the slide is done."""
        return self.output.with_suffix(".store")

    def settings(self, known: Mapping[str, Any] | None = None) -> dict[str, object]:
        """The settings, as they are written into the result and compared with those of a later run.

        Parameters
        ----------
        known
            What an earlier result says. Its checksum of the slide is taken where nobody has touched the file since.
        """
        there = self.slide.is_file()
        if known is not None and there and known.get("slide_state") == file_state(self.slide):
            content = known["settings"].get("content")
        else:
            content = file_checksum(self.slide) if there else None
        size = self.slide.stat().st_size if there else None
        return {"slide": self.slide.name, "bytes": size, "content": content, **self.cohort.settings}

    def report(self, status: str, *, n_tiles: int = 0, seconds: float = 0.0, error: object = "") -> Report:
        """The row of the slide in the report."""
        text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
        facts = {"path": str(self.slide), "output": str(self.output), "status": status, "n_tiles": n_tiles}
        return {**facts, "seconds": round(seconds, 2), "error": text}


def embed_on_worker(task: SlideTask) -> Report:
    """Embed a slide on a worker of dask."""
    import dask

    if task.cohort.loading["encoder"] == task.cohort.spec.name:
        register(task.cohort.spec, overwrite=True)  # it may be known to the user's process alone
    # Arrays are computed here: were they sent to the scheduler, this task would wait for a thread that it holds itself.
    # In a thread of a worker `dask.array.store` makes a client, which overrides the setting; so it is another thread.
    with _ONE_SLIDE, dask.config.set(scheduler="threads"), _no_progress(), ThreadPoolExecutor(1) as thread:
        return thread.submit(embed, task).result()


@contextmanager
def _no_progress() -> Iterator[None]:
    """Switch bars off: those of several workers would overwrite each other."""
    before, settings.progress = settings.progress, False
    try:
        yield
    finally:
        settings.progress = before


@lru_cache(maxsize=1)
def cached_encoder(**loading: Any) -> Encoder:
    """The encoder, loaded once for all slides of a process."""
    return load(**loading)


def embed(task: SlideTask) -> Report:
    """Embed a slide; an error ends up in its report."""
    start = time.perf_counter()
    try:
        n_tiles = _write_result(task)
    except Exception as error:  # noqa: BLE001 one slide must not end the others
        logger.info("%s failed", task.slide, exc_info=True)
        return task.report("failed", seconds=time.perf_counter() - start, error=error)
    return task.report("done", n_tiles=n_tiles, seconds=time.perf_counter() - start)


def _write_result(task: SlideTask) -> int:
    """Embed a slide into its store, write all into a folder within it and rename that to the result; number of tiles."""
    check_store(task.store)
    try:
        with folder_lock(task.store):
            sdata = _embedded(task)
            partial = task.store / PARTIAL
            shutil.rmtree(partial, ignore_errors=True)
            sdata.write(partial)
            replace_result(partial, task.output)
    finally:
        remove_if_empty(task.store)  # of a slide that failed before its first feature
    with suppress(FileExistsError):  # something was put there meanwhile
        remove_store(task.store)
    return sdata.tables[keys.TILE_TABLE].n_obs


def _embedded(task: SlideTask) -> SpatialData:
    """The slide with its tissue, its tiles and their embedding, and a thumbnail in place of the image."""
    cohort = task.cohort
    state = file_state(task.slide)  # before it is read: what is changed meanwhile is not taken for known
    known = task.settings()
    sdata = io.slide(task.slide, mpp=cohort.mpp)
    tissue_mask(sdata)
    tiles(sdata, **cohort.tiling)
    table = sdata.tables[keys.TILE_TABLE]
    encoder = cached_encoder(**cohort.loading)
    embed_image(sdata, encoder, stain=cohort.stain, store=task.store, lazy=True, table_key=keys.TILE_TABLE)
    _replace_image_by_thumbnail(sdata)
    facts = {"slide": str(task.slide), "n_tiles": table.n_obs, "slide_state": state, "settings": known}
    sdata.attrs[keys.PROVENANCE] |= facts
    return sdata


def _replace_image_by_thumbnail(sdata: SpatialData) -> None:
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale, Sequence, get_transformation

    name, element = next(iter(sdata.images.items()))
    image = open_image(element)
    thumbnail = image.thumbnail(THUMBNAIL_PX)
    to_pixels = Scale([image.shape[1] / thumbnail.shape[1], image.shape[0] / thumbnail.shape[0]], axes=("x", "y"))
    systems = get_transformation(element, get_all=True)
    del sdata.images[name]
    sdata.images[THUMBNAIL] = Image2DModel.parse(
        thumbnail.transpose(2, 0, 1),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={system: Sequence([to_pixels, to_system]) for system, to_system in systems.items()},
    )
