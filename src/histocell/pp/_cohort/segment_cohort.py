"""Segmentation of many slides, each a task of its own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from histocell import io
from histocell._core import keys
from histocell._core.arguments import check_switch
from histocell._core.settings import settings as session
from histocell.pp._cohort.files import Kind
from histocell.pp._cohort.run import run_cohort
from histocell.pp._segment_nuclei.methods import resolve_method
from histocell.pp._segment_nuclei.segment_nuclei import segment_nuclei
from histocell.pp._segment_nuclei.store import read_manifest
from histocell.pp._tissue import tissue_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    import distributed
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from spatialdata import SpatialData


def _is_store(path: Path) -> bool:
    """Whether a folder is a store of nuclei, or the beginning of one, and holds nothing else."""
    with suppress(FileExistsError):
        return path.is_dir() and not path.is_symlink() and (read_manifest(path) is not None or not any(path.iterdir()))
    return False


KIND = Kind("hc.pp.segment_cohort", frozenset({keys.TISSUE, keys.NUCLEI}), keys.NUCLEUS_TABLE, "n_nuclei", _is_store)


@dataclass(frozen=True, kw_only=True)
class SegmentCohort:
    """Nuclei of many slides.

    Attributes
    ----------
    options
        Arguments of :func:`histocell.pp.segment_nuclei`.
    mpp
        Micrometres per full-resolution px, where the files do not say it.
    settings
        All that the results depend on, as JSON can hold it.
    """

    options: dict[str, Any]
    mpp: float | None
    settings: dict[str, object]

    @property
    def kind(self) -> Kind:
        """What is made."""
        return KIND

    def prepare(self, *, on_worker: bool = False) -> None:
        """Nothing: a method is loaded with its slide."""

    def release(self) -> None:
        """Nothing."""

    def process(self, slide: Path, store: Path) -> SpatialData:
        """The slide with its tissue and its nuclei."""
        sdata = io.slide(slide, mpp=self.mpp)
        tissue_mask(sdata)
        segment_nuclei(sdata, store=store / keys.NUCLEI, **self.options)
        return sdata


def segment_cohort(
    paths: Sequence[str | PathLike[str]],
    *,
    out: str | PathLike[str],
    method: str | Callable[[NDArray[np.uint8], float], object] = "unet",
    settings: Mapping[str, object] | None = None,
    weights: str | PathLike[str] | None = None,
    trust_code: bool = False,
    mpp: float | None = None,
    method_mpp: float | None = None,
    halo_um: float | None = None,
    block_px: int | None = None,
    measure: bool = True,
    device: str | None = None,
    client: distributed.Client | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Find the nuclei of many slides, into one SpatialData each.

    A slide is a task: :func:`histocell.io.slide`, :func:`histocell.pp.tissue_mask` and
    :func:`histocell.pp.segment_nuclei` with a store. An error on one slide is reported and does not stop the others.
    Started again, a run skips the slides that are done and resumes those that are not, as
    :func:`histocell.pp.embed_cohort` does.

    Parameters
    ----------
    paths
        The slides: what :func:`histocell.io.slide` opens.
    out
        Folder for the results, ``<name of the slide>.zarr``.
    method, settings, weights, trust_code, method_mpp, halo_um, block_px, measure, device
        As in :func:`histocell.pp.segment_nuclei`.
    mpp
        Micrometres per full-resolution px of all slides; by default what each file says.
    client
        A ``distributed.Client``; its workers share the slides, each taking one at a time, and must see `paths`, `out` and
        `weights`. By default the slides are segmented one after the other in this process.
    overwrite
        Whether slides that are done already are segmented again.

    Returns
    -------
    DataFrame in the order of `paths`: ``path``, ``output``, ``status`` (``"done"``, ``"skipped"`` or ``"failed"``),
    ``n_nuclei``, ``seconds`` and ``error``. On disk, for each slide:

    ``<out>/<slide>.zarr``
        SpatialData with the shapes ``tissue`` and ``nuclei``, the table ``nucleus_table`` and an image ``thumbnail``; the
        slide itself is not copied.
    ``<out>/<slide>.store``
        Blocks of a slide that is not done yet.

    Raises
    ------
    ValueError
        When `paths` is empty, two slides have one name, or `out` holds results of other settings.
    FileExistsError
        When `out` holds something else under the name of a result or its store. Nothing is touched then.
    KeyError
        For an unknown method.

    Examples
    --------
    >>> import histocell as hc
    >>> report = hc.pp.segment_cohort(["a.svs", "b.svs"], out="nuclei")  # doctest: +SKIP
    >>> report.query("status == 'failed'")[["path", "error"]]  # doctest: +SKIP
    """
    check_switch(measure, "measure")
    method_options = {
        "method": method,
        "settings": settings,
        "weights": weights,
        "trust_code": trust_code,
        "method_mpp": method_mpp,
        "halo_um": halo_um,
        "device": device or session.device,
    }
    resolved = resolve_method(**method_options)  # type: ignore[arg-type]  # an error of the method is not one of a slide
    facts: dict[str, object] = {
        **resolved.definition,
        "code": resolved.code(),
        "block_px": block_px,
        "measure": version("histocell") if measure else None,
        "mpp": mpp,
    }
    cohort = SegmentCohort(
        options={**method_options, "block_px": block_px, "measure": measure}, mpp=mpp, settings=facts
    )
    return run_cohort(paths, cohort, out=out, client=client, overwrite=overwrite)
