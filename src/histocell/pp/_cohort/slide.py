"""One slide of a cohort, from its file to its result on disk."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from histocell._core import keys
from histocell._core.locks import folder_lock
from histocell._core.settings import logger, settings
from histocell.images.identity import file_checksum, file_state
from histocell.images.slide_image import open_image
from histocell.pp._cohort.files import (
    PARTIAL,
    THUMBNAIL,
    Kind,
    check_store,
    remove_if_empty,
    remove_store,
    replace_result,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from spatialdata import SpatialData


type Report = dict[str, object]  # of one slide: path, output, status, number, seconds, error

THUMBNAIL_PX = 1024
_ONE_SLIDE = threading.Lock()  # a worker of several threads takes one slide at a time: they share memory and device


class Cohort(Protocol):
    """What all slides of a cohort have in common, and what is done to each.

    Attributes
    ----------
    kind
        What is made.
    settings
        All that the results depend on, as JSON can hold it.
    """

    @property
    def kind(self) -> Kind: ...

    @property
    def settings(self) -> dict[str, object]: ...

    def prepare(self, *, on_worker: bool = False) -> None:
        """Load what all slides share; called before each. Its errors are not those of a slide."""

    def release(self) -> None:
        """Free what was loaded."""

    def process(self, slide: Path, store: Path) -> SpatialData:
        """The slide with its results; `store` is a folder for what is not done."""
        ...


@dataclass(frozen=True, eq=False)
class SlideTask:
    """A slide that is to be processed, as it travels to a worker.

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
        """Folder of what there is until the slide is done."""
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

    def report(self, status: str, *, n: int = 0, seconds: float = 0.0, error: object = "") -> Report:
        """The row of the slide in the report."""
        text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
        facts = {"path": str(self.slide), "output": str(self.output), "status": status}
        return {**facts, self.cohort.kind.count: n, "seconds": round(seconds, 2), "error": text}


def run_on_worker(task: SlideTask) -> Report:
    """Process a slide on a worker of dask."""
    import dask

    task.cohort.prepare(on_worker=True)
    # Arrays are computed here: were they sent to the scheduler, this task would wait for a thread that it holds itself.
    # In a thread of a worker `dask.array.store` makes a client, which overrides the setting; so it is another thread.
    with _ONE_SLIDE, dask.config.set(scheduler="threads"), _no_progress(), ThreadPoolExecutor(1) as thread:
        return thread.submit(run_slide, task).result()


@contextmanager
def _no_progress() -> Iterator[None]:
    """Switch bars off: those of several workers would overwrite each other."""
    before, settings.progress = settings.progress, False
    try:
        yield
    finally:
        settings.progress = before


def run_slide(task: SlideTask) -> Report:
    """Process a slide; an error ends up in its report."""
    start = time.perf_counter()
    try:
        n = _write_result(task)
    except Exception as error:  # noqa: BLE001 one slide must not end the others
        logger.info("%s failed", task.slide, exc_info=True)
        return task.report("failed", seconds=time.perf_counter() - start, error=error)
    return task.report("done", n=n, seconds=time.perf_counter() - start)


def _write_result(task: SlideTask) -> int:
    """Process a slide in its store, write all into a folder within it and rename that to the result; number of rows."""
    kind = task.cohort.kind
    check_store(task.store, kind)
    try:
        with folder_lock(task.store):
            sdata = _processed(task)
            partial = task.store / PARTIAL
            shutil.rmtree(partial, ignore_errors=True)
            sdata.write(partial)
            replace_result(partial, task.output, kind)
    finally:
        remove_if_empty(task.store)  # of a slide that failed before its first feature
    with suppress(FileExistsError):  # something was put there meanwhile
        remove_store(task.store, kind)
    return sdata.tables[kind.table].n_obs


def _processed(task: SlideTask) -> SpatialData:
    """The slide with its results, and a thumbnail in place of the image."""
    kind = task.cohort.kind
    state = file_state(task.slide)  # before it is read: what is changed meanwhile is not taken for known
    known = task.settings()
    sdata = task.cohort.process(task.slide, task.store)
    _replace_image_by_thumbnail(sdata)
    n = sdata.tables[kind.table].n_obs
    sdata.attrs[keys.PROVENANCE] |= {"slide": str(task.slide), kind.count: n, "slide_state": state, "settings": known}
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
