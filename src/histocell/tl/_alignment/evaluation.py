"""Recall and reciprocal rank of the other view of a cell, beside chance and a linear alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.errors import warn
from histocell._core.rng import as_rng
from histocell.models.alignment.base import GENES, AlignmentModel
from histocell.models.alignment.ranks import Ranks, partner_ranks
from histocell.tables.access import split_parts
from histocell.tables.sections import Sections
from histocell.tl._alignment.alignment import load_alignment
from histocell.tl.engine import features as _features
from histocell.tl.engine.rows import row_hashes, seen_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Floats, Ints
    from histocell.models.base import Model
    from histocell.tables.access import Data

WAYS = ("image to genes", "genes to image")
CHANCE = "chance"
_FEWEST_BLOCKS = 5  # of which there is a 95 % interval


def evaluate_alignment(
    data: Data,
    *,
    model: Model | str | Path | Mapping[str, object] | Data | None = None,
    model_key: str = keys.ALIGNMENT_MODEL,
    k: Sequence[int] = (1, 5, 10, 50, 100),
    block_um: float = 500.0,
    split_key: str = keys.SPLIT,
    library_key: str | None = None,
    max_queries: int = 5000,
    n_bootstrap: int = 1000,
    key_added: str = keys.ALIGNMENT_EVALUATION,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Score how well a cell finds its own genes by its image, and its own image by its genes.

    Each query ranks all scored cells by cosine. ``within``: among the cells of its own square of tissue, where
    tissue and stain are alike; ``across``: its partner among the cells of all other squares. Ranks are exact, in
    memory that does not grow with the number of cells. Cells that are exactly as similar share the middle of their ranks.
    Rows with ``obs[split_key] == "test"`` are scored where there are any, else all rows, with a warning.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, that holds both embeddings of the model and coordinates with a resolution.
    model
        `None` for the model in the ``uns`` of `data`; or a fitted model, a folder, a mapping, or other data that has one.
    model_key
        Slot of ``uns`` that holds the model.
    k
        How many of the most similar cells may be looked at.
    block_um
        Edge of the squares of tissue, in um.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``.
    library_key
        Column of ``obs`` with the sections or slides, by default ``section``.
    max_queries
        Most cells that are queries, drawn at random; all scored cells stand in the gallery.
    n_bootstrap
        Number of resamples of squares for the 95 % intervals.
    key_added
        Slot of ``uns``.
    rng
        Seed or generator, for queries and resamples; `None` for others each time.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` the data frame that would have been written to ``uns[key_added]``: ``model`` (that of
    the fit, ``cca``, ``chance``), ``direction``, ``gallery`` (``within``, ``across``), ``metric`` (``recall@k``; ``mrr``: mean
    reciprocal rank), ``k`` (0 for ``mrr``), ``value``, ``low``, ``high``, ``interval`` (``95 % over 12 blocks``, or
    ``none`` where there are fewer than five), ``n_queries``, ``n_candidates`` (median), ``n_training`` (how many of the
    queries the model was fitted or stopped on), ``n_overlapping`` (how many others show tissue of those).

    Raises
    ------
    KeyError
        When no model or one of its embeddings is found.
    ValueError
        When fewer than two rows can be scored, or the resolution is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> state = rng.normal(size=(300, 4))
    >>> views = {"X_image": state @ rng.normal(size=(4, 8)), "X_genes": state @ rng.normal(size=(4, 6))}
    >>> cells = AnnData(obsm={**views, "spatial": rng.uniform(0, 3000, (300, 2))})
    >>> cells.obs["mpp"], cells.obs["split"] = 1.0, ["train"] * 150 + ["val"] * 50 + ["test"] * 100
    >>> hc.tl.fit_alignment(cells, "X_genes", "X_image", model="cca")
    >>> scores = hc.tl.evaluate_alignment(cells, k=[5], block_um=1000, n_bootstrap=100, inplace=False)
    >>> scores.query("model == 'cca' and metric == 'recall@5'")["value"].round(1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    depths = [check_count(each, "k", least=1) for each in k]
    check_count(max_queries, "max_queries", least=2), check_count(n_bootstrap, "n_bootstrap", least=1)
    sections = Sections(data, table_key=table_key, library_key=library_key)
    table, generator = sections.table, as_rng(rng)
    fitted = load_alignment(table if model is None else model, model_key)
    described = [fitted.features[0], fitted.facts[GENES]]
    _features.check_same(table, described)
    X, Y = (_features.feature_matrix(table, [feature]) for feature in described)
    rows = _scored(sections, np.isfinite(X).all(axis=1) & np.isfinite(Y).all(axis=1), split_key)
    queries = np.arange(len(rows))
    if len(rows) > max_queries:
        queries = np.sort(generator.choice(len(rows), max_queries, replace=False))
    block = np.unique(sections.squares(block_um)[rows], return_inverse=True)[1]
    n_blocks = int(block.max()) + 1
    scopes = ("within", "across") if n_blocks > 1 else ("within",)
    if n_blocks == 1:
        warn(
            f"all {len(rows)} scored rows lie in one square of {block_um:g} um: nothing is ranked across; see block_um="
        )
    counts = _counts(sections, fitted, rows[queries])
    weights = _resamples(np.unique(block[queries], return_inverse=True)[1], n_bootstrap, generator)
    frames = []
    linear = {name: each for name, each in fitted.baselines.items() if isinstance(each, AlignmentModel)}
    for name, each in {fitted.name: fitted, **linear}.items():
        views = [each.project("image", X[rows], device=device), each.project("genes", Y[rows], device=device)]
        for way, (asked, gallery) in zip(WAYS, (views, views[::-1]), strict=True):
            found = partner_ranks(asked[queries], gallery, queries, groups=block, scopes=scopes)
            frames += [_table(name, way, scope, ranks, depths, weights) for scope, ranks in found.items()]
            if each is fitted:
                frames += [_chance(way, scope, ranks, depths) for scope, ranks in found.items()]
    scores = pd.concat(frames, ignore_index=True).assign(**counts)
    if not inplace:
        return scores
    table.uns[key_added] = scores
    keys.write_provenance(table, key_added, model=fitted.name, block_um=float(block_um), n_blocks=n_blocks)
    return None


def _scored(sections: Sections, known: np.ndarray, split_key: str) -> Ints:
    """Test rows with both views, all rows where there is no split."""
    parts = split_parts(sections.table, split_key)
    if parts is None or not (parts == keys.TEST).any():
        warn(f'no row of obs["{split_key}"] is "{keys.TEST}": all rows are scored, those of the fit, too')
        chosen = np.ones(len(known), dtype=bool)
    else:
        chosen = parts == keys.TEST
    if unknown := int((chosen & ~known).sum()):
        warn(f"{unknown} of {int(chosen.sum())} rows to be scored lack a view; left out")
    rows = np.flatnonzero(chosen & known)
    check_count(len(rows), "the number of rows that can be scored", least=2)
    return rows


def _counts(sections: Sections, fitted: AlignmentModel, queries: Ints) -> dict[str, int]:
    """Number of queries, and of those that the model has seen, with a warning."""
    hashes = row_hashes(sections.table, [fitted.features[0]["key"]])
    seen = seen_rows(sections, hashes, fitted)[:, queries]
    n_training, n_overlapping = int(seen[:2].any(axis=0).sum()), int(seen[2].sum())
    if n_training or n_overlapping:
        warn(
            f"the model was fitted or stopped on {n_training} of {len(queries)} queries, and {n_overlapping} others show "
            "tissue of those"
        )
    return {"n_queries": len(queries), "n_training": n_training, "n_overlapping": n_overlapping}


def _resamples(block: Ints, n_bootstrap: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """The block of each query, and how often each resample holds each block."""
    n_blocks = int(block.max()) + 1
    return block, rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap).astype(np.float64)


def _table(
    model: str, way: str, scope: str, ranks: Ranks, depths: Sequence[int], weights: tuple[Ints, Floats]
) -> pd.DataFrame:
    block, times = weights
    n_blocks = times.shape[1]
    size = np.bincount(block)
    out = []
    for metric, depth, values in _values(ranks, depths):
        low, high, interval = np.nan, np.nan, "none"
        if n_blocks >= _FEWEST_BLOCKS:
            replicates = times @ np.bincount(block, weights=values) / (times @ size)
            (low, high), interval = np.percentile(replicates, [2.5, 97.5]), f"95 % over {n_blocks} blocks"
        out.append((metric, depth, float(values.mean()), float(low), float(high), interval))
    return _frame(model, way, scope, ranks, out)


def _values(ranks: Ranks, depths: Sequence[int]) -> list[tuple[str, int, Floats]]:
    recall = [(f"recall@{depth}", depth, ranks.recall(depth).astype(np.float64)) for depth in depths]
    return [*recall, ("mrr", 0, 1 / ranks.rank)]


def _chance(way: str, scope: str, ranks: Ranks, depths: Sequence[int]) -> pd.DataFrame:
    rows = [(f"recall@{depth}", depth, ranks.chance_recall(depth)) for depth in depths]
    rows.append(("mrr", 0, ranks.chance_reciprocal()))
    out = [(metric, depth, float(each.mean()), np.nan, np.nan, "none") for metric, depth, each in rows]
    return _frame(CHANCE, way, scope, ranks, out)


def _frame(model: str, way: str, scope: str, ranks: Ranks, rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    columns = ["metric", "k", "value", "low", "high", "interval"]
    frame = pd.DataFrame(rows, columns=columns).assign(n_candidates=float(np.median(ranks.n_candidates)))
    for place, (name, value) in enumerate({"model": model, "direction": way, "gallery": scope}.items()):
        frame.insert(place, name, value)
    return frame
