"""Scores of embeddings that group rows by scanner or site, beside whether they group them by biology."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import stats

from histocell._core import keys as _keys
from histocell._core.arguments import as_names, check_count, check_switch
from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng
from histocell._core.settings import progress_bar
from histocell.tables.access import get_obsm, row_labels
from histocell.tables.sections import Sections
from histocell.tl._batch_effect.statistics import (
    BOTH,
    Labels,
    constant,
    croma_scores,
    statistics,
)
from histocell.tl.engine.features import dense
from histocell.tl.engine.intervals import LEAST_GROUPS, LEVEL, NONE, name_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import JSON, Floats, Ints
    from histocell.tables.access import Data
    from histocell.tl._batch_effect.statistics import Statistic

CLUSTERINGS = ("kmeans", "leiden")
_COLUMNS = ["embedding", "metric", "clusters", "against", "value", "low", "high", "interval"]


def batch_effect(
    data: Data,
    keys: str | Sequence[str],
    *,
    batch_key: str,
    biology_key: str,
    pool_by: str | None = None,
    clustering: Literal["kmeans", "leiden"] | Sequence[str] = CLUSTERINGS,
    croma: bool = False,
    n_components: int = 50,
    n_neighbors: int = 15,
    n_seeds: int = 10,
    max_rows: int = 20_000,
    group_key: str | None = None,
    library_key: str | None = None,
    key_added: str = _keys.BATCH_EFFECT,
    rng: SeedLike | RNGLike | None = 0,
    table_key: str | None = None,
    inplace: bool = True,
) -> JSON | None:
    """Score how much embeddings show of the scanner or site, and how much of biology.

    An encoder that collapses shows nothing of the scanner, and nothing else either, so each score stands beside the same
    score of biology: ``biology - batch`` is 0 for a constant embedding, below 0 where colour decides. Intervals are from a
    jackknife, which leaves out each group in turn: a bootstrap draws groups twice, and clusters agree with the labels of copies.
    The groups are the same for all embeddings, so differences are paired.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table: rows of several scanners or sites.
    keys
        Embeddings of ``obsm``, each ``(n, d)``, the first of which others are compared with. Rows that are not finite in one are left out.
    batch_key
        Column of ``obs`` with the scanner or site.
    biology_key
        Column of ``obs`` with the tissue, the cell type or the slide: what should bring rows together.
    pool_by
        Column of ``obs``, such as the scan: embeddings are averaged over its rows first, as for whole slides.
    clustering
        ``"kmeans"``, with as many clusters as there are batches, or classes of biology, mean of `n_seeds` starts;
        ``"leiden"`` on the graph of neighbours (``pip install "histocell[niches]"``); or both.
    croma
        Whether to add the scores of the package croma (``pip install "histocell[robustness]"``), over all rows, without intervals.
    n_components
        Principal components that are clustered.
    n_neighbors
        Most similar rows of other scans that are looked at, by cosine of the whole embedding.
    n_seeds
        Starts of k-means.
    max_rows
        Of more rows a random sample is taken.
    group_key
        Column of ``obs`` of the replicates; by default ``patient``, else the section.
    library_key
        Column of ``obs`` with the scan of each row, by default ``section``; rows of one scan are no neighbours.
    key_added
        Slot of ``uns``.
    rng
        Seed or generator; `None` for other draws each time.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written to ``uns["batch_effect"]``:

    ``scores``
        Data frame: ``embedding``, ``metric``, ``clusters``, ``against`` (``batch``, ``biology``, ``biology - batch``), ``value``,
        ``low``, ``high``, ``interval``. ``ari``, ``ami``, ``mi``: agreement of clusters with labels. ``neighbors``: how much more often
        neighbours share a label than by chance, 0 where they mix and 1 where they never do. ``robustness_index``: of the
        neighbours that share either biology or batch, those that share biology.
    ``differences``
        Data frame of the same columns and ``reference``: each embedding less the first.

    Raises
    ------
    KeyError
        When an embedding or a column is missing.
    ValueError
        When there is one batch or one class of biology, or each class lies in one batch only, so that nothing can be told apart.

    References
    ----------
    Tukey, Ann Math Stat 29 (1958): jackknife. Hubert and Arabie, J Classif 2 (1985): adjusted Rand index. Vinh, Epps and Bailey, JMLR 11 (2010): adjusted mutual
    information. Koemen et al., arXiv:2507.17845: robustness index.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> table = AnnData(obs={"scanner": np.tile(["A", "B"], 60), "tissue": np.repeat(["x", "y", "z"], 40)})
    >>> table.obs["section"] = table.obs["scanner"] + np.repeat(np.arange(6), 20).astype(str)
    >>> centre = rng.normal(size=(3, 8))[np.repeat([0, 1, 2], 40)]
    >>> table.obsm["X_good"] = 5 * centre + rng.normal(size=(120, 8))
    >>> hc.tl.batch_effect(table, "X_good", batch_key="scanner", biology_key="tissue", clustering="kmeans")
    >>> scores = table.uns["batch_effect"]["scores"].set_index(["metric", "against"])["value"]
    >>> bool(scores["ari", "biology"] > 0.9), bool(abs(scores["ari", "batch"]) < 0.1)
    (True, True)
    """
    names, methods = as_names(keys), as_names(clustering)
    if unknown := [name for name in methods if name not in CLUSTERINGS]:
        msg = f"clustering must be of {', '.join(CLUSTERINGS)}, not {listing(unknown)}"
        raise ValueError(msg)
    settings = {
        "n_components": check_count(n_components, "n_components", least=1),
        "n_neighbors": check_count(n_neighbors, "n_neighbors", least=1),
        "n_seeds": check_count(n_seeds, "n_seeds", least=1),
    }
    check_count(max_rows, "max_rows", least=10), check_switch(croma, "croma")
    sections, generator = Sections(data, table_key=table_key, library_key=library_key, group_key=group_key), as_rng(rng)
    values, labels = _read(sections, names, batch_key, biology_key, pool_by, max_rows, generator)
    result = _scores(values, labels, methods, croma=croma, rng=generator, **settings)
    if not inplace:
        return result
    sections.table.uns[key_added] = result
    facts = {
        "batch_key": batch_key,
        "biology_key": biology_key,
        "pool_by": pool_by,
        "n_rows": len(labels.batch),
        **settings,
    }
    _keys.write_provenance(sections.table, key_added, embeddings=names, **facts)
    return None


def _scores(
    values: dict[str, NDArray[np.floating]],
    labels: Labels,
    methods: Sequence[str],
    *,
    croma: bool,
    rng: np.random.Generator,
    **settings: int,
) -> dict[str, pd.DataFrame]:
    """Scores of each embedding, and their differences to those of the first, over the same groups."""
    seed, n_groups = int(rng.integers(2**63 - 1)), int(labels.group.max()) + 1
    weights = np.concatenate([np.ones((1, n_groups)), 1 - np.eye(n_groups)])  # all groups, and all but one
    interval = name_interval(n_groups, "groups") if n_groups >= LEAST_GROUPS else NONE
    frames, differences, first = [], [], None
    for name in progress_bar(list(values), desc="Comparing embeddings", unit="embedding"):
        each = values[name]
        if constant(each):
            warn(
                f'obsm["{name}"] is the same in all rows: it shows neither batch nor biology, and scores as random numbers do'
            )
            each = np.random.default_rng(0).normal(size=each.shape).astype(np.float32)
        found = list(statistics(each, labels, methods, rng=np.random.default_rng(seed), **settings))
        replicates = np.array([[one.score(weight) for one in found] for weight in weights])
        frames.append(_frame(name, found, replicates, interval))
        if croma:
            extra = croma_scores(each, labels, settings["n_neighbors"])
            rows = [(name, metric, "", BOTH, value, np.nan, np.nan, NONE) for metric, value in extra.items()]
            frames.append(pd.DataFrame(rows, columns=_COLUMNS))
        if first is None:
            first = name, replicates
        else:
            less = _frame(name, found, replicates - first[1], interval)
            differences.append(less.assign(reference=first[0]))
    empty = pd.DataFrame(columns=[*_COLUMNS, "reference"])
    return {
        "scores": pd.concat(frames, ignore_index=True),
        "differences": pd.concat(differences, ignore_index=True) if differences else empty,
    }


def _read(
    sections: Sections,
    names: Sequence[str],
    batch_key: str,
    biology_key: str,
    pool_by: str | None,
    max_rows: int,
    rng: np.random.Generator,
) -> tuple[dict[str, NDArray[np.floating]], Labels]:
    """Embeddings and labels of the rows that all are known of, of a sample of many, or of pools of rows."""
    table = sections.table
    hint = "Embeddings are written by hc.pp.embed_image, hc.pp.embed_genes and hc.tl.align."
    embeddings = {name: dense(get_obsm(table, name, hint), name) for name in names}
    group_key = sections.replicate_key()
    columns = {
        "batch": row_labels(table, batch_key, "batch_key= names the column of scanners or sites."),
        "biology": row_labels(table, biology_key, "biology_key= names the column of tissue, cell types or slides."),
        "scan": sections.labels,
        "group": sections.labels if group_key is None else row_labels(table, group_key),
    }
    finite = np.all([np.isfinite(each).all(axis=1) for each in embeddings.values()], axis=0)
    if missing := int((~finite).sum()):
        warn(f"{missing} of {table.n_obs} rows are not finite in an embedding; left out")
    rows = np.flatnonzero(finite)
    if pool_by is not None:
        pool, first = np.unique(row_labels(table, pool_by)[rows].astype(str), return_index=True, return_inverse=True)[
            1:
        ][::-1]
        for name, column in columns.items():
            if (column[rows] != column[rows][first][pool]).any():
                msg = f'rows of one obs["{pool_by}"] differ in their {name}: they cannot be averaged'
                raise ValueError(msg)
        size = np.bincount(pool)[:, None]
        embeddings = {name: _sums(each[rows], pool) / size for name, each in embeddings.items()}
        columns = {name: column[rows][first] for name, column in columns.items()}
        rows = np.arange(len(first))
    if len(rows) > max_rows:
        rows = np.sort(rng.choice(rows, max_rows, replace=False))
    labels = Labels(*(np.unique(columns[name][rows].astype(str), return_inverse=True)[1] for name in Labels._fields))
    _check(labels, batch_key, biology_key)
    return {name: each[rows] for name, each in embeddings.items()}, labels


def _sums(values: NDArray[np.floating], pool: Ints) -> NDArray[np.floating]:
    out = np.zeros((pool.max() + 1, values.shape[1]))
    np.add.at(out, pool, values)
    return out


def _check(labels: Labels, batch_key: str, biology_key: str) -> None:
    for key, each in ((batch_key, labels.batch), (biology_key, labels.biology)):
        if len(each) == 0 or each.max() == 0:
            msg = f'obs["{key}"] says the same in all {len(each)} rows: there is nothing to tell apart'
            raise ValueError(msg)
    table = np.zeros((labels.batch.max() + 1, labels.biology.max() + 1), dtype=bool)
    table[labels.batch, labels.biology] = True
    alone = int((table.sum(axis=0) == 1).sum())
    if alone == table.shape[1]:
        msg = f'each value of obs["{biology_key}"] is of one obs["{batch_key}"] only: batch and biology cannot be told apart'
        raise ValueError(msg)
    if alone:
        warn(f'{alone} of {table.shape[1]} values of obs["{biology_key}"] are of one obs["{batch_key}"] only')


def _frame(name: str, found: Sequence[Statistic], replicates: Floats, interval: str) -> pd.DataFrame:
    """Scores of all groups, the first of the replicates, and their intervals from those that leave one out."""
    value, n = replicates[0], len(replicates) - 1
    low = high = np.full(len(found), np.nan)
    if interval != NONE:
        error = np.sqrt((n - 1) / n * ((replicates[1:] - replicates[1:].mean(axis=0)) ** 2).sum(axis=0))
        reach = stats.t.ppf((1 + LEVEL) / 2, n - 1) * error
        low, high = value - reach, value + reach
    bounds = np.where(np.isfinite(low), interval, NONE)
    rows = [
        (name, each.metric, each.clusters, each.against, *values)
        for each, *values in zip(found, value, low, high, bounds, strict=True)
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)
