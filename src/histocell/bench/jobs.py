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
from histocell.bench.costs import PARAMETERS, device_type, measured
from histocell.models.registry import make_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histocell._core.types import Floats, Ints
    from histocell.bench.cache import Cache
    from histocell.models.base import Model
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
    """

    X: np.ndarray
    Y: Floats
    rows: Rows
    X_new: np.ndarray
    held: Ints
    seed: int

    @cached_property
    def digest(self) -> str:
        """Hash of everything in it that a result depends on."""
        groups = np.unique(self.rows.groups, return_inverse=True)[1]
        index, state = self.rows.index, blake2b(digest_size=16)
        for array in (self.X[index], self.Y[index], groups, self.rows.validation, self.X_new[self.held]):
            state.update(f"{array.dtype.str}{array.shape}".encode())
            state.update(np.ascontiguousarray(array).tobytes())
        state.update(f"seed {self.seed}".encode())
        return state.hexdigest()


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
            "fold": self.fold.digest,
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
    for index in range(len(jobs)):
        for text in results[index].warnings:
            warn(text)
    return [results[index] for index in range(len(jobs))]


def _compute(
    jobs: Sequence[Job], left: Sequence[int], n_workers: int, device: str | None
) -> Iterator[tuple[int, Result]]:
    """Results as they come, with their position among the jobs."""
    if n_workers == 1 or len(left) < 2:
        for index in left:
            yield index, run_job(jobs[index], device)
        return
    from joblib import Parallel, delayed, parallel_config

    # One thread each, whatever their number, so that results do not depend on it.
    with parallel_config("loky", inner_max_num_threads=1):
        workers = Parallel(min(n_workers, len(left)), return_as="generator_unordered")
        yield from workers(delayed(_numbered)(index, jobs[index], device) for index in left)


def _numbered(index: int, job: Job, device: str | None) -> tuple[int, Result]:
    return index, run_job(job, device)


def run_job(job: Job, device: str | None) -> Result:
    """Fit a copy of the model on the rows of a fold, and predict those that are held out."""
    model, fold, rows = make_model(job.model, {}), job.fold, job.fold.rows
    with _caught() as texts, measured(device) as costs:
        model.fit(
            fold.X[rows.index],
            fold.Y[rows.index],
            groups=rows.groups,
            validation=rows.validation if rows.validation.any() else None,
            rng=as_rng(fold.seed),
            device=device,
        )
    return _result(model, fold, costs, texts, device)


def _result(model: Model, fold: FoldRows, costs: dict[str, float], texts: list[str], device: str | None) -> Result:
    outputs = model.outputs(fold.X_new[fold.held], device=device)
    return Result(outputs, costs | {PARAMETERS: float(model.n_parameters)}, texts)


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
