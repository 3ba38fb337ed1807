"""Sums of colour, texture and nuclei in the grid cells of one block of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell.encoders.morphology.nuclei import SUMS as NUCLEAR_SUMS
from histocell.encoders.morphology.nuclei import nuclear_sums
from histocell.kernels.filters import blur, gaussian_taps, halve
from histocell.kernels.texture import (
    COLOUR_SUMS,
    N_LBP,
    boundary_sums,
    colour_sums,
    detail_sums,
    gradient_sums,
    lbp_sums,
    unmix,
)
from histocell.nuclei.measurements import nuclei_table
from histocell.nuclei.watershed import segment_nuclei

if TYPE_CHECKING:
    from histocell.images.stain.estimate import StainEstimate

MPP = 1.0  # everything is measured at this resolution, um per px
CELL_PX = 8  # side of a grid cell
BLOCK_CELLS = 64  # side of a block
HALO_CELLS = 2  # context around a block, for filters and for the nuclei at its border
COARSE = 4  # grid cells per coarse cell

TISSUE_DENSITY = 0.06
_LEAST_TISSUE = 0.001  # of a block; below, there is dust
EDGES = np.array([[0.1, 0.2, 0.35, 0.5, 0.7, 0.9], [0.1, 0.2, 0.35, 0.5, 0.7, 0.9]], np.float32)
N_BINS = EDGES.shape[1] + 1
TEXTURE_UM = (1, 2, 4)  # levels of the pyramid for details and gradients
LBP_UM = 2
EDGE_UM = (1, 2)
CONTRAST_CELLS = (1, 2, 4)

CHANNELS = (
    *COLOUR_SUMS,
    *(f"h_bin{i}" for i in range(N_BINS)),
    *(f"e_bin{i}" for i in range(N_BINS)),
    *(f"nuclei_{name}" for name in NUCLEAR_SUMS),
    *(f"{stain}_detail{um}" for um in TEXTURE_UM for stain in "he"),
    *(f"{name}{um}" for um in TEXTURE_UM for name in ("gradient", "tensor_cos", "tensor_sin", "tensor")),
    *(f"lbp{LBP_UM}_{i}" for i in range(N_LBP)),
    *(f"edge{um}" for um in EDGE_UM),
    *(f"{name}{k}" for k in CONTRAST_CELLS for name in ("h_cell", "h_cell_square", "h_step", "n_square", "t_square")),
)
INDEX = {name: i for i, name in enumerate(CHANNELS)}


def block_sums(rgb: np.ndarray, stains: StainEstimate) -> np.ndarray:
    """Sums in the grid cells of one block.

    Parameters
    ----------
    rgb
        Shape (s, s, 3), uint8, at 1 um/px, s = (64 + 2 * 2) * 8: the block and its halo.
    stains
        The stains of the slide.

    Returns
    -------
    Shape (64, 64, len(CHANNELS)), float32. All sums are in px of 1 um or in nuclei, per grid cell.
    """
    shape = (rgb.shape[0] // CELL_PX, rgb.shape[1] // CELL_PX)
    maps = unmix(rgb, stains.density, stains.unmixing)
    tissue = blur(maps[2], gaussian_taps(1.0)) > TISSUE_DENSITY
    out = np.zeros((*shape, len(CHANNELS)), np.float32)
    out[..., 0] = CELL_PX**2
    if tissue.mean() > _LEAST_TISSUE:
        _fill(out, rgb, maps, tissue, stains)
    inner = np.ascontiguousarray(out[HALO_CELLS:-HALO_CELLS, HALO_CELLS:-HALO_CELLS])
    _fill_contrast(inner)
    return inner


def _fill(out: np.ndarray, rgb: np.ndarray, maps: np.ndarray, tissue: np.ndarray, stains: StainEstimate) -> None:
    labels, n = segment_nuclei(maps[0], threshold=stains.nuclear_threshold, mpp=MPP)
    nuclei = nuclei_table(labels, n, maps, threshold=stains.nuclear_threshold, mpp=MPP)
    first = INDEX["nuclei_n"]
    out[..., :first] = colour_sums(maps, rgb, stains.density, tissue, labels, EDGES, CELL_PX)
    sums = nuclear_sums(nuclei, shape=out.shape[:2], cell_um=CELL_PX * MPP)
    out[..., first : first + sums.shape[2]] = sums
    _fill_texture(out, maps, tissue)


def _fill_texture(out: np.ndarray, maps: np.ndarray, tissue: np.ndarray) -> None:
    """Texture on three levels of a pyramid; each px of a level stands for um² px of 1 um."""
    h, e, density = maps[:3]
    for um in TEXTURE_UM:
        size = CELL_PX // um
        h_coarse, e_coarse = halve(h), halve(e)
        out[..., INDEX[f"h_detail{um}"]] = detail_sums(h, h_coarse, size) * um**2
        out[..., INDEX[f"e_detail{um}"]] = detail_sums(e, e_coarse, size) * um**2
        first = INDEX[f"gradient{um}"]
        out[..., first : first + 4] = gradient_sums(density, size) * um**2
        if um == LBP_UM:
            first = INDEX[f"lbp{um}_0"]
            out[..., first : first + N_LBP] = lbp_sums(density, tissue, size) * um**2
        if um in EDGE_UM:
            out[..., INDEX[f"edge{um}"]] = boundary_sums(tissue, size) * um
        h, e, density = h_coarse, e_coarse, halve(density)
        tissue = halve(tissue.astype(np.float32)) >= 0.5


def _fill_contrast(out: np.ndarray) -> None:
    """Differences between neighbouring cells of 8, 16 and 32 um: how clustered nuclei and tissue are."""
    totals = np.stack([out[..., INDEX[name]] for name in ("pixels", "tissue", "h", "nuclei_n")])
    for k in CONTRAST_CELLS:
        rows, columns = out.shape[0] // k, out.shape[1] // k
        pixels, tissue, h, nuclei = totals.reshape(4, rows, k, columns, k).sum(axis=(2, 4))
        h = h / pixels
        tissue = tissue / pixels
        step = np.abs(np.diff(h, axis=0, prepend=h[:1])) + np.abs(np.diff(h, axis=1, prepend=h[:, :1]))
        nuclei = nuclei / k**2
        values = np.stack([h, h**2, step, nuclei**2, tissue**2], axis=-1)
        first = INDEX[f"h_cell{k}"]
        out.reshape(rows, k, columns, k, -1)[..., first : first + 5] = values[:, None, :, None]
