"""Neighbours of spots in the array that they were printed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.spatial import cKDTree

from histocell._core.errors import listing, missing_key, warn

if TYPE_CHECKING:
    from histocell._core.types import Ints
    from histocell.tables.sections import Sections

_ROW, _COLUMN = "array_row", "array_col"
_REACH = np.sqrt(2) + 1e-6


class ArrayNeighbors(NamedTuple):
    """Means over a spot and the spots diagonally beside it.

    In the hexagonal array of Visium these are the four neighbours in the rows above and below; those in the same row
    lie two columns away and are not among them. Spots of other arrays are alone, as they are in SEAL.

    Attributes
    ----------
    weights
        Shape ``(n, n)``; each row sums to 1.
    """

    weights: csr_array

    @classmethod
    def of(cls, sections: Sections) -> Self:
        """The neighbours of all rows of a table, within their sections.

        Raises
        ------
        KeyError
            When the places in the array are not in ``obs``.
        """
        table = sections.table
        for name in (_ROW, _COLUMN):
            if name not in table.obs:
                hint = "The context of spots is that of their array; readers of Visium write it. Or spot_context=False."
                raise missing_key("obs", name, table.obs.columns, hint)
        places = np.column_stack([np.asarray(table.obs[name], dtype=np.float64) for name in (_ROW, _COLUMN)])
        rows, columns, others = [np.arange(table.n_obs)], [np.arange(table.n_obs)], []
        for name, mine in zip(sections.names, sections.rows, strict=True):
            if not _is_hexagonal(places[mine]):
                others.append(f"{name} ({len(mine)} spots)")
                continue
            pairs = cKDTree(places[mine]).query_pairs(_REACH, output_type="ndarray")
            rows += [mine[pairs[:, 0]], mine[pairs[:, 1]]]
            columns += [mine[pairs[:, 1]], mine[pairs[:, 0]]]
        if others:
            warn(
                f"{len(others)} of {len(sections)} sections are no hexagonal arrays: {listing(others, 4)}; expression there is "
                "not averaged with that of neighbours"
            )
        place = (np.concatenate(rows), np.concatenate(columns))
        adjacent = csr_array((np.ones(len(place[0])), place), shape=(table.n_obs, table.n_obs))
        return cls(csr_array(diags_array(1 / adjacent.sum(axis=1)) @ adjacent))

    def around(self, rows: Ints) -> tuple[Ints, csr_array]:
        """The rows that take part in the means of `rows`, and their weights, ``(len(rows), n_around)``."""
        some = self.weights[rows]
        around = np.unique(some.indices)
        return around, some[:, around]


def _is_hexagonal(places: np.ndarray) -> bool:
    """Whether rows are shifted against each other by half of the distance of spots: row plus column is even, or odd."""
    return len(places) > 0 and len(np.unique(places.sum(axis=1) % 2)) == 1
