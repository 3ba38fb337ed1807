"""Anatomy of a synthetic section: tissue, fat, tumour nests, aggregates, vessels and fibres, in um."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage as ndi
from scipy.spatial import cKDTree

from histocell.datasets._tissue.fields import GRID_UM, cell_index, ramp, sample, smooth_noise, thin_discs


@dataclass(frozen=True)
class Subject:
    """The look that one patient's slides share: the laboratory's stain and the disease.

    `stains` are the unit optical-density vectors (RGB) of haematoxylin and eosin, `strength` multiplies their
    concentrations, `white` is the unstained background. `tumour`, `immune`, `plasma`, `myeloid`, `vascular` and `fat`
    are area fractions of the tissue.
    """

    stains: np.ndarray
    strength: np.ndarray
    white: np.ndarray
    nuclear_scale: float = 1.0
    tumour: float = 0.36
    immune: float = 0.15
    plasma: float = 0.16
    myeloid: float = 0.14
    vascular: float = 0.20
    fat: float = 0.07


FRACTIONS = ("tumour", "immune", "plasma", "myeloid", "vascular", "fat")
TYPICAL = Subject(
    stains=np.array([[0.65, 0.69, 0.32], [0.16, 0.85, 0.50]]),
    strength=np.ones(2),
    white=np.array([243.0, 242.0, 244.0]),
)


def vary_subject(subject: Subject, rng: np.random.Generator, *, spread: float) -> Subject:
    """A subject that differs from `subject` by random amounts in proportion to `spread` (1: between laboratories)."""
    stains = subject.stains + spread * rng.normal(0.0, 0.03, (2, 3))
    return replace(
        subject,
        stains=stains / np.linalg.norm(stains, axis=1, keepdims=True),
        strength=subject.strength * np.exp(spread * rng.normal(0.0, 0.16, 2)),
        white=np.clip(subject.white + spread * (rng.normal(0.0, 3.5) + rng.normal(0.0, 1.2, 3)), 220.0, 252.0),
        nuclear_scale=subject.nuclear_scale * float(np.exp(spread * rng.normal(0.0, 0.03))),
        **{name: float(getattr(subject, name) * np.exp(spread * rng.normal(0.0, 0.2))) for name in FRACTIONS},
    )


@dataclass(frozen=True)
class Anatomy:
    """Compartments of one section on a raster of `GRID_UM`.

    `tissue`, `nest`, `lumen`, `fat` are level sets in um, positive inside. `membrane` is the distance to the nearest
    wall between fat cells. `immune`, `plasma`, `myeloid`, `loose` lie in [0, 1]. `angle` is the direction of the fibres.
    `glands` (x, y, radius) and `vessels` (x, y, long, short, angle of the lumen) are in um and radians.
    """

    side_um: float
    tissue: np.ndarray
    nest: np.ndarray
    lumen: np.ndarray
    fat: np.ndarray
    membrane: np.ndarray
    immune: np.ndarray
    plasma: np.ndarray
    myeloid: np.ndarray
    loose: np.ndarray
    angle: np.ndarray
    glands: np.ndarray
    vessels: np.ndarray


def draw_anatomy(subject: Subject, side_um: float, *, rng: np.random.Generator) -> Anatomy:
    """Lay out tissue, fat, tumour nests with gland lumina, immune aggregates, vessels and fibres.

    Parameters
    ----------
    subject
        Whose section it is; only the area fractions are used.
    side_um
        Side of the square section, um.
    rng
        Generator.
    """

    def noise(scale_um: float) -> np.ndarray:
        return smooth_noise(rng, side_um, scale_um=scale_um)

    def top(field: np.ndarray, fraction: float, *, within: np.ndarray) -> float:
        chosen = field[within]
        return float(np.quantile(chosen, 1 - min(fraction, 1.0))) if chosen.size else np.inf

    def patches(field: np.ndarray, fraction: float, *, within: np.ndarray, soft: float) -> np.ndarray:
        edge = top(field, fraction, within=within)
        return ramp(field, edge - soft, edge + soft)

    n = max(round(side_um / GRID_UM), 1)
    axis = (np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1
    radius = (axis[:, None] ** 4 + axis[None, :] ** 4) ** 0.25
    tissue = (0.96 - radius) * side_um / 2 + 0.035 * side_um * noise(side_um / 5) + 4.0 * noise(30.0) + noise(8.0)
    inside = tissue > 0

    field = noise(160.0)
    fat, membrane = _fat(field, top(field, subject.fat, within=inside), rng, side_um)

    field = noise(75.0) + 0.8 * noise(200.0)
    nest = 45.0 * (field - top(field, subject.tumour, within=inside)) + 2.5 * noise(12.0)
    nest = np.minimum(nest, -fat - 8.0)

    glands = _scatter(rng, side_um, spacing_um=75.0)
    glands = np.column_stack([glands, rng.uniform(7.0, 24.0, len(glands))])
    depth = sample(nest, glands[:, 0], glands[:, 1])
    glands = glands[(depth > 0.7 * glands[:, 2] + 6.0) & (rng.random(len(glands)) < 0.7)]
    lumen = _disc_level(glands, n) + 1.8 * noise(14.0)

    stroma = inside & (nest < 0) & (fat < 0)
    field = noise(85.0)
    immune = patches(field, subject.immune, within=stroma, soft=0.12)
    field = noise(85.0) + 0.5 * field  # plasma cells keep to the neighbourhood of the aggregates
    free = stroma & (immune < 0.5)
    plasma = patches(field, subject.plasma, within=free, soft=0.15) * (1 - immune)
    myeloid = patches(noise(85.0), subject.myeloid, within=free, soft=0.15) * (1 - immune) * (1 - plasma)
    loose = ramp(noise(90.0), -0.3, 1.8)

    angle = _fibre_angle(nest, rng, side_um)
    density = 1 / 8000 + patches(noise(100.0), subject.vascular, within=stroma, soft=0.2) / 260
    vessels = _vessels(density * (tissue > 25) * (nest < -8) * (fat < -12) * (1 - immune), angle, rng, side_um)
    return Anatomy(side_um, tissue, nest, lumen, fat, membrane, immune, plasma, myeloid, loose, angle, glands, vessels)


def _scatter(rng: np.random.Generator, side_um: float, *, spacing_um: float) -> np.ndarray:
    """Points (x, y) of a jittered hexagonal grid that reaches one step beyond the section."""
    rows = np.arange(-1, side_um / (spacing_um * 0.866) + 2)
    cols = np.arange(-1, side_um / spacing_um + 2)
    x = (cols[None, :] + 0.5 * (rows[:, None] % 2)) * spacing_um
    y = np.broadcast_to(rows[:, None] * spacing_um * 0.866, x.shape)
    return np.column_stack([x.ravel(), y.ravel()]) + rng.uniform(-0.3, 0.3, (x.size, 2)) * spacing_um


def _fat(
    field: np.ndarray, threshold: float, rng: np.random.Generator, side_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fat cells where `field` exceeds `threshold`: their level set, and the distance to the wall between them (um).

    A fat cell is what lies nearest to its centre; corners where three meet are rounded.
    """
    n, spacing_um = len(field), 46.0
    centers = _scatter(rng, side_um, spacing_um=spacing_um)
    col, row = cell_index(centers, n).T
    full = field[row, col] > threshold
    mark = np.zeros((n, n), dtype=bool)
    mark[row[full], col[full]] = True
    row, col = np.nonzero(ndi.maximum_filter(mark, size=round(2 * spacing_um / GRID_UM) | 1))
    inside = np.zeros((n, n), dtype=bool)
    wall = np.full((n, n), spacing_um, dtype=np.float32)
    if len(row):
        distance, nearest = cKDTree(centers).query((np.column_stack([col, row]) + 0.5) * GRID_UM, k=3)
        second, third = ((distance[:, k] - distance[:, 0]) / 2 for k in (1, 2))
        wall[row, col] = np.minimum(second, 0.45 * (second + third) - 1.0)
        inside[row, col] = full[nearest[:, 0]]
    outside = ndi.distance_transform_edt(~inside) if inside.any() else np.full((n, n), side_um)
    return np.where(inside, 5.0, -outside * GRID_UM).astype(np.float32), wall


