"""The most similar rows of a gallery, exact in blocks of bounded memory, or through an index of FAISS."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from histocell._core.errors import import_optional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell._core.types import Floats, Ints

METHODS = ("exact", "faiss")
_QUERIES, _GALLERY = 1024, 8192  # similarities that are held at a time
_FLAT = 50_000  # rows up to which an index of FAISS compares with all of them
_LISTS_PER_ROOT, _PROBED = (
    4,
    0.1,
)  # lists of an inverted file in roots of the rows, and the share of them that is searched
_PER_LIST = 50  # rows that a list is learnt from


class Rows(Protocol):
    """A matrix that is read in slices: an array, or one of a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""

    def __getitem__(self, rows: slice, /) -> object:
        """Some of the rows."""


class Nearest(NamedTuple):
    """The most similar rows of each query, the most similar first, each shape ``(n_queries, k)``.

    Attributes
    ----------
    rows
        Positions in the gallery; -1 where fewer than `k` rows may be found.
    similarity
        Cosine; NaN there.
    """

    rows: Ints
    similarity: Floats


def unit(rows: object) -> NDArray[np.float32]:
    """Rows at length 1; those that are zero or not finite become NaN, so that they resemble nothing."""
    array = np.asarray(rows, dtype=np.float32)
    length = np.linalg.norm(array, axis=1, keepdims=True)
    return np.divide(
        array, length, out=np.full(array.shape, np.nan, dtype=np.float32), where=np.isfinite(length) & (length > 0)
    )


def nearest(
    queries: NDArray[np.floating],
    gallery: Rows,
    k: int,
    *,
    allowed: NDArray[np.bool_] | None = None,
    own: tuple[Ints, Ints] | None = None,
    method: str = "exact",
) -> Nearest:
    """Find the rows of a gallery that are most similar to each query by cosine.

    Parameters
    ----------
    queries
        Shape ``(n_queries, d)``.
    gallery
        Shape ``(n, d)``; read in slices, so it may lie in a file.
    k
        How many. Of rows that are exactly as similar the first come first.
    allowed
        Rows of the gallery that may be found, shape ``(n,)``; all of them by default.
    own
        A number for each query and for each row of the gallery; a query does not find rows of its own number.
    method
        ``"exact"``; or ``"faiss"``: all rows in memory, from 50,000 on in an inverted file of which a tenth is searched.

    References
    ----------
    Johnson, Douze and Jegou: Billion-scale similarity search with GPUs, IEEE Trans Big Data 7 (2021): FAISS.
    """
    if method not in METHODS:
        msg = f"method must be one of {', '.join(METHODS)}, not {method!r}"
        raise ValueError(msg)
    queries = unit(queries)
    if method == "faiss":
        return _by_index(queries, gallery, k, allowed, own)
    found = [
        _exact(queries[rows], gallery, k, allowed, _of_queries(own, rows)) for rows in _slices(len(queries), _QUERIES)
    ]
    if not found:
        return Nearest(np.empty((0, k), dtype=np.intp), np.empty((0, k)))
    return Nearest(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _exact(
    queries: NDArray[np.float32],
    gallery: Rows,
    k: int,
    allowed: NDArray[np.bool_] | None,
    own: tuple[Ints, Ints] | None,
) -> Nearest:
    """Only similarities above the k-th so far are looked at again, which soon are few."""
    n = len(queries)
    rows, similarity = np.full((n, k), -1, dtype=np.intp), np.full((n, k), -np.inf, dtype=np.float32)
    for part in _slices(gallery.shape[0], _GALLERY):
        similar = queries @ unit(gallery[part]).T
        hidden = ~np.isfinite(similar)
        if allowed is not None:
            hidden |= ~allowed[part]
        if own is not None:
            hidden |= own[0][:, None] == own[1][part]
        similar[hidden] = -np.inf
        least = similarity[:, -1]
        if similar.shape[1] > k and not np.isfinite(least).all():
            least = np.maximum(least, np.nextafter(np.partition(similar, -k, axis=1)[:, -k], -np.inf, dtype=np.float32))
        query, place = np.nonzero(similar > least[:, None])
        _merge(rows, similarity, query, place + part.start, similar[query, place])
    return Nearest(rows, np.where(rows < 0, np.nan, similarity).astype(np.float64))


def _merge(rows: Ints, similarity: NDArray[np.float32], query: Ints, place: Ints, value: NDArray[np.float32]) -> None:
    """Put new candidates among the best of their queries, in place."""
    if not len(query):
        return
    n, k = rows.shape
    changed = np.unique(query)
    query = np.concatenate([np.repeat(changed, k), query])
    place = np.concatenate([rows[changed].ravel(), place])
    value = np.concatenate([similarity[changed].ravel(), value])
    order = np.lexsort((place, -value, query))  # places of earlier blocks are lower
    query, place, value = query[order], place[order], value[order]
    starts = np.searchsorted(query, changed)
    best = (starts[:, None] + np.arange(k)).ravel()
    rows[changed], similarity[changed] = place[best].reshape(-1, k), value[best].reshape(-1, k)


def _by_index(
    queries: NDArray[np.float32],
    gallery: Rows,
    k: int,
    allowed: NDArray[np.bool_] | None,
    own: tuple[Ints, Ints] | None,
) -> Nearest:
    """Search an index of FAISS for as many more rows as a query may not find."""
    faiss = import_optional("faiss", "search")
    kept = np.arange(gallery.shape[0]) if allowed is None else np.flatnonzero(allowed)
    rows = np.concatenate([unit(gallery[part]) for part in _slices(gallery.shape[0], _GALLERY)])[kept]
    usable = np.isfinite(rows).all(axis=1)
    rows, kept = np.ascontiguousarray(rows[usable]), kept[usable]
    dim, n = queries.shape[1], len(rows)
    index = faiss.IndexFlatIP(dim)
    if n > _FLAT:
        n_lists = int(_LISTS_PER_ROOT * np.sqrt(n))
        index = faiss.IndexIVFFlat(index, dim, n_lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(int(_PROBED * n_lists), 1)
        index.train(rows[:: max(n // (_PER_LIST * n_lists), 1)])
    index.add(rows)
    spare = 0 if own is None else int(np.unique(own[1][kept], return_counts=True)[1].max(initial=0))
    similar, places = index.search(np.nan_to_num(queries), min(k + spare, n))
    out = Nearest(np.full((len(queries), k), -1, dtype=np.intp), np.full((len(queries), k), np.nan))
    for query in range(len(queries)):
        found = places[query] >= 0
        if own is not None:
            found &= own[1][kept[places[query]]] != own[0][query]
        if not np.isfinite(queries[query]).all():
            found[:] = False
        hits = np.flatnonzero(found)[:k]
        out.rows[query, : len(hits)], out.similarity[query, : len(hits)] = (
            kept[places[query, hits]],
            similar[query, hits],
        )
    return out


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _of_queries(own: tuple[Ints, Ints] | None, rows: slice) -> tuple[Ints, Ints] | None:
    return None if own is None else (own[0][rows], own[1])
