"""A synthetic cohort in the size of her2st as HEST holds it: 8 patients, 36 sections, 13,620 spots, 30 cell types."""

from __future__ import annotations

from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

SECTIONS = (6, 6, 6, 6, 3, 3, 3, 3)  # of patients A to H
N_SPOTS = 13_620
N_FEATURES, N_TYPES, N_LATENT = 1536, 30, 10
PITCH_PX, MPP = 400, 0.5
FEATURES, PATIENT, SECTION = "X_synthetic", "patient", "section"


class Tissue(NamedTuple):
    """What all patients have in common.

    Attributes
    ----------
    image
        Weights of the two layers from the latent field to the embedding.
    types
        Weights of the linear, squared and pairwise terms of the latent field in the log abundance.
    level
        Mean log abundance of each type.
    """

    image: tuple[np.ndarray, np.ndarray]
    types: tuple[np.ndarray, np.ndarray, np.ndarray]
    level: np.ndarray


def cohort(
    *, n_spots: int = N_SPOTS, sections: tuple[int, ...] = SECTIONS, n_features: int = N_FEATURES, seed: int = 0
) -> ad.AnnData:
    """Sections of several patients: `obs` patient and section, `obsm` spatial, X_synthetic and cell_abundance.

    A latent field that is smooth in space stands behind both the embedding (through a random two-layer net, with shifts
    of the patient and the section, and noise) and the abundances (nonlinear, above 0, with shifts of the patient).
    """
    rng = np.random.default_rng(seed)
    tissue = _tissue(rng, n_features)
    sizes = _sizes(rng, n_spots, sum(sections))
    parts, start = [], 0
    for patient, n_sections in enumerate(sections):
        name = chr(ord("A") + patient)
        shift = _shift(rng, n_features)
        for number in range(n_sections):
            parts.append(_section(rng, tissue, shift, sizes[start], (name, f"{name}{number + 1}")))
            start += 1
    adata = ad.concat(parts)
    adata.obs[[PATIENT, SECTION]] = adata.obs[[PATIENT, SECTION]].astype("category")
    adata.obs["mpp"] = MPP
    return adata


def _tissue(rng: np.random.Generator, n_features: int) -> Tissue:
    width = 64
    image = (rng.normal(size=(N_LATENT, width)), rng.normal(size=(width, n_features)) / np.sqrt(width))
    linear = rng.normal(size=(N_LATENT, N_TYPES)) * 0.5 / np.sqrt(N_LATENT)
    squared = rng.normal(size=(N_LATENT, N_TYPES)) * 0.5 / np.sqrt(N_LATENT)
    paired = rng.normal(size=(N_LATENT, N_TYPES)) * 0.7 / np.sqrt(N_LATENT)
    return Tissue(image, (linear, squared, paired), rng.normal(size=N_TYPES) - 0.5)


def _shift(rng: np.random.Generator, n_features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a patient: in the latent field, in the embedding and in the log abundances."""
    return rng.normal(size=N_LATENT) * 0.5, rng.normal(size=n_features) * 0.3, rng.normal(size=N_TYPES) * 0.3


def _sizes(rng: np.random.Generator, n_spots: int, n_sections: int) -> np.ndarray:
    """Spots of each section, unequal, `n_spots` together."""
    edges = np.cumsum(rng.uniform(0.6, 1.4, n_sections))
    return np.diff(np.round(edges / edges[-1] * n_spots).astype(int), prepend=0)


def _field(rng: np.random.Generator, xy: np.ndarray) -> np.ndarray:
    """Latent field of a section: waves of random direction and a length of six spots and more, variance 1."""
    n_waves = 40
    waves = rng.normal(size=(N_LATENT, 2, n_waves)) / (2 * PITCH_PX)
    phases = rng.uniform(0, 2 * np.pi, (N_LATENT, 1, n_waves))
    return np.sqrt(2 / n_waves) * np.cos(xy @ waves + phases).sum(axis=2).T


def _section(
    rng: np.random.Generator,
    tissue: Tissue,
    shift: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_spots: int,
    names: tuple[str, str],
) -> ad.AnnData:
    side = int(np.ceil(np.sqrt(n_spots)))
    xy = PITCH_PX * (1.0 + np.column_stack(np.divmod(np.arange(n_spots), side))[:, ::-1])
    latent = _field(rng, xy) + shift[0]
    first, second = tissue.image
    embedding = np.tanh(latent @ first / np.sqrt(N_LATENT)) @ second + shift[1]
    embedding += 0.2 * rng.normal(size=embedding.shape[1]) + 0.4 * rng.normal(size=embedding.shape)
    linear, squared, paired = tissue.types
    log_abundance = tissue.level + shift[2] + latent @ linear + (latent**2 - 1) @ squared
    log_abundance += (latent * np.roll(latent, 1, axis=1)) @ paired
    abundance = np.exp(np.clip(log_abundance, -6, 3)) * rng.gamma(20, 1 / 20, log_abundance.shape)
    index = [f"{names[1]}_{spot}" for spot in range(n_spots)]
    types = [f"type {number:02d}" for number in range(1, N_TYPES + 1)]
    return ad.AnnData(
        obs=pd.DataFrame({PATIENT: names[0], SECTION: names[1]}, index=index),
        obsm={
            "spatial": xy,
            FEATURES: embedding.astype(np.float32),
            "cell_abundance": pd.DataFrame(abundance, index=index, columns=types),
        },
    )
