"""Slides of a cohort, one after the other or on the workers of dask: what is done, what is to do, and the report."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.outputs import make_folder
from histocell._core.settings import progress_bar
from histocell.encoders.inference.store import differences
from histocell.pp._cohort.files import check_replaceable, check_store, remove_store, result_facts
from histocell.pp._cohort.slide import Cohort, Report, SlideTask, run_on_worker, run_slide

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    import distributed
    import pandas as pd


def run_cohort(
    paths: Sequence[str | PathLike[str]],
    cohort: Cohort,
    *,
    out: str | PathLike[str],
    client: distributed.Client | None,
    overwrite: bool,
) -> pd.DataFrame:
    """Process the slides that are not done, and report on all of them in their order.

    Parameters
    ----------
    paths
        The slides.
    cohort
        What is done to each.
    out
        Folder for the results.
    client
        Whose workers share the slides; without it they are processed in this process.
    overwrite
        Whether slides that are done are processed again.
    """
    import pandas as pd

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
        for task, report in _in_turn(todo, cohort) if client is None else _on_workers(todo, cohort, client):
            reports[task] = report
            bar.update()
    table = pd.DataFrame([reports[task] for task in tasks])
    failed = table[table["status"] == "failed"]
    if len(failed):
        errors = [f"{Path(path).name}: {error}" for path, error in zip(failed["path"], failed["error"], strict=True)]
        warn(f"{len(failed)} of {len(table)} slides failed, see the column error: {listing(errors, 3)}")
    return table


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
    facts = result_facts(task.output, task.cohort.kind)
    check_store(task.store, task.cohort.kind)
    if overwrite:
        check_replaceable(task.output, task.cohort.kind)
        return None
    if facts is None:
        return None
    if different := differences(facts["settings"], task.settings(facts)):
        msg = (
            f"{task.output} was made with other settings: {'; '.join(different)}. "
            "Choose another out=, move it away to do this slide anew, or overwrite=True to do all anew"
        )
        raise ValueError(msg)
    return task.report("skipped", n=facts[task.cohort.kind.count])


def _clear(task: SlideTask, *, overwrite: bool) -> None:
    """Delete what is not needed: of other settings, or of a run that was killed between its last two steps."""
    if overwrite or task.output.exists():
        remove_store(task.store, task.cohort.kind)


def _in_turn(tasks: list[SlideTask], cohort: Cohort) -> Iterator[tuple[SlideTask, Report]]:
    """The slides one after the other, in this process."""
    try:
        for task in tasks:
            cohort.prepare()
            yield task, run_slide(task)
    finally:
        cohort.release()


def _on_workers(
    tasks: list[SlideTask], cohort: Cohort, client: distributed.Client
) -> Iterator[tuple[SlideTask, Report]]:
    """The slides as the workers complete them."""
    from distributed import as_completed

    futures = {client.submit(run_on_worker, task, pure=False): task for task in tasks}
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
            client.run(cohort.release, on_error="ignore")
