"""One pass over the blocks of a slide: read, segment and outline in threads, collect in order."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numba
import numpy as np
import shapely

from histocell._core.errors import warn
from histocell.pp._segment_nuclei.blocks import sample_images
from histocell.pp._segment_nuclei.found import find_nuclei
from histocell.pp._segment_nuclei.methods import check_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from histocell._core.settings import Progress
    from histocell.images.slide_image import SlideImage
    from histocell.pp._segment_nuclei.blocks import Block, Grid
    from histocell.pp._segment_nuclei.found import Found
    from histocell.pp._segment_nuclei.methods import Method
    from histocell.pp._segment_nuclei.store import NucleusStore


class SlideRun:
    """Segmentation of one slide.

    Parameters
    ----------
    image
        The slide.
    grid
        The px that the method sees.
    method
        The method.
    tissue
        In full-resolution px: nuclei centred in it are kept. Without it all are.
    """

    def __init__(self, image: SlideImage, grid: Grid, method: Method, tissue: shapely.Geometry | None) -> None:
        self._image, self._grid, self._method, self._tissue = image, grid, method, tissue
        self._context: object = None
        self._in_turn = nullcontext() if method.runs_in_threads else threading.Lock()

    def blocks(
        self, blocks: Sequence[Block], *, store: NucleusStore | None = None, progress: Progress | None = None
    ) -> list[Found]:
        """The nuclei of each block; those that the store has are not computed again."""
        known: dict[int, Found] = {}
        for index, block in enumerate(blocks):
            if store is not None and (there := store.read(block)) is not None:
                known[index] = there
        if progress is not None:
            progress.update(len(known))
        todo = [index for index in range(len(blocks)) if index not in known]
        if todo:
            self._context = self._method.segmenter.context(
                sample_images(self._image, self._grid, self._tissue), self._grid.mpp
            )
        for index, computed in self._compute(blocks, todo):
            known[index] = self._in_tissue(computed, blocks[index])
            if store is not None:
                store.write(blocks[index], known[index])
            if progress is not None:
                progress.update(1)
        found = [known[index] for index in range(len(blocks))]
        self._warn_of_cut(found)
        return found

    def _compute(self, blocks: Sequence[Block], todo: Sequence[int]) -> Iterator[tuple[int, Found]]:
        """Blocks in order, a few at a time: memory holds no more of them."""
        n_threads = numba.get_num_threads() if self._method.runs_in_threads else 2  # one reads while one segments
        running: deque[tuple[int, Future[Found]]] = deque()
        with ThreadPoolExecutor(n_threads) as pool:
            try:
                for index in todo:
                    running.append((index, pool.submit(self._block, blocks[index])))
                    if len(running) > n_threads:
                        first, future = running.popleft()
                        yield first, future.result()
                while running:
                    first, future = running.popleft()
                    yield first, future.result()
            finally:
                for _, future in running:
                    future.cancel()

    def _block(self, block: Block) -> Found:
        """Read a block, segment it, and outline what is centred in its core."""
        grid, shape = self._grid, self._grid.shape
        y0, x0, y1, x1 = block.window
        pixels = grid.read(self._image, block.window)
        try:
            with self._in_turn:
                labels = self._method.segmenter(
                    pixels, grid.mpp, **({} if self._context is None else {"context": self._context})
                )
        except Exception as error:
            corner = [round(edge * grid.scale) for edge in (x0, y0)]
            error.add_note(f"in the block of {x1 - x0} x {y1 - y0} px at x {corner[0]}, y {corner[1]} of the slide")
            raise
        labels = check_labels(labels, (y1 - y0, x1 - x0), self._method.name)
        if y0 < 0 or x0 < 0 or y1 > shape[0] or x1 > shape[1]:  # beyond the image there is nothing
            inside = np.zeros(labels.shape, bool)
            inside[max(-y0, 0) : shape[0] - y0, max(-x0, 0) : shape[1] - x0] = True
            labels = np.where(inside, labels, 0)
        return find_nuclei(labels, block, grid)

    def _in_tissue(self, found: Found, block: Block) -> Found:
        """The nuclei of a block that are centred in the tissue."""
        if self._tissue is None or not len(found) or (block.is_inside and not found.is_spare.any()):
            return found
        y, x = centers(found, self._grid).T
        return found.take(np.flatnonzero(shapely.contains_xy(self._tissue, x, y)))

    def _warn_of_cut(self, found: Sequence[Found]) -> None:
        n_cut = sum(int(part.n_cut[0]) for part in found)
        if n_cut:
            warn(
                f"{n_cut} objects reach further than the {self._method.margin_um:g} um that a block sees around itself, and are "
                f"cut there or missing, beside {sum(map(len, found))} nuclei; give a larger halo_um="
            )


def centers(found: Found, grid: Grid) -> NDArray[np.float64]:
    """Centres (y, x) of nuclei in full-resolution px."""
    return np.asarray((found.center + 0.5) * grid.scale, dtype=np.float64)
