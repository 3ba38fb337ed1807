"""Cells of a synthetic section: type, position, and size and direction of the nucleus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from histocell.datasets._tissue.fields import GRID_UM, sample, thin_discs

if TYPE_CHECKING:
    from histocell.datasets._tissue.anatomy import Anatomy, Subject

CELL_TYPES = ("tumour", "fibroblast", "lymphocyte", "plasma", "endothelial", "myeloid")

# Per type: half-axes of the nucleus and their log spread, and the radius that a cell keeps free around itself (um).
NUCLEI = pd.DataFrame(
    {
        "long": [5.5, 8.0, 3.2, 3.5, 5.2, 4.6],
        "short": [4.5, 1.6, 2.9, 3.2, 1.15, 3.2],
        "spread": [0.14, 0.16, 0.07, 0.06, 0.14, 0.10],
        "free": [4.8, 3.4, 2.75, 4.6, 2.6, 6.4],
    },
    index=list(CELL_TYPES),
)


def place_cells(anatomy: Anatomy, subject: Subject, *, rng: np.random.Generator) -> pd.DataFrame:
    """Put cells into their compartments, none overlapping another.

    Returns
    -------
    One row per cell: `x`, `y` (um), `type` (code into `CELL_TYPES`), half-axes `long` and `short` of the nucleus (um),
    its `angle` (radians) and `bend` (1 / um).
    """
    a = anatomy
    stroma = (a.nest < -2) & (a.fat < -2) & (a.tissue > 5)
    nest = (a.nest > 4) & (a.lumen < -6) & (a.tissue > 5)
    scarce = stroma * (1 - a.immune)
    per_um2 = {
        "tumour": nest / 35.0,
        "fibroblast": scarce * (1 - 0.8 * a.myeloid) * (1 - 0.6 * a.plasma) * (1.6 - a.loose) / 420.0,
        "lymphocyte": stroma * (a.immune / 14.0 + 1 / 5000.0) + nest / 9000.0,
        "plasma": stroma * (a.plasma / 55.0 + 1 / 12000.0),
        "endothelial": np.zeros_like(a.nest),  # only along vessel walls
        "myeloid": stroma * (a.myeloid / 55.0 + 1 / 15000.0) + nest / 15000.0,
    }
    walls = [_endothelium(a.vessels, rng), _palisade(a.glands, rng)]
    loose = []
    step = 4
    for code, name in enumerate(CELL_TYPES):
        rate = per_um2[name][step // 2 :: step, step // 2 :: step]
        row, col = np.nonzero(rng.poisson(rate * (step * GRID_UM) ** 2))
        x, y = ((v + rng.random(len(v))) * step * GRID_UM for v in (col, row))
        angle = rng.uniform(0, np.pi, len(x))
        if name == "fibroblast":
            angle = sample(a.angle, x, y) + rng.normal(0, 0.2, len(x))
        loose.append(pd.DataFrame({"x": x, "y": y, "type": code, "angle": angle, "bend": 0.0}))
    scattered = pd.concat(loose, ignore_index=True)
    scattered = scattered.iloc[rng.permutation(len(scattered))]
    cells = pd.concat([*walls, scattered], ignore_index=True)
    cells = cells[((cells[["x", "y"]] > 0) & (cells[["x", "y"]] < a.side_um)).all(axis=1)]
    x, y = cells[["x", "y"]].to_numpy().T
    cells = cells[(sample(a.tissue, x, y) > 2) & (sample(a.lumen, x, y) <= -3)]
    cells = cells[(cells["type"] == CELL_TYPES.index("endothelial")) | ~_in_vessel(cells, a.vessels)]

    types = cells["type"].to_numpy()
    long, short, spread, free = NUCLEI.to_numpy()[types].T
    size = np.exp(rng.normal(0, 1, len(cells)) * spread) * subject.nuclear_scale
    squash = np.exp(rng.normal(0, 0.5, len(cells)) * spread)
    cells = cells.assign(long=long * size * squash, short=short * size / squash)
    wavy = np.isin(types, [CELL_TYPES.index("fibroblast"), CELL_TYPES.index("myeloid")])
    cells["bend"] += np.where(wavy, rng.normal(0, 0.016, len(cells)), 0.0)
    keep = thin_discs(cells["x"].to_numpy(), cells["y"].to_numpy(), free * np.sqrt(size), a.side_um)
    return cells[keep].reset_index(drop=True)


def _in_vessel(cells: pd.DataFrame, vessels: np.ndarray, *, margin_um: float = 2.5) -> np.ndarray:
    """Whether a cell lies in the lumen of one of the four nearest vessels, or within `margin_um` of it."""
    if not len(vessels):
        return np.zeros(len(cells), dtype=bool)
    centers = cells[["x", "y"]].to_numpy()
    _, nearest = cKDTree(vessels[:, :2]).query(centers, k=np.arange(1, min(4, len(vessels)) + 1))
    x, y, long, short, angle = vessels[nearest].transpose(2, 0, 1)
    dx, dy = centers[:, :1] - x, centers[:, 1:] - y
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / (long + margin_um)
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / (short + margin_um)
    return (u * u + v * v < 1).any(axis=1)


def _endothelium(vessels: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Flat nuclei along the walls of vessels."""
    rows = []
    for x, y, long, short, angle in vessels:
        n = max(int(2 * np.pi * np.sqrt((long**2 + short**2) / 2) / 13.0), 3)
        t = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(n) + rng.uniform(-0.2, 0.2, n)) / n
        u, v = (long + 1.2) * np.cos(t), (short + 1.2) * np.sin(t)
        tangent = np.arctan2((short + 1.2) * np.cos(t), -(long + 1.2) * np.sin(t))
        curvature = long * short / ((long * np.sin(t)) ** 2 + (short * np.cos(t)) ** 2) ** 1.5
        cos, sin = np.cos(angle), np.sin(angle)
        bend = np.minimum(curvature, 0.2) / 2
        rows.append(np.column_stack([x + cos * u - sin * v, y + sin * u + cos * v, tangent + angle, bend]))
    return _lined_up(rows, "endothelial")


def _palisade(glands: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Tumour nuclei lined up around gland lumina, long axis towards the lumen."""
    rows = []
    for x, y, radius in glands:
        ring = radius + 8.0
        n = max(int(2 * np.pi * ring / 10.5), 4)
        t = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(n) + rng.uniform(-0.15, 0.15, n)) / n
        ring = ring + rng.normal(0, 1.0, n)
        rows.append(np.column_stack([x + ring * np.cos(t), y + ring * np.sin(t), t, np.zeros(n)]))
    return _lined_up(rows, "tumour")


def _lined_up(rows: list[np.ndarray], name: str) -> pd.DataFrame:
    """Cells of one type from rows of x, y, angle and bend."""
    table = np.concatenate([np.empty((0, 4)), *rows])
    return pd.DataFrame(table, columns=["x", "y", "angle", "bend"]).assign(type=CELL_TYPES.index(name))
