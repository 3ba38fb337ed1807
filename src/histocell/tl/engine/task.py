"""Description of a task: how its target is read, its metrics, its baselines, and the slots of its predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from histocell import metrics
from histocell._core.errors import listing, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from anndata import AnnData

    from histocell._core.types import Floats, Ints

    type Score = Callable[..., Floats]
    # (container, key), for example ("obsm", "predicted_abundance"), to value
    type Slots = dict[tuple[str, str], object]


class Values(NamedTuple):
    """Numbers of the rows of a table, one named column per target.

    Attributes
    ----------
    array
        Shape ``(n, n_targets)``, NaN where nothing is known.
    names
        Of the targets, as they can be written.
    renamed
        Original names of the targets whose names had to change.
    """

    array: Floats
    names: list[str]
    renamed: dict[str, str] = {}

    def select(self, names: Sequence[str]) -> Values:
        """The columns called `names`."""
        return Values(self.array[:, [self.names.index(name) for name in names]], list(names), self.renamed)

    def rows(self, rows: Ints) -> Values:
        """Some of the rows."""
        return Values(self.array[rows], self.names, self.renamed)


@dataclass(frozen=True)
class Metric:
    """A score of each target, from arrays.

    Attributes
    ----------
    name
        In the table of scores.
    score
        Of the truth and the `outputs` of a model, each ``(n, n_targets)``, to ``(n_targets,)``; NaN where undefined.
    resample
        Of the same arrays, ``n_bootstrap`` and ``rng``, to the scores of resampled rows ``(n_bootstrap, n_targets)``; of
        resampled ``blocks`` of rows for a task that has them.
    outputs
        Endings of the slots that it scores: ``("",)`` for the prediction itself. Models that lack one are not scored.
    within_slides
        Whether it is computed within slides and averaged over those of a group.
    higher_is_better
        Direction.
    overall
        Whether it is one score of all targets together, shape ``(1,)``, rather than one of each.
    """

    name: str
    score: Score
    resample: Score
    outputs: tuple[str, ...] = ("",)
    within_slides: bool = False
    higher_is_better: bool = True
    overall: bool = False

    @classmethod
    def of_entries(cls, name: str, entries: Score, **settings: bool | tuple[str, ...]) -> Metric:
        """A metric that is the mean over rows of `entries`, ``(n, n_targets)`` with NaN for what does not count."""

        def resample(*arrays: Floats, **bootstrap: int) -> Floats:
            return metrics.bootstrap_mean(entries(*arrays), **bootstrap)

        return cls(name, lambda *arrays: metrics.nan_mean(entries(*arrays)), resample, **settings)  # type: ignore[arg-type]


class Writer(Protocol):
    """The slots of a prediction."""

    def slots(self, key: str, values: Values, index: pd.Index) -> Slots:
        """What is written for the prediction called `key`."""

    def read(self, table: AnnData, key: str) -> Values:
        """The prediction called `key`; a `KeyError` where there is none."""


@dataclass(frozen=True)
class Task:
    """What tells one task from another; fit, predict and evaluate are the same for all.

    Attributes
    ----------
    name
        Name of the task, as in ``fit_<name>``.
    target
        Reads the truth from the slot of a table: numbers, or 1 in the column of a class.
    metrics
        Scores of a prediction.
    writer
        Slots of a prediction.
    baselines
        Names of models that are fitted beside every other one, the simplest first.
    column
        Column of the table of scores that names the targets.
    match
        Of the truth and a prediction, to the truth of targets that the prediction has.
    has_blocks
        Whether intervals of a single group are over blocks of tissue, not over rows.
    classes
        Whether a row is of one of the targets. Models of classes see features as they are and read some rows at a time, so that
        several embeddings are not copied side by side, and tell genes from image.
    """

    name: str
    target: Callable[[AnnData, str], Values]
    metrics: tuple[Metric, ...]
    writer: Writer
    baselines: tuple[str, ...] = ()
    column: str = field(default="target", kw_only=True)
    match: Callable[[Values, Values], Values] = field(default=lambda *both: match_shared(*both), kw_only=True)
    has_blocks: bool = field(default=False, kw_only=True)
    classes: bool = field(default=False, kw_only=True)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, metrics: {listing(metric.name for metric in self.metrics)})"

    def baselines_of(self, model: str) -> tuple[str, ...]:
        """The baselines that are simpler than a model."""
        return self.baselines[: self.baselines.index(model)] if model in self.baselines else self.baselines


def match_shared(truth: Values, predicted: Values) -> Values:
    """The truth of the targets that were predicted, too."""
    return truth.select(shared_targets(truth, predicted, "truth and predictions"))


def shared_targets(first: Values, second: Values, owners: str) -> list[str]:
    """Names of the targets that both have, in the order of the first; a warning where that is not all."""
    shared = [name for name in first.names if name in set(second.names)]
    if not shared:
        msg = f"{owners} share no target: {listing(first.names)} against {listing(second.names)}"
        raise ValueError(msg)
    if len(shared) < max(len(first.names), len(second.names)):
        warn(f"only the {len(shared)} targets that {owners} share are used")
    return shared
