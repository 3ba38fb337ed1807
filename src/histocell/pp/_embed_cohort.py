"""Many slides, each embedded as a task of its own."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.settings import progress_bar, settings
from histocell.encoders.inference.store import differences
from histocell.encoders.networks.weights import local_weights
from histocell.encoders.registry import get_spec
from histocell.images.stain.normalize import StainNormalizer
from histocell.pp._cohort_slide import Job, embed, loaded, work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    import distributed
    import pandas as pd

    from histocell.encoders.inference.nucleus_tokens import NucleusPooling
    from histocell.encoders.spec import EncoderSpec
    from histocell.images.stain.normalize import Method


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
    :func:`histocell.pp.embed_image` with a store. What fails on one slide is reported and does not touch the others.
    Started again, a run skips the slides that are done and goes on within those that are not.

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
        `weights`. A slide whose worker dies goes to another one, three times at most. By default the slides are done one
        after the other in this process.
    overwrite
        Whether slides that are done already are done anew.

    Returns
    -------
    DataFrame in the order of `paths`: ``path``, ``output``, ``status`` (``"done"``, ``"skipped"`` or ``"failed"``),
    ``n_tiles``, ``seconds`` and ``error``. On disk, for each slide:

    ``<out>/<slide>.zarr``
        SpatialData with the shapes ``tissue`` and ``tiles``, the table ``tile_table`` with ``obsm["X_<encoder>"]``, and an
        image ``thumbnail``; the slide itself is not copied. ``attrs["histocell"]`` holds the path of the slide and the
        settings. ``sdata.images["he"] = hc.io.slide(path)["he"]`` brings the slide back.
    ``<out>/<slide>.store``
        Features of a slide that is not done yet.

    Raises
    ------
    ValueError
        When `paths` is empty, two slides have one name, or `out` holds results of other settings.
    FileExistsError
        When `out` holds something else under the name of a result.
    KeyError
        For an unknown encoder.

    Examples
    --------
    >>> report = hc.pp.embed_cohort(sorted(Path("slides").glob("*.svs")), "uni", out="embedded")
    >>> report.query("status == 'failed'")[["path", "error"]]

    On a machine with several processors, or on a cluster:

    >>> from distributed import Client, LocalCluster
    >>> with LocalCluster(n_workers=4, threads_per_worker=1) as cluster, Client(cluster) as client:
    ...     hc.pp.embed_cohort(paths, "uni", out="embedded", client=client)
    """
    import pandas as pd

    device = settings.device if device is None else device
    slides = [
        Path(path).expanduser().absolute() for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)
    ]
    spec = get_spec(encoder)
    normalizer = StainNormalizer(stain) if isinstance(stain, str) else stain
    tiling = {"size_um": float(size_um), "overlap": float(overlap), "min_tissue": float(min_tissue)}
    loading = {
        "weights": None if weights is None else str(weights),
        "pool": pool,
        "precision": precision,
        "batch_size": batch_size,
        "device": device if device is None or isinstance(device, str) else tuple(device),
    }
    facts = {
        "encoder": encoder,
        "weights": _version(weights, spec),
        "pool": None if pool is None else str(pool),
        "stain": None if normalizer is None else asdict(normalizer),
        "precision": precision,
        **tiling,
        "mpp": mpp,
    }
    jobs = [
        Job(
            slide=slide,
            output=output,
            encoder=encoder,
            spec=spec,
            loading=loading,
            tiling=tiling,
            stain=normalizer,
            mpp=mpp,
            facts={"slide": slide.name, "bytes": slide.stat().st_size if slide.exists() else None, **facts},
            overwrite=overwrite,
        )
        for slide, output in zip(slides, _outputs(slides, Path(out).expanduser().absolute()), strict=True)
    ]
    rows = {number: row for number, job in enumerate(jobs) if (row := _skipped(job))}
    todo = {number: job for number, job in enumerate(jobs) if number not in rows}
    with progress_bar(total=len(jobs), desc="slides", unit="slide") as bar:
        bar.update(len(rows))
        for number, row in _in_turn(todo) if client is None else _on_workers(todo, client):
            rows[number] = row
            bar.update()
    report = pd.DataFrame([rows[number] for number in range(len(jobs))])
    failed = [f"{Path(row['path']).name}: {row['error']}" for row in rows.values() if row["status"] == "failed"]
    if failed:
        warn(f"{len(failed)} of {len(report)} slides failed, see the column error: {listing(failed, 3)}")
    return report


def _version(weights: str | PathLike[str] | None, spec: EncoderSpec) -> str:
    """Which weights these are, without loading them."""
    if weights is None or weights == "random":
        return weights or spec.revision
    return local_weights(Path(weights), spec).version


def _outputs(slides: list[Path], folder: Path) -> list[Path]:
    """The result of each slide: its name without ``.svs``, ``.tif``, ``.ome.tif`` and the like."""
    if not slides:
        msg = "no slides: paths is empty. Does the pattern that it comes from match the files?"
        raise ValueError(msg)
    names = [slide.stem.removesuffix(".ome") for slide in slides]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        msg = (
            f"several slides are called {listing(twice)}, but results are named after them; use one out= for each group"
        )
        raise ValueError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / f"{name}.zarr" for name in names]


def _skipped(job: Job) -> dict[str, Any] | None:
    """The row of a slide that is done already, `None` where there is something to do."""
    import zarr

    if not job.output.exists():
        return None
    found: Any = None
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = zarr.open_group(job.output, mode="r").attrs[keys.PROVENANCE]
    if not isinstance(found, dict) or "settings" not in found:
        msg = f"{job.output} exists and was not made by hc.pp.embed_cohort; choose another out="
        raise FileExistsError(msg)
    if job.overwrite:
        return None
    if different := differences(found["settings"], job.facts):
        msg = (
            f"{job.output} was made with other settings: {'; '.join(different)}. "
            "Choose another out=, or overwrite=True to do it anew"
        )
        raise ValueError(msg)
    shutil.rmtree(job.store, ignore_errors=True)  # left by a run that was killed between its last two steps
    return job.row("skipped", n_tiles=found["n_tiles"])


def _in_turn(jobs: dict[int, Job]) -> Iterator[tuple[int, dict[str, Any]]]:
    """One after the other, in this process."""
    try:
        for number, job in jobs.items():
            loaded(job.encoder, **job.loading)  # what is wrong with the encoder is no matter of a slide
            yield number, embed(job)
    finally:
        loaded.cache_clear()


def _on_workers(jobs: dict[int, Job], client: distributed.Client) -> Iterator[tuple[int, dict[str, Any]]]:
    """One task for each slide, as they are completed."""
    from distributed import as_completed

    futures = {client.submit(work, job, pure=False): number for number, job in jobs.items()}
    try:
        for future in as_completed(futures):
            number = futures[future]
            try:
                yield number, future.result()
            except Exception as error:  # noqa: BLE001 a lost worker must not lose the slides of the others
                yield number, jobs[number].failed(error)
    finally:
        if client.status == "running":
            client.cancel(list(futures))
            client.run(loaded.cache_clear, on_error="ignore")
