"""Rows as nodes of a graph: features, neighbours and sections, and parts of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from scipy.spatial import cKDTree

from histocell._core.errors import warn

if TYPE_CHECKING:
    from torch import Tensor

    from histocell._core.types import Floats, Ints
    from histocell.models.places import Places


class Graph(NamedTuple):
    """Nodes and who sees whom.

    Attributes
    ----------
    x
        Features of the nodes, shape ``(n, n_features)``.
    pairs
        Shape ``(2, n_pairs)``: the neighbour, and the node that sees it; none sees itself.
    sections
        Section of each node, shape ``(n,)``.
    """

    x: Tensor
    pairs: Tensor
    sections: Tensor

    @classmethod
    def of(cls, X: Floats, places: Places, radius_um: float, device: torch.device) -> Self:
        """Rows with features `X` at `places`; those of one section that lie within `radius_um` are neighbours."""
        pairs = neighbor_pairs(places, radius_um)
        return cls(
            torch.as_tensor(X, dtype=torch.float32, device=device),
            torch.as_tensor(pairs, dtype=torch.long, device=device),
            torch.as_tensor(places.sections, dtype=torch.long, device=device),
        )

    def take(self, nodes: Tensor) -> Self:
        """The part of the graph with some of the nodes, in that order; they see none of the others."""
        number = torch.full((len(self.x),), -1, device=self.x.device)
        number[nodes] = torch.arange(len(nodes), device=self.x.device)
        pairs = number[self.pairs]
        return type(self)(self.x[nodes], pairs[:, (pairs >= 0).all(dim=0)], self.sections[nodes])

    def around(self, nodes: Tensor, n_steps: int) -> Tensor:
        """Some nodes and those that they see in `n_steps` steps, in order."""
        inside = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        inside[nodes] = True
        for _ in range(n_steps):
            inside[self.pairs[0, inside[self.pairs[1]]]] = True
        return inside.nonzero().flatten()

    def by_section(self) -> list[Tensor]:
        """The nodes of each section."""
        return [(self.sections == section).nonzero().flatten() for section in self.sections.unique()]

    def table(self) -> tuple[Tensor, Tensor]:
        """The neighbours of each node, ``(n, most)``, and whether there is one in that column."""
        seer = self.pairs[1]
        count = torch.bincount(seer, minlength=len(self.x))
        order = torch.argsort(seer, stable=True)
        column = torch.arange(len(seer), device=seer.device) - (count.cumsum(0) - count)[seer[order]]
        shape = (len(self.x), int(count.max()) if len(count) else 0)
        neighbors = torch.zeros(shape, dtype=torch.long, device=seer.device)
        neighbors[seer[order], column] = self.pairs[0, order]
        return neighbors, torch.arange(shape[1], device=seer.device) < count[:, None]


def neighbor_pairs(places: Places, radius_um: float) -> Ints:
    """Pairs of neighbours, both ways round: ``(2, n_pairs)``, the neighbour and the row that sees it.

    Rows of two sections are never neighbours, and no row is its own. Sorted by the row that sees, then the neighbour.
    """
    found = [np.empty((0, 2), dtype=np.intp)]
    n_same = 0
    for section in np.unique(places.sections):
        rows = np.flatnonzero(places.sections == section)
        pairs = cKDTree(places.xy_um[rows]).query_pairs(radius_um, output_type="ndarray")
        n_same += int((places.xy_um[rows[pairs[:, 0]]] == places.xy_um[rows[pairs[:, 1]]]).all(axis=1).sum())
        found.append(rows[pairs])
    if n_same:
        warn(f"{n_same} pairs of rows of one section lie at the same place; are several sections taken for one?")
    half = np.concatenate(found)
    both = np.concatenate([half, half[:, ::-1]])
    return both[np.lexsort((both[:, 0], both[:, 1]))].T
