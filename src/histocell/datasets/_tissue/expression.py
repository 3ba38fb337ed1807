"""Counts of a synthetic section: gene programs of the cell types, seen through sequencing depth and batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histocell.datasets._tissue.cells import CELL_TYPES

MARKERS = {
    "tumour": ("EPCAM", "KRT8", "KRT18", "KRT19", "CDH1", "MUC1", "ERBB2", "ESR1"),
    "fibroblast": ("COL1A1", "COL1A2", "COL3A1", "DCN", "LUM", "FAP", "PDGFRA", "POSTN"),
    "lymphocyte": ("CD3D", "CD3E", "CD2", "IL7R", "MS4A1", "CD79A", "TRAC", "CCL5"),
    "plasma": ("JCHAIN", "MZB1", "IGHG1", "IGKC", "XBP1", "DERL3", "SDC1", "TNFRSF17"),
    "endothelial": ("PECAM1", "VWF", "CDH5", "CLDN5", "KDR", "PLVAP", "EMCN", "ESAM"),
    "myeloid": ("CD68", "CD163", "LYZ", "CD14", "AIF1", "FCER1G", "APOE", "MARCO"),
}
CELL_TOTAL = {"tumour": 180, "fibroblast": 90, "lymphocyte": 60, "plasma": 120, "endothelial": 80, "myeloid": 130}
CAPTURE = 0.25  # share of a cell's molecules that a spot sees


@dataclass(frozen=True)
class Genes:
    """Names of the genes and the mean counts per cell, `rates` (types, genes)."""

    names: list[str]
    rates: np.ndarray


def draw_genes(n_genes: int, *, rng: np.random.Generator) -> Genes:
    """Marker genes, type by type in turn, then genes that differ little between types."""
    markers = [name for row in zip(*MARKERS.values(), strict=True) for name in row][:n_genes]
    owner = np.arange(len(markers)) % len(CELL_TYPES)
    names = markers + [f"GENE{i:03d}" for i in range(1, n_genes - len(markers) + 1)]
    rates = np.exp(rng.normal(0.0, 1.0, n_genes) + rng.normal(0.0, 0.4, (len(CELL_TYPES), n_genes)))
    rates[:, : len(markers)] *= 0.15
    rates[owner, np.arange(len(markers))] = np.exp(rng.normal(1.7, 0.4, len(markers)))
    total = np.array([CELL_TOTAL[name] for name in CELL_TYPES])
    return Genes(names, rates / rates.sum(axis=1, keepdims=True) * total[:, None])


def count_cells(
    codes: np.ndarray, genes: Genes, *, batch_effect: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Raw counts of cells, gamma-Poisson, and the rates behind them; the section has its own depth and gene bias.

    Parameters
    ----------
    codes
        (cells,) type of each cell.
    genes
        Gene programs.
    batch_effect
        Size of the section's depth and gene bias; 0 is none.
    rng
        Generator.

    Returns
    -------
    Counts and rates, both float32 (cells, genes).
    """
    bias = np.exp(batch_effect * (rng.normal(0.0, 0.25) + rng.normal(0.0, 0.25, len(genes.names))))
    size = np.exp(rng.normal(0.0, 0.3, len(codes)))
    rates = ((genes.rates * bias)[codes] * size[:, None]).astype(np.float32)
    return rng.poisson(_overdispersed(rates, 4.0, rng)).astype(np.float32), rates


def count_spots(rates: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Raw counts float32 (spots, genes) from the summed rates of the cells in each spot, with a depth per spot."""
    depth = np.exp(rng.normal(0.0, 0.25, (len(rates), 1)))
    return rng.poisson(_overdispersed(CAPTURE * depth * rates, 15.0, rng)).astype(np.float32)


def _overdispersed(rates: np.ndarray, shape: float, rng: np.random.Generator) -> np.ndarray:
    return rates * rng.standard_gamma(shape, rates.shape, dtype=np.float32) / np.float32(shape)
