"""A task of a probe: samples, folds, and the scores of all encoders in all folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core.arguments import as_names
from histocell._core.errors import listing, warn
from histocell._core.settings import progress_bar
from histocell.models.expression.probe import MAX_FOLDS, N_COMPONENTS, Moments, probe_folds
from histocell.tl.engine.evaluate import ALL, MEAN
from histocell.tl.engine.intervals import NONE, over_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from histocell._core.types import Floats, Ints
    from histocell.models.expression.probe import FoldScore

METRIC = "pearson"
# number of components, and how the penalty is found
PROTOCOLS: dict[str, tuple[int | None, str | None]] = {
    "hest": (N_COMPONENTS, None),
    "hest-cv": (N_COMPONENTS, "cv"),
    "hest-no-pca": (None, None),
    "hest-cv-no-pca": (None, "cv"),
}


class Sample(NamedTuple):
    """Rows of one sample.

    Attributes
    ----------
    features
        Embeddings by name of the encoder, each ``(n, d)``.
    targets
        Shape ``(n, g)``.
    order
        Position of each row along the sample; rows that follow each other lie together.
    """

    features: Mapping[str, np.ndarray]
    targets: Floats
    order: np.ndarray


class Fold(NamedTuple):
    """Samples to train on and to test on, by their positions, and what the fold is called."""

    name: str
    train: Sequence[int]
    test: Sequence[int]


@dataclass(frozen=True)
class Problem:
    """One task.

    Attributes
    ----------
    name
        Of the task.
    targets
        Names of the genes or other targets.
    samples
        Names of the samples.
    folds
        The folds.
    read
        Reads one sample by its position.
    """

    name: str
    targets: Sequence[str]
    samples: Sequence[str]
    folds: Sequence[Fold]
    read: Callable[[int], Sample]

    def check(self, replicates: Mapping[str, str]) -> None:
        """Refuse folds that test on what they train on; `replicates` names the patient of a sample."""
        for fold in self.folds:
            if not fold.train or not fold.test:
                msg = f"fold {fold.name!r} of {self.name!r} has no sample to {'test' if fold.train else 'train'} on"
                raise ValueError(msg)
            sides = [{replicates.get(self.samples[i], self.samples[i]) for i in side} for side in fold[1:]]
            if both := sorted(sides[0] & sides[1]):
                msg = (
                    f"{listing(both)} lies on both sides of fold {fold.name!r} of {self.name!r}: a probe would be tested on the "
                    "tissue that it was fitted on. Every sample of a patient belongs to one side"
                )
                raise ValueError(msg)

    def scores(self, protocols: Sequence[str], encoders: Sequence[str], *, n_bootstrap: int, seed: int) -> pd.DataFrame:
        """The table of all protocols, encoders, folds and targets."""
        needs_parts = any(PROTOCOLS[each][1] for each in protocols) and any(len(f.train) == 1 for f in self.folds)
        n_parts = MAX_FOLDS if needs_parts else 1
        moments: dict[str, list[list[Moments]]] = {name: [] for name in encoders}
        for i in progress_bar(range(len(self.samples)), desc=f"probe of {self.name}", unit="sample"):
            sample = self.read(i)
            for name in encoders:
                moments[name].append(list(self._parts(sample, name, i, n_parts)))
        tables = [
            self._table(protocol, name, self._fold_scores(protocol, moments[name]), n_bootstrap=n_bootstrap, seed=seed)
            for name in encoders
            for protocol in protocols
        ]
        return pd.concat(tables, ignore_index=True)

    def _parts(self, sample: Sample, encoder: str, i: int, n_parts: int) -> Iterator[Moments]:
        X, Y = sample.features[encoder], sample.targets
        if len(X) != len(Y):
            msg = f"{encoder!r} has {len(X)} embeddings of sample {self.samples[i]!r}, which has {len(Y)} rows"
            raise ValueError(msg)
        for what, values in ((f"embeddings of {encoder!r}", X), ("targets", Y)):
            if bad := int((~np.isfinite(values).all(axis=1)).sum()):
                msg = f"{what} are NaN or infinite in {bad} of {len(values)} rows of sample {self.samples[i]!r}; leave these rows out"
                raise ValueError(msg)
        order = np.argsort(sample.order, kind="stable") if n_parts > 1 else np.arange(len(X))
        for rows in np.array_split(order, min(n_parts, len(X))):
            yield Moments.of(X[rows], Y[rows])

    def _fold_scores(self, protocol: str, moments: list[list[Moments]]) -> list[FoldScore]:
        n_components, alpha = PROTOCOLS[protocol]
        ends = np.cumsum([0, *map(len, moments)])
        units = [part for parts in moments for part in parts]
        widths = {len(part.mean_x) for part in units}
        if len(widths) > 1:
            msg = f"embeddings of one encoder have several widths in {self.name!r}: {listing(sorted(widths))}"
            raise ValueError(msg)

        def of(samples: Sequence[int]) -> Ints:
            return np.concatenate([np.arange(ends[i], ends[i + 1]) for i in samples])

        folds = [(of(fold.train), of(fold.test)) for fold in self.folds]
        return probe_folds(units, folds, n_components=n_components, alpha=alpha)

    def _table(
        self, protocol: str, encoder: str, scores: Sequence[FoldScore], *, n_bootstrap: int, seed: int
    ) -> pd.DataFrame:
        """Each fold and all, each target and their mean."""
        values = np.stack([score.pearson for score in scores])
        low, high, names = over_groups(values, "groups", n_bootstrap=n_bootstrap, rng=seed)
        of_folds, n = metrics.nan_mean(values, axis=1)[:, None], len(scores)
        undefined = (~np.isfinite(values)).astype(int)
        g, per = len(self.targets) + 1, np.full((n, len(self.targets) + 1), np.nan)
        total = float(metrics.nan_mean(of_folds[:, 0]))
        table = {
            "task": self.name,
            "model": protocol,
            "features": encoder,
            "group": np.repeat([*(fold.name for fold in self.folds), ALL], g),
            "gene": [*self.targets, MEAN] * (n + 1),
            "metric": METRIC,
            "value": [*np.hstack([values, of_folds]).ravel(), *metrics.nan_mean(values), total],
            "low": [*per.ravel(), *low],
            "high": [*per.ravel(), *high],
            "interval": [NONE] * per.size + names,
            "n_undefined": [*_with_sum(undefined).ravel(), *_with_sum(undefined.sum(axis=0)[None])[0]],
        }
        for column, of_all in (("n_test", sum), ("n_train", min), ("n_components", min), ("alpha", None)):
            found = [getattr(score, column) for score in scores]
            table[column] = np.repeat([*found, of_all(found) if of_all else np.nan], g)
        out = pd.DataFrame(table).rename(columns={"n_test": "n_spots", "n_train": "n_training"})
        self._warn(encoder, protocol, scores)
        return out

    def _warn(self, encoder: str, protocol: str, scores: Sequence[FoldScore]) -> None:
        for fold, score in zip(self.folds, scores, strict=True):
            if len(bad := np.flatnonzero(~np.isfinite(score.pearson))):
                warn(
                    f"{self.name}, {encoder}: {listing([self.targets[int(i)] for i in bad], 5)} or the prediction of it is constant in fold "
                    f"{fold.name!r}, so its correlation is undefined (NaN); the mean is over the other {len(score.pearson) - len(bad)} "
                    "targets, where HEST-Bench's own would be NaN"
                )
        (wanted, penalty), used = PROTOCOLS[protocol], min(score.n_components for score in scores)
        if wanted is not None and penalty is None and used < wanted:
            warn(
                f"{self.name}, {encoder}: {used} components, as there are no {wanted}, which HEST-Bench takes; the penalty "
                "follows their number"
            )


def check_protocols(protocol: str | Sequence[str]) -> list[str]:
    """Names of protocols as a list."""
    names = as_names(protocol)
    if absent := [name for name in names if name not in PROTOCOLS]:
        msg = f"protocol must be of {listing(PROTOCOLS)}, not {listing(absent)}"
        raise ValueError(msg)
    return names


def _with_sum(counts: np.ndarray) -> np.ndarray:
    return np.column_stack([counts, counts.sum(axis=1)])
