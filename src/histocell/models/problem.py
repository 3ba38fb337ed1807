"""Rows of shared arrays that one model is fitted on, and which of them can be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import warn
from histocell.models.folds import FitRows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Floats, Ints
    from histocell.models.places import Places


_CHUNK = 16_384


class Joined:
    """Several matrices of features side by side, which are joined for the rows that are looked at and never as a whole.

    Parameters
    ----------
    parts
        The matrices, ``(n, n_features)`` each, in memory or mapped from a file.
    columns
        Of each matrix, the order of its columns; `None` where they stay as they are.
    """

    ndim = 2

    def __init__(self, parts: Sequence[np.ndarray], columns: Sequence[Ints | None] | None = None) -> None:
        self.parts = list(parts)
        self.columns = [None] * len(self.parts) if columns is None else list(columns)
        self.shape = (len(self.parts[0]), sum(part.shape[1] for part in self.parts))
        self.dtype = np.result_type(*self.parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Ints | slice) -> np.ndarray:
        some = [
            part[rows] if order is None else part[rows][:, order]
            for part, order in zip(self.parts, self.columns, strict=True)
        ]
        return some[0] if len(some) == 1 else np.hstack(some)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


def as_features(X: ArrayLike | Joined) -> np.ndarray | Joined:
    """Features as an array, or as they are where they are joined by rows."""
    return X if isinstance(X, Joined) else np.asarray(X)


def finite_rows(X: np.ndarray | Joined) -> Bools:
    """Rows whose numbers are all finite; as many as fit into a little memory are looked at at a time."""
    out = np.empty(len(X), dtype=bool)
    for start in range(0, len(X), _CHUNK):
        out[start : start + _CHUNK] = np.isfinite(X[start : start + _CHUNK]).all(axis=1)
    return out


@dataclass(frozen=True, eq=False)
class Problem:
    """What one of several models is fitted on, see `histocell.models.base.Model.fit_together`.

    Attributes
    ----------
    X, Y
        Features ``(n, n_features)`` and targets ``(n, n_targets)`` of all rows; problems may share these arrays.
    index
        Positions of the rows of this problem, shape ``(n_rows,)``; `None` for all rows.
    groups, validation, places
        Of each row of `index`, as in `histocell.models.base.Model.fit`.
    rng
        Seed or generator of this problem; its model does not depend on the problems beside it.
    """

    X: ArrayLike
    Y: ArrayLike
    index: ArrayLike | None = None
    groups: ArrayLike | None = None
    validation: ArrayLike | None = None
    rng: SeedLike | RNGLike | None = 0
    places: Places | None = None

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of the rows of this problem."""
        X, Y = as_features(self.X), np.asarray(self.Y)
        return (np.asarray(X), Y) if self.index is None else (X[np.asarray(self.index)], Y[np.asarray(self.index)])


@dataclass(frozen=True, eq=False)
class Usable:
    """The rows of a problem whose features and targets are finite.

    Attributes
    ----------
    X
        Features of all rows, those of other problems too.
    index
        Positions of the usable rows in `X`.
    Y
        Targets of the usable rows.
    rows
        Which of them are fitted, and their groups.
    """

    X: np.ndarray | Joined
    index: Ints
    Y: Floats
    rows: FitRows

    @classmethod
    def of(
        cls,
        problem: Problem,
        places: Places | None = None,
        *,
        has_features: Callable[[np.ndarray | Joined], Bools] | None = None,
    ) -> Usable:
        """The usable rows, with a warning of others; `places` are those of the rows of the problem.

        `has_features` tells which rows of ``X`` have what a model needs, by default all features.

        Raises
        ------
        ValueError
            When shapes do not agree or no row is usable.
        """
        X, Y = as_features(problem.X), np.asarray(problem.Y, dtype=np.float64)
        if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
            msg = f"X and Y must have shapes (n, n_features) and (n, n_targets); they have {X.shape} and {Y.shape}"
            raise ValueError(msg)
        index = np.arange(len(X)) if problem.index is None else np.asarray(problem.index)
        n_rows, validation = len(index), problem.validation
        train = np.ones(n_rows, dtype=bool) if validation is None else ~np.asarray(validation, dtype=bool)
        labels = np.zeros(n_rows, dtype=int) if problem.groups is None else np.asarray(problem.groups)
        for name, value in (("groups", labels), ("validation", train)):
            if value.shape != (n_rows,):
                msg = f"{name} has shape {value.shape} for {n_rows} rows"
                raise ValueError(msg)
        finite = (has_features or finite_rows)(X)[index] & np.isfinite(Y).all(axis=1)[index]
        if not (finite & train).any():
            msg = f"none of the {int(train.sum())} training rows has finite features and targets"
            raise ValueError(msg)
        if n_bad := int((~finite).sum()):
            warn(f"{n_bad} of {n_rows} rows have features or targets that are not finite; left out of the fit")
        index = index[finite]
        known = None if places is None else places.rows(finite)
        return cls(X, index, Y[index], FitRows(train[finite], labels[finite], known))

    @property
    def features(self) -> np.ndarray:
        """Features of the usable rows: `X` itself where it is all of them in their order."""
        whole = len(self.index) == len(self.X) and (self.index == np.arange(len(self.X))).all()
        return np.asarray(self.X) if whole else self.X[self.index]
