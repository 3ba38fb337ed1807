"""One synthetic section with the true outlines of its nuclei and cells, and molecules in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely

from histocell.datasets._tissue.anatomy import TYPICAL, Anatomy, draw_anatomy, vary_subject
from histocell.datasets._tissue.cells import CELL_TYPES, place_cells
from histocell.datasets._tissue.expression import count_cells, draw_genes
from histocell.datasets._tissue.rendering import render
from histocell.datasets._tissue.shapes import CHROMATIN

_N_VERTICES = 24
_CYTOPLASM_UM = 3.0  # how far a cell reaches beyond its nucleus where no other cell is nearer


@dataclass(frozen=True)
class Section:
    """A section whose coordinates are um from the upper left corner of its image.

    Attributes
    ----------
    image
        uint8 (size_px, size_px, 3).
    mpp
        um per px of it.
    anatomy
        Compartments of the tissue.
    cells
        Their centres and nuclei, as `place_cells` gives them.
    genes, counts
        Names, and raw counts float32 (cells, genes).
    nuclei, outlines
        Polygons of the nuclei as they are drawn, and of the cells around them.
    """

    image: np.ndarray
    mpp: float
    anatomy: Anatomy
    cells: pd.DataFrame
    genes: list[str]
    counts: np.ndarray
    nuclei: np.ndarray
    outlines: np.ndarray

    @property
    def types(self) -> np.ndarray:
        """Name of the type of each cell."""
        return np.array(CELL_TYPES)[self.cells["type"].to_numpy()]


def draw_section(*, size_px: int, mpp: float, n_genes: int, rng: np.random.Generator) -> Section:
    """Draw tissue, its image and its cells."""
    gene_rng, tissue_rng = rng.spawn(2)
    genes = draw_genes(n_genes, rng=gene_rng)
    subject = vary_subject(TYPICAL, tissue_rng, spread=1.0)
    anatomy = draw_anatomy(subject, size_px * mpp, rng=tissue_rng)
    cells = place_cells(anatomy, subject, rng=tissue_rng)
    image = render(anatomy, cells, subject, size_px=size_px, mpp=mpp, rng=tissue_rng)
    counts, _ = count_cells(cells["type"].to_numpy(dtype=np.int64), genes, batch_effect=1.0, rng=tissue_rng)
    nuclei = nucleus_outlines(cells)
    outlines = cell_outlines(cells[["x", "y"]].to_numpy(), nuclei)
    return Section(image, mpp, anatomy, cells, genes.names, counts, nuclei, outlines)


def nucleus_points(cells: pd.DataFrame, angle: np.ndarray, depth: np.ndarray | float = 1.0) -> np.ndarray:
    """Points (cells, k, 2) in um on the outlines of nuclei, or within them: the inverse of how they are painted.

    Parameters
    ----------
    cells
        The nuclei.
    angle
        Directions (cells, k) or (k,) from the centre, radians.
    depth
        1 on the outline, 0 in the centre.
    """
    x, y, long, short, turn, bend = (
        cells[name].to_numpy()[:, None] for name in ("x", "y", "long", "short", "angle", "bend")
    )
    wobble = CHROMATIN["wobble"].to_numpy()[cells["type"].to_numpy()][:, None]
    single = x.astype(np.float32).astype(float), y.astype(np.float32).astype(float)  # the lobes go by these
    two, three = np.sin(12.9 * single[0] + 4.1 * single[1]), np.sin(7.7 * single[1] - 3.3 * single[0])
    c, d = np.cos(angle), np.sin(angle)
    reach = depth * (1 + wobble * (two * (c * c - d * d) + three * c * (4 * c * c - 3)))
    along = reach * c
    across = reach * d / np.where(long > 2.5 * short, 1 + 0.7 * along**2, 1.0)  # spindles taper
    u, v = along * long, across * short + bend * (along * long) ** 2
    return np.stack([x + np.cos(turn) * u - np.sin(turn) * v, y + np.sin(turn) * u + np.cos(turn) * v], axis=-1)


def nucleus_outlines(cells: pd.DataFrame) -> np.ndarray:
    """Polygons of the nuclei in um."""
    return shapely.polygons(nucleus_points(cells, np.arange(_N_VERTICES) * 2 * np.pi / _N_VERTICES))


def cell_outlines(centers: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Each nucleus with a rim of cytoplasm, which ends half-way to the next cell."""
    areas = shapely.voronoi_polygons(shapely.multipoints(centers), ordered=True)
    rim = shapely.intersection(shapely.buffer(nuclei, _CYTOPLASM_UM, quad_segs=3), shapely.get_parts(areas))
    cells = shapely.simplify(shapely.union(rim, nuclei), 0.15)
    parts, owner = shapely.get_parts(cells, return_index=True)
    order = np.lexsort((-shapely.area(parts), owner))
    first = np.flatnonzero(np.diff(owner[order], prepend=-1))
    return shapely.polygons(shapely.get_exterior_ring(parts[order[first]]))


def draw_molecules(section: Section, rng: np.random.Generator) -> pd.DataFrame:
    """A row for each molecule of the counts: `cell`, `gene` (positions) and its place `x`, `y` in um, in the nucleus."""
    cell, gene = np.nonzero(section.counts)
    number = section.counts[cell, gene].astype(np.int64)
    cell, gene = np.repeat(cell, number), np.repeat(gene, number)
    angle = rng.uniform(0, 2 * np.pi, (len(cell), 1))
    depth = 0.97 * np.sqrt(rng.uniform(0, 1, (len(cell), 1)))
    xy = nucleus_points(section.cells.iloc[cell], angle, depth)[:, 0]
    return pd.DataFrame({"cell": cell, "gene": gene, "x": xy[:, 0], "y": xy[:, 1]})
