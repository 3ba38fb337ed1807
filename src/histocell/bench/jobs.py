"""Folds as arrays, and the fit and prediction of one model on one of them, in this process or in others."""

from __future__ import annotations

import inspect
import json
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocell._core.errors import warn
from histocell._core.rng import as_rng
from histocell._core.settings import progress_bar
from histocell.bench.cache import Result
from histocell.bench.costs import PARAMETERS, SECONDS, device_type, measured, warm_up
from histocell.models.base import Model
from histocell.models.problem import Problem
from histocell.models.registry import make_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histocell._core.types import Floats, Ints
    from histocell.bench.cache import Cache
    from histocell.models.places import Places
    from histocell.models.problem import Joined
    from histocell.tl.engine.rows import Rows

_FORMAT = 1  # of the keys; goes up when what a result depends on changes


@dataclass(frozen=True)
class FoldRows:
    """Rows to fit on and rows to predict, the same for all models of a fold.

    Attributes
    ----------
    X, Y
        Features and targets of the whole training table.
    rows
        Those of its rows that may be seen, with their groups.
    X_new
        Features of the whole table that is predicted.
    held
        Rows of it to predict.
    seed
        Of the fit.
    places, places_new
        Where the rows of both tables lie, for models that see neighbours; `None` where there are no such models.
    """

    X: np.ndarray | Joined
    Y: Floats
    rows: Rows
    X_new: np.ndarray | Joined
    held: Ints
    seed: int
    places: Places | None = None
    places_new: Places | None = None

    def problem(self, model: Model) -> Problem:
        """The rows that a model is fitted on."""
        rows = self.rows
        needed = model.needs_places and self.places is not None
        places = self.places.rows(rows.index) if needed else None  # type: ignore[union-attr]
        validation = rows.validation if rows.validation.any() else None
        return Problem(self.X, self.Y, rows.index, rows.groups, validation, as_rng(self.seed), places)

    def predict(self, model: Model, device: str | None) -> dict[str, Floats]:
        """What a model says of the rows that are held out; one that sees neighbours sees their sections whole."""
        if not model.needs_places or self.places_new is None:
            return model.outputs(self.X_new[self.held], device=device)
        rows = self._sections
        outputs = model.outputs(self.X_new[rows], places=self.places_new.rows(rows), device=device)
        return {ending: values[np.searchsorted(rows, self.held)] for ending, values in outputs.items()}

    @property
    def _sections(self) -> Ints:
        """All rows of the sections that hold the rows to predict."""
        sections = self.places_new.sections  # type: ignore[union-attr]
        return np.flatnonzero(np.isin(sections, sections[self.held]))

    @cached_property
    def digest(self) -> str:
        """Hash of everything in it that the result of a model depends on which sees single rows."""
        groups = np.unique(self.rows.groups, return_inverse=True)[1]
        index, seed = self.rows.index, np.array(self.seed)
        return _digest(self.X[index], self.Y[index], groups, self.rows.validation, self.X_new[self.held], seed)

    @cached_property
    def digest_with_places(self) -> str:
        """The same for a model that sees neighbours."""
        if self.places is None or self.places_new is None:
            return self.digest
        index, rows = self.rows.index, self._sections
        known, new = self.places.rows(index), self.places_new.rows(rows)
        arrays = [np.asarray(each) for each in (*known, *new)]
        return self.digest + _digest(self.X_new[rows], np.searchsorted(rows, self.held), *arrays)


