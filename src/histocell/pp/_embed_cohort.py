"""Embedding of many slides, each a task of its own."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from histocell._core import keys
from histocell._core.arguments import check_positive, check_share
from histocell._core.errors import listing, warn
from histocell._core.outputs import make_folder
from histocell._core.settings import progress_bar, settings
from histocell.encoders.inference.slides import definition
from histocell.encoders.inference.store import differences
from histocell.encoders.networks.weights import local_weights
from histocell.encoders.registry import get_spec
from histocell.pp._cohort_files import check_replaceable, check_store, remove_store, result_facts
from histocell.pp._cohort_slide import Cohort, Report, SlideTask, cached_encoder, embed, embed_on_worker
from histocell.pp._embed_image import as_normalizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    import distributed
    import pandas as pd

    from histocell.encoders.inference.nucleus_tokens import NucleusPooling
    from histocell.encoders.spec import EncoderSpec
    from histocell.images.stain.normalize import Method, StainNormalizer


def embed_cohort(
    paths: Sequence[str | PathLike[str]],
    encoder: str = "morphology",
    *,
    out: str | PathLike[str],
    size_um: float = 112.0,
    overlap: float = 0.0,
    min_tissue: float = 0.3,
    mpp: float | None = None,
    weights: str | PathLike[str] | None = None,
    pool: str | NucleusPooling | None = None,
    stain: Method | StainNormalizer | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    device: str | Sequence[str] | None = None,
    client: distributed.Client | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Tile and embed many slides, into one SpatialData each.

    A slide is a task: :func:`histocell.io.slide`, :func:`histocell.pp.tissue_mask`, :func:`histocell.pp.tiles` and
    :func:`histocell.pp.embed_image` with a store. An error on one slide is reported and does not stop the others.
    Started again, a run skips the slides that are done and resumes those that are not. Whether a slide is the same is told
    by its content, which is read where its size, time or inode changed.

    Parameters
    ----------
    paths
        The slides: what :func:`histocell.io.slide` opens.
    encoder
        Name of an encoder (:func:`histocell.encoders.list_encoders`); each worker loads it once.
    out
        Folder for the results, ``<name of the slide>.zarr``.
    size_um, overlap, min_tissue
        Edge of a tile in um, the share that neighbours have in common, and the least share of tissue, as in
        :func:`histocell.pp.tiles`.
    mpp
        Micrometres per full-resolution px of all slides; by default what each file says.
    weights, pool, stain, precision, batch_size, device
        As in :func:`histocell.pp.embed_image`.
    client
        A ``distributed.Client``; its workers share the slides, each taking one at a time, and must see `paths`, `out` and
        `weights`. A slide whose worker dies goes to another one, three times at most. By default the slides are embedded one
        after the other in this process.
    overwrite
        Whether slides that are done already are embedded again.

    Returns
    -------
    DataFrame in the order of `paths`: ``path``, ``output``, ``status`` (``"done"``, ``"skipped"`` or ``"failed"``),
    ``n_tiles``, ``seconds`` and ``error``. On disk, for each slide:

    ``<out>/<slide>.zarr``
        SpatialData with the shapes ``tissue`` and ``tiles``, the table ``tile_table`` with ``obsm["X_<encoder>"]`` and
        the name of the slide in ``obs["section"]``, and an image ``thumbnail``; the slide itself is not copied.
        ``attrs["histocell"]`` holds the path of the slide and the settings.
        ``sdata.images["he"] = hc.io.slide(path)["he"]`` brings the slide back; after ``spatialdata.concatenate`` under the
        name ``a`` it is ``sdata.images["he-a"] = hc.io.slide(path, section="a")["he-a"]``.
    ``<out>/<slide>.store``
        Features of a slide that is not done yet.

    Raises
    ------
    ValueError
        When `paths` is empty, two slides have one name, or `out` holds results of other settings.
    FileExistsError
        When `out` holds something else under the name of a result or its store, or something was added to one that would
        be replaced. Nothing is touched then.
    KeyError
        For an unknown encoder.

    Examples
    --------
    >>> import histocell as hc
    >>> paths = ["a.svs", "b.svs"]
    >>> report = hc.pp.embed_cohort(paths, "uni", out="embedded")  # doctest: +SKIP
    >>> report.query("status == 'failed'")[["path", "error"]]  # doctest: +SKIP

    On a machine with several processors, or on a cluster:

    >>> from distributed import Client, LocalCluster
    >>> with LocalCluster(n_workers=4, threads_per_worker=1) as cluster, Client(cluster) as client:  # doctest: +SKIP
    ...     hc.pp.embed_cohort(paths, "uni", out="embedded", client=client)
    """
    import pandas as pd

    device = settings.device if device is None else device
    spec, normalizer = get_spec(encoder), as_normalizer(stain)
    tiling = _tiling(size_um, overlap, min_tissue)
    loading = {
        "encoder": encoder,
        "weights": None if weights is None else str(weights),
        "pool": pool,
        "precision": precision,
        "batch_size": batch_size,
        "device": device if device is None or isinstance(device, str) else tuple(device),
    }
    facts: dict[str, object] = {
        "encoder": encoder,
        "weights": _version(weights, spec),
        "definition": definition(spec),
        "pool": None if pool is None else str(pool),
        "stain": None if normalizer is None else asdict(normalizer),
        "precision": precision,
        **tiling,
        "mpp": mpp,
    }
    cohort = Cohort(spec=spec, loading=loading, tiling=tiling, stain=normalizer, mpp=mpp, settings=facts)
    tasks = _tasks([paths] if isinstance(paths, str | os.PathLike) else paths, Path(out), cohort)
    reports = {task: report for task in tasks if (report := _skipped(task, overwrite=overwrite))}
    for task in tasks:
        try:
            _clear(task, overwrite=overwrite)
        except RuntimeError as error:  # another run is writing; where the result is there, it deletes the store itself
            reports.setdefault(task, task.report("failed", error=error))
    todo = [task for task in tasks if task not in reports]
    with progress_bar(total=len(tasks), desc="slides", unit="slide") as bar:
        bar.update(len(reports))
        for task, report in _in_turn(todo) if client is None else _on_workers(todo, client):
            reports[task] = report
            bar.update()
    table = pd.DataFrame([reports[task] for task in tasks])
    failed = table[table["status"] == "failed"]
    if len(failed):
        errors = [f"{Path(path).name}: {error}" for path, error in zip(failed["path"], failed["error"], strict=True)]
        warn(f"{len(failed)} of {len(table)} slides failed, see the column error: {listing(errors, 3)}")
    return table


