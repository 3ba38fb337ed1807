"""Ranks of the partner of each query in a gallery of the other view, exact, in blocks of bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histocell._core.types import Bools, Floats, Ints

_QUERIES, _GALLERY = 1024, 8192  # similarities that are held at a time
_ROUNDING = 1e-6  # of products of unit vectors


class Ranks(NamedTuple):
    """Where the partners of queries stand, each shape ``(n_queries,)``.

    Attributes
    ----------
    rank
        1 for the most similar; the middle of rows that are exactly as similar, so that equal vectors rank as chance would.
    n_candidates
        Number of rows that a query chooses from, its partner among them.
    """

    rank: Floats
    n_candidates: Ints

    def recall(self, k: int) -> Bools:
        """Whether the partner is among the `k` most similar."""
        return self.rank <= k

    def chance_recall(self, k: int) -> Floats:
        """Probability of that for a random order."""
        return np.minimum(k, self.n_candidates) / self.n_candidates

    def chance_reciprocal(self) -> Floats:
        """Expected reciprocal rank in a random order."""
        sums = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, self.n_candidates.max(initial=0) + 1))])
        return sums[self.n_candidates] / self.n_candidates


def partner_ranks(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    partners: Ints,
    *,
    groups: Ints,
    scopes: Sequence[str] = ("within", "across"),
) -> dict[str, Ranks]:
    """Rank the partner of each query among rows of its own group, or among those of all other groups.

    Parameters
    ----------
    queries
        Unit vectors whose products are similarities, shape ``(n_queries, d)``.
    gallery
        Unit vectors of the other view, shape ``(n, d)``.
    partners
        Position of the partner of each query in the gallery.
    groups
        Group of each row of the gallery, numbered from 0; a query has that of its partner.
    scopes
        ``"within"``: the rows of the group; ``"across"``: the partner and the rows of other groups; ``"all"``: all rows.

    Returns
    -------
    Ranks by scope.
    """
    own = groups[partners]
    n_all, n_own = len(gallery), np.bincount(groups)[own]
    candidates = {"within": n_own, "across": n_all - n_own + 1, "all": np.full(len(partners), n_all)}
    above = {scope: np.zeros(len(queries)) for scope in scopes}
    for start in range(0, len(queries), _QUERIES):
        rows = slice(start, start + _QUERIES)
        mine = np.einsum("nd,nd->n", queries[rows], gallery[partners[rows]], dtype=np.float32)
        for first in range(0, n_all, _GALLERY):
            last = min(first + _GALLERY, n_all)
            similar = queries[rows] @ gallery[first:last].T - mine[:, None]
            # half a place for each that is as similar, but for rounding: the middle of them
            beats = (similar > _ROUNDING).astype(np.float32) + (similar >= -_ROUNDING)
            within = np.where(own[rows, None] == groups[first:last], beats, 0).sum(axis=1) / 2
            everywhere = beats.sum(axis=1) / 2
            for scope, value in {"within": within, "across": everywhere - within, "all": everywhere}.items():
                if scope in above:
                    above[scope][rows] += value
    # a partner counts itself as half a place, except among others
    offset = {"within": 0.5, "across": 1.0, "all": 0.5}
    return {scope: Ranks(above[scope] + offset[scope], candidates[scope]) for scope in scopes}
