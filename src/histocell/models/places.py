"""Coordinates and sections of rows, which models that see neighbours are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from histocell._core.geometry import spot_pitch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from histocell._core.types import Bools, Floats, Ints


class Places(NamedTuple):
    """Coordinates and section of each row; `Places.of` makes them.

    Attributes
    ----------
    xy_um
        Coordinates (x, y) in um, shape ``(n, 2)``.
    sections
        Number of the section of each row, shape ``(n,)``; rows of two sections are never neighbours.
    pitch_um
        Distance between adjacent rows in um, NaN where no section has two. A part of the rows keeps that of the whole.
    centers_um
        Middle of the rows of each section, shape ``(n_sections, 2)``. A part of the rows keeps those of the whole.

    Examples
    --------
    >>> import histocell as hc
    >>> places = hc.models.Places.of([[0, 0], [100, 0], [0, 0], [100, 0]], ["a", "a", "b", "b"])
    >>> places.pitch_um, places.sections.tolist()
    (100.0, [0, 0, 1, 1])
    """

    xy_um: Floats
    sections: Ints
    pitch_um: float
    centers_um: Floats = np.zeros((0, 2))

    @classmethod
    def of(cls, xy_um: ArrayLike, sections: ArrayLike | None = None) -> Self:
        """Places of rows at `xy_um`, shape ``(n, 2)``; `sections` are their names or numbers, by default one section.

        Raises
        ------
        ValueError
            When shapes do not agree.
        """
        xy = np.asarray(xy_um, dtype=np.float64)
        labels = np.zeros(len(xy), dtype=np.intp) if sections is None else np.asarray(sections)
        if xy.ndim != 2 or xy.shape[1] != 2 or labels.shape != (len(xy),):
            msg = (
                f"places need xy_um of shape (n, 2) and sections of shape (n,); they have {xy.shape} and {labels.shape}"
            )
            raise ValueError(msg)
        numbers = np.unique(labels, return_inverse=True)[1].astype(np.intp)
        finite = np.isfinite(xy).all(axis=1)
        sums = [np.bincount(numbers[finite], each, numbers.max(initial=-1) + 1) for each in (*xy[finite].T, None)]
        return cls(xy, numbers, _pitch(xy, numbers), np.column_stack(sums[:2]) / np.maximum(sums[2], 1)[:, None])

    def centered_um(self) -> Floats:
        """Coordinates from the middle of each section."""
        return self.xy_um - self.centers_um[self.sections]

    def rows(self, index: Ints | Bools) -> Self:
        """The places of some of the rows."""
        return self._replace(xy_um=self.xy_um[index], sections=self.sections[index])


def check_places(places: Places | None, n_rows: int, model: str) -> Places:
    """The places of `n_rows` rows.

    Raises
    ------
    ValueError
        When there are none, or they belong to another number of rows.
    """
    if places is None:
        msg = (
            f"{model} sees the neighbours of each row and must know where the rows lie: give "
            "places=histocell.models.Places.of(xy_um, sections)"
        )
        raise ValueError(msg)
    if len(places.xy_um) != n_rows or len(places.sections) != n_rows:
        msg = f"places are of {len(places.xy_um)} rows, X has {n_rows}"
        raise ValueError(msg)
    return places


def check_finite(places: Places, model: str) -> None:
    """Refuse rows without finite coordinates."""
    unknown = int((~np.isfinite(places.xy_um)).any(axis=1).sum())
    if unknown:
        msg = (
            f"{unknown} of {len(places.xy_um)} rows have coordinates that are not finite, and {model} must know where "
            "each row lies; give the rows their coordinates, or leave them out"
        )
        raise ValueError(msg)


def _pitch(xy: Floats, sections: Ints) -> float:
    """Median over the sections of the distance between adjacent rows."""
    parts = [xy[(sections == number) & np.isfinite(xy).all(axis=1)] for number in np.unique(sections)]
    found = [spot_pitch(part) for part in parts if len(np.unique(part, axis=0)) > 1]
    return float(np.median(found)) if found else float("nan")