class Job(NamedTuple):
    """One model, not fitted, on one fold."""

    model: Model
    fold: FoldRows

    def key(self, device: str | None) -> str:
        """Hash of the fold, the model with its settings, the version of histocell and the kind of device."""
        known = {
            "format": _FORMAT,
            "histocell": version("histocell"),
            "device": device_type(device),
            "model": self.model.name,
            "config": asdict(self.model.config),
            "code": _own_code(type(self.model)),
            "rows": self.fold.digest_with_places if self.model.needs_places else self.fold.digest,
        }
        return blake2b(json.dumps(known, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def run_jobs(jobs: Sequence[Job], cache: Cache, *, n_workers: int, device: str | None) -> list[Result]:
    """The results of jobs in their order: those that the cache has, and the others, which it then has, too."""
    keys = [job.key(device) if cache.keeps else "" for job in jobs]
    results = {index: result for index, key in enumerate(keys) if (result := cache.get(key)) is not None}
    left = [index for index in range(len(jobs)) if index not in results]
    with progress_bar(total=len(jobs), desc="fit and predict", unit="fit") as bar:
        bar.update(len(results))
        for index, result in _compute(jobs, left, n_workers, device):
            cache.put(keys[index], result)
            results[index] = result
            bar.update(1)
    for text in dict.fromkeys(text for result in results.values() for text in result.warnings):
        warn(text)
    return [results[index] for index in range(len(jobs))]


def _compute(
    jobs: Sequence[Job], left: Sequence[int], n_workers: int, device: str | None
) -> Iterator[tuple[int, Result]]:
    """Results as they come, with their position among the jobs."""
    together: dict[tuple[int, int], list[int]] = {}
    single = []
    for index in left:
        if _trains_together(jobs[index].model):
            together.setdefault((id(jobs[index].model), id(jobs[index].fold.X)), []).append(index)
        else:
            single.append(index)
    if n_workers == 1 or len(single) < 2:
        for index in single:
            yield index, run_job(jobs[index], device)
    else:
        yield from _in_workers(jobs, single, n_workers, device)
    for indices in together.values():
        yield from zip(indices, run_together([jobs[index] for index in indices], device), strict=True)


def _in_workers(
    jobs: Sequence[Job], indices: Sequence[int], n_workers: int, device: str | None
) -> Iterator[tuple[int, Result]]:
    """The same by other processes, with one thread each, whatever their number: results do not depend on it."""
    from joblib import Parallel, delayed, parallel_config

    with warnings.catch_warnings(), parallel_config("loky", inner_max_num_threads=1):
        # It replaces a process that grew, as one does that fits; as an error, the warning would end its own thread.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
        workers = Parallel(min(n_workers, len(indices)), return_as="generator_unordered")
        yield from workers(delayed(_numbered)(index, jobs[index], device) for index in indices)


def _trains_together(model: Model) -> bool:
    """Whether folds of this model are better trained at once than one by one."""
    return type(model).fit_together.__func__ is not Model.fit_together.__func__  # type: ignore[attr-defined]


def _numbered(index: int, job: Job, device: str | None) -> tuple[int, Result]:
    return index, run_job(job, device)


def run_job(job: Job, device: str | None) -> Result:
    """Fit a copy of the model on the rows of a fold, and predict those that are held out."""
    return run_together([job], device)[0]


def run_together(jobs: Sequence[Job], device: str | None) -> list[Result]:
    """The same for several folds of one model, which are trained at once if it can; each has its share of the seconds."""
    models = [make_model(job.model, {}) for job in jobs]
    problems = [job.fold.problem(model) for job, model in zip(jobs, models, strict=True)]
    warm_up(models[0])
    with _caught() as texts, measured(device) as costs:
        type(models[0]).fit_together(models, problems, device=device)
    costs[SECONDS] /= len(jobs)
    return [
        Result(job.fold.predict(model, device), costs | {PARAMETERS: float(model.n_parameters)}, texts)
        for job, model in zip(jobs, models, strict=True)
    ]


def _digest(*arrays: np.ndarray) -> str:
    state = blake2b(digest_size=16)
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


@contextmanager
def _caught() -> Iterator[list[str]]:
    """Texts of the warnings of the block, to be said where the user sees them: not in another process, nor once only."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        yield texts
    shown = [each for each in caught if issubclass(each.category, UserWarning | RuntimeWarning)]
    texts += dict.fromkeys(str(each.message) for each in shown)


def _own_code(cls: type[Model]) -> str:
    """The source of a model that is not part of histocell, whose version says nothing of it."""
    if cls.__module__.startswith("histocell."):
        return f"{cls.__module__}.{cls.__qualname__}"
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"
