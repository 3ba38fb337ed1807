"""Batches of cells for a network: gathered, scaled, with their neighbours; all other cells stay where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from scipy.spatial import cKDTree

from histocell.models.cells.inputs import fill
from histocell.models.cells.network import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histocell._core.types import Floats, Ints
    from histocell.models.cells.inputs import Modalities
    from histocell.models.places import Places
    from histocell.models.problem import Joined


class Source(NamedTuple):
    """Cells that batches are made of.

    Attributes
    ----------
    X, rows
        Features, and positions of the cells in them.
    modalities, mean, scale
        Their columns and scales.
    xy
        Coordinates of the cells in um from the middle of their section, `None` where they do not matter.
    around
        Numbers of the neighbours of each cell among the cells, -1 for none, ``(n, n_neighbors)``.
    """

    X: np.ndarray | Joined
    rows: Ints
    modalities: Modalities
    mean: Floats
    scale: Floats
    xy: np.ndarray | None
    around: np.ndarray

    @classmethod
    def of(
        cls,
        X: np.ndarray | Joined,
        rows: Ints,
        modalities: Modalities,
        weights: Mapping[str, np.ndarray],
        places: Places | None,
        *,
        n_neighbors: int,
        radius_um: float,
    ) -> Self:
        """The cells at `rows` of features; neighbours are among them, on their section and within the radius."""
        xy = None if places is None else places.centered_um().astype(np.float32)
        around = np.empty((len(rows), 0), dtype=np.int64)
        if places is not None and n_neighbors:
            around = nearest(places, n_neighbors, radius_um)
        return cls(X, rows, modalities, weights["input_mean"], weights["input_scale"], xy, around)

    def batch(self, cells: Ints, device: torch.device) -> Batch:
        """Some of the cells, by their numbers, with their neighbours."""
        group = np.column_stack([cells, self.around[cells]])
        flat = group.ravel()
        known = flat >= 0
        X = self.X[self.rows[np.where(known, flat, 0)]]
        there = self.modalities.present(X) & known[:, None]
        x = fill(X, there, self.modalities, self.mean, self.scale).reshape(*group.shape, -1)
        xy = None if self.xy is None else torch.from_numpy(self.xy[np.where(group >= 0, group, group[:, :1])])
        return Batch(
            torch.from_numpy(x).to(device),
            torch.from_numpy(there.reshape(*group.shape, -1)).to(device),
            None if xy is None else xy.to(device),
        )


def nearest(places: Places, n_neighbors: int, radius_um: float) -> np.ndarray:
    """Numbers of the nearest other rows of the same section within a radius, -1 for none, ``(n, n_neighbors)``."""
    out = np.full((len(places.xy_um), n_neighbors), -1, dtype=np.int64)
    for section in np.unique(places.sections):
        rows = np.flatnonzero(places.sections == section)
        xy = places.xy_um[rows]
        found = cKDTree(xy).query(xy, k=n_neighbors + 1, distance_upper_bound=radius_um)[1].reshape(len(rows), -1)
        own = found == np.arange(len(rows))[:, None]
        own[~own.any(axis=1), -1] = True  # cells at one place: another of them was found in its stead
        others = found[~own].reshape(len(rows), n_neighbors)
        out[rows] = np.where(others < len(rows), rows[np.minimum(others, len(rows) - 1)], -1)
    return out