def _disc_level(discs: np.ndarray, n: int, *, reach_um: float = 25.0) -> np.ndarray:
    """Level set (um) of the union of discs (x, y, radius), `-reach_um` far from all of them."""
    level = np.full((n, n), -reach_um, dtype=np.float32)
    axis = (np.arange(n) + 0.5) * GRID_UM
    for x, y, radius in discs:
        low, high = (cell_index(np.array([x, y]) + sign * (radius + reach_um), n) for sign in (-1, 1))
        box = slice(low[1], high[1] + 1), slice(low[0], high[0] + 1)
        np.maximum(level[box], radius - np.hypot(axis[box[0], None] - y, axis[None, box[1]] - x), out=level[box])
    return level


def _fibre_angle(nest: np.ndarray, rng: np.random.Generator, side_um: float) -> np.ndarray:
    """Direction of the stroma fibres: a smooth wave that bends around tumour nests."""
    free = 1.1 * smooth_noise(rng, side_um, scale_um=240.0) + 0.30 * smooth_noise(rng, side_um, scale_um=30.0)
    dy, dx = np.gradient(ndi.gaussian_filter(nest, 6.0))
    tangent = np.arctan2(dx, -dy)
    weight = 1.8 * np.exp(-np.abs(nest) / 25.0)
    # directions have no sign: average their doubled angles
    return 0.5 * np.arctan2(
        np.sin(2 * free) + weight * np.sin(2 * tangent), np.cos(2 * free) + weight * np.cos(2 * tangent)
    )


def _vessels(density: np.ndarray, angle: np.ndarray, rng: np.random.Generator, side_um: float) -> np.ndarray:
    """Lumina (x, y, long, short, angle) drawn from a density per um2, none touching another."""
    n = len(density)
    row, col = np.nonzero(rng.random((n, n)) < density * GRID_UM**2)
    order = rng.permutation(len(row))
    x, y = (col[order] + 0.5) * GRID_UM, (row[order] + 0.5) * GRID_UM
    short = np.where(rng.random(len(x)) < 0.85, rng.uniform(1.6, 4.5, len(x)), rng.uniform(6.0, 15.0, len(x)))
    long = short * rng.uniform(1.2, 3.0, len(x))
    keep = thin_discs(x, y, 0.5 * (long + short) + 4.0, side_um)
    return np.column_stack([x, y, long, short, angle[row[order], col[order]]])[keep]