def _version(weights: str | PathLike[str] | None, spec: EncoderSpec) -> str:
    """Version of the weights, without loading them; with the sizes that a config beside them gives."""
    if weights is None or weights == "random":
        return weights or spec.revision
    local = local_weights(Path(weights), spec)
    return local.version + (f" {json.dumps(local.config, sort_keys=True)}" if local.config else "")


def _tasks(paths: Sequence[str | PathLike[str]], out: Path, cohort: Cohort) -> list[SlideTask]:
    """A task for each slide; results have the names of slides without ``.svs``, ``.tif``, ``.ome.tif`` and the like."""
    if not len(paths):
        msg = "no slides: paths is empty. Does the pattern that it comes from match the files?"
        raise ValueError(msg)
    slides = [Path(path).expanduser().absolute() for path in paths]
    names = [keys.slide_name(slide) for slide in slides]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        msg = f"several slides are called {listing(repeated)}, but results are named after them; use one out= for each group"
        raise ValueError(msg)
    out = make_folder(out.expanduser().absolute())
    return [SlideTask(slide, out / f"{name}.zarr", cohort) for slide, name in zip(slides, names, strict=True)]


def _skipped(task: SlideTask, *, overwrite: bool) -> Report | None:
    """The report of a slide that is done already, `None` where there is something to do."""
    facts = result_facts(task.output)
    check_store(task.store)
    if overwrite:
        check_replaceable(task.output)
        return None
    if facts is None:
        return None
    if different := differences(facts["settings"], task.settings(facts)):
        msg = (
            f"{task.output} was made with other settings: {'; '.join(different)}. "
            "Choose another out=, move it away to do this slide anew, or overwrite=True to do all anew"
        )
        raise ValueError(msg)
    return task.report("skipped", n_tiles=facts["n_tiles"])


def _clear(task: SlideTask, *, overwrite: bool) -> None:
    """Delete features that are not needed: of other settings, or of a run that was killed between its last two steps."""
    if overwrite or task.output.exists():
        remove_store(task.store)


def _in_turn(tasks: list[SlideTask]) -> Iterator[tuple[SlideTask, Report]]:
    """The slides one after the other, in this process."""
    try:
        for task in tasks:
            cached_encoder(**task.cohort.loading)  # an error of the encoder is not one of the slide
            yield task, embed(task)
    finally:
        cached_encoder.cache_clear()


def _tiling(size_um: float, overlap: float, min_tissue: float) -> dict[str, float]:
    """Arguments of :func:`histocell.pp.tiles`, checked before any slide is read."""
    return {
        "size_um": check_positive(size_um, "size_um"),
        "overlap": check_share(overlap, "overlap", ends="[)"),
        "min_tissue": check_share(min_tissue, "min_tissue"),
    }


def _on_workers(tasks: list[SlideTask], client: distributed.Client) -> Iterator[tuple[SlideTask, Report]]:
    """The slides as the workers complete them."""
    from distributed import as_completed

    futures = {client.submit(embed_on_worker, task, pure=False): task for task in tasks}
    try:
        for future in as_completed(futures):
            task = futures[future]
            try:
                yield task, future.result()
            except Exception as error:  # noqa: BLE001 a lost worker must not lose the slides of the others
                yield task, task.report("failed", error=error)
    finally:
        if client.status == "running":
            client.cancel(list(futures))
            client.run(cached_encoder.cache_clear, on_error="ignore")
