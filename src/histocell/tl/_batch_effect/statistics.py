"""Scores of an embedding against batch and biology, as functions of how often each group of rows counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.cluster import KMeans

from histocell import metrics
from histocell._core.errors import import_optional
from histocell._core.rng import draw_seed
from histocell.models.alignment.search import nearest
from histocell.tl._niches.clusters import Clustering, reduce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from histocell._core.types import Floats, Ints

    type Score = Callable[[Floats], float]  # of the weight of each group

BATCH, BIOLOGY, BALANCE, BOTH = "batch", "biology", "biology - batch", "biology over batch"
_MAX_ROWS = 50_000


class Labels(NamedTuple):
    """What is known of rows, numbered from 0, each shape ``(n,)``.

    Attributes
    ----------
    batch, biology
        Scanner or site; tissue, type or slide.
    scan
        The image that a row lies on, whose other rows are no neighbours.
    group
        Replicate that counts as a whole.
    """

    batch: Ints
    biology: Ints
    scan: Ints
    group: Ints


class Statistic(NamedTuple):
    """A score.

    Attributes
    ----------
    metric
        Its name.
    clusters
        How rows were clustered, empty where they were not.
    against
        What it is of.
    score
        Of the weight of each group, shape ``(n_groups,)``, to the value.
    """

    metric: str
    clusters: str
    against: str
    score: Score


def statistics(
    values: NDArray[np.floating],
    labels: Labels,
    clustering: Sequence[str],
    *,
    n_components: int,
    n_neighbors: int,
    n_seeds: int,
    rng: np.random.Generator,
) -> Iterator[Statistic]:
    """All scores of one embedding, ``(n, d)``."""
    space = reduce(np.asarray(values, dtype=np.float32), n_components, rng, len(values))
    known = {BATCH: labels.batch, BIOLOGY: labels.biology}
    for method in clustering:
        found = {
            name: _clusters(space, method, int(known[name].max()) + 1, n_seeds, n_neighbors, rng) for name in known
        }
        for index in ("ari", "ami", "mi"):
            scores = {name: _agreement(found[name], known[name], labels.group, index) for name in known}
            yield from (Statistic(index, method, name, score) for name, score in scores.items())
            if index != "mi":  # it grows with the number of classes
                yield Statistic(index, method, BALANCE, _difference(scores[BIOLOGY], scores[BATCH]))
    near = nearest(values, values, n_neighbors, own=(labels.scan, labels.scan)).rows
    scores = {name: _mean(_purity(each, near, labels.scan), labels.group) for name, each in known.items()}
    yield from (Statistic("neighbors", "", name, score) for name, score in scores.items())
    yield Statistic("neighbors", "", BALANCE, _difference(scores[BIOLOGY], scores[BATCH]))
    yield Statistic("robustness_index", "", BOTH, _robustness(labels, near))


def constant(values: NDArray[np.floating]) -> bool:
    """Whether all rows are the same but for rounding."""
    spread = np.ptp(values, axis=0).max(initial=0.0)
    return bool(spread <= 1e-6 * np.abs(values).max(initial=1e-30))


def croma_scores(values: NDArray[np.floating], labels: Labels, n_neighbors: int) -> dict[str, float]:
    """Robustness index, its margin-aware kin and the margin of the package croma."""
    import pandas as pd

    croma = import_optional("croma", "robustness")
    text = {name: [str(each) for each in column] for name, column in labels._asdict().items()}
    manifest = pd.DataFrame(
        {
            "sample_id": [str(row) for row in range(len(values))],
            "image_path": "",
            "label": text["biology"],
            "batch": text["batch"],
            "group_id": text["scan"],
        }
    )
    common = {"confounder_column": "batch"}
    return {
        "croma_ri": float(croma.RI.compute(values, manifest, k_candidates=[n_neighbors], **common).value),
        "croma_mari": float(
            croma.MaRI.compute(values, manifest, k_candidates=[n_neighbors], warn_tau=False, **common).value
        ),
        "croma": float(croma.CRoMa.compute(values, manifest, **common).value),
    }


def _clusters(
    space: np.ndarray, method: str, n_clusters: int, n_seeds: int, n_neighbors: int, rng: np.random.Generator
) -> list[Ints]:
    """Clusterings of the rows: k-means with as many clusters as classes, from several seeds; Leiden once."""
    if method == "leiden":
        clustering = Clustering("leiden", 1.0, n_neighbors, n_niches=n_clusters, n_seeds=1, max_cells=_MAX_ROWS)
        return [clustering.run(space, np.random.default_rng(0)).labels]
    seeds = [draw_seed(rng) for _ in range(n_seeds)]
    return [KMeans(n_clusters, n_init=1, random_state=seed).fit_predict(space).astype(np.intp) for seed in seeds]


def _agreement(clusterings: Sequence[Ints], labels: Ints, group: Ints, index: str) -> Score:
    tables = []
    for clusters in clusterings:
        table = np.zeros((group.max() + 1, clusters.max() + 1, labels.max() + 1))
        np.add.at(table, (group, clusters, labels), 1)
        tables.append(table)

    def score(weights: Floats) -> float:
        return float(np.mean([metrics.agreement(np.tensordot(weights, table, 1))[index] for table in tables]))

    return score


def _purity(labels: Ints, near: Ints, scan: Ints) -> Floats:
    n_scan, n_label = np.bincount(scan), np.bincount(labels)
    both = np.zeros((len(n_scan), len(n_label)))
    np.add.at(both, (scan, labels), 1)
    others = len(labels) - n_scan[scan]
    candidates = np.divide(n_label[labels] - both[scan, labels], others, out=np.ones(len(labels)), where=others > 0)
    return metrics.neighbor_purity(labels, near, candidates)


def _mean(values: Floats, group: Ints) -> Score:
    return _ratio(np.nan_to_num(values), np.isfinite(values).astype(np.float64), group)


def _robustness(labels: Labels, near: Ints) -> Score:
    favourable, adverse = metrics.robustness_index(labels.biology, labels.batch, near)
    return _ratio(favourable.astype(np.float64), (favourable + adverse).astype(np.float64), labels.group)


def _ratio(above: Floats, below: Floats, group: Ints) -> Score:
    sums = [np.bincount(group, weights=each) for each in (above, below)]

    def score(weights: Floats) -> float:
        total = weights @ sums[1]
        return float(weights @ sums[0] / total) if total > 0 else np.nan

    return score


def _difference(first: Score, second: Score) -> Score:
    return lambda weights: first(weights) - second(weights)
