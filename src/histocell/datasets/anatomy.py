"""Where things lie in a synthetic section: tissue compartments, vessels, fibres and the cells in them, in micrometres."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba as nb
import numpy as np
import pandas as pd
import scipy.ndimage as ndi
import scipy.sparse as sp
from scipy.spatial import cKDTree

CELL_TYPES = ("tumour", "fibroblast", "lymphocyte", "plasma", "endothelial", "myeloid")
GRID_UM = 1.0  # spacing of the raster on which compartments are drawn

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


@dataclass(frozen=True)
class Subject:
    """What makes one patient's slides look alike: the laboratory's stain and the disease.

    `stains` are the unit optical-density vectors (RGB) of haematoxylin and eosin, `strength` multiplies their
    concentrations, `white` is the unstained background. `tumour`, `immune`, `plasma`, `myeloid`, `vascular` and `fat`
    are area fractions of the tissue.
    """

    stains: np.ndarray
    strength: np.ndarray
    white: np.ndarray
    nuclear_scale: float
    tumour: float
    immune: float
    plasma: float
    myeloid: float
    vascular: float
    fat: float


FRACTIONS = ("tumour", "immune", "plasma", "myeloid", "vascular", "fat")
TYPICAL = Subject(
    stains=np.array([[0.60, 0.70, 0.39], [0.16, 0.84, 0.52]]),
    strength=np.ones(2),
    white=np.array([243.0, 242.0, 244.0]),
    nuclear_scale=1.0,
    tumour=0.36,
    immune=0.15,
    plasma=0.16,
    myeloid=0.14,
    vascular=0.20,
    fat=0.07,
)


def vary_subject(subject: Subject, rng: np.random.Generator, *, spread: float) -> Subject:
    """A subject that differs from `subject` by random amounts in proportion to `spread` (1: between laboratories)."""
    stains = subject.stains + spread * rng.normal(0.0, 0.035, (2, 3))
    return replace(
        subject,
        stains=stains / np.linalg.norm(stains, axis=1, keepdims=True),
        strength=subject.strength * np.exp(spread * rng.normal(0.0, 0.16, 2)),
        white=np.clip(subject.white + spread * rng.normal(0.0, 3.0, 3), 225.0, 252.0),
        nuclear_scale=subject.nuclear_scale * float(np.exp(spread * rng.normal(0.0, 0.03))),
        **{name: float(getattr(subject, name) * np.exp(spread * rng.normal(0.0, 0.15))) for name in FRACTIONS},
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

    def at(self, field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values of a raster at positions in um."""
        row, col = ((v / GRID_UM).astype(int).clip(0, n - 1) for v, n in zip((y, x), field.shape, strict=True))
        return field[row, col]


def upsample(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear enlargement of a raster (h, w) to `shape`, pixel centres aligned, float32."""

    def weights(n_out: int, n_in: int) -> sp.csr_array:
        position = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)
        low = np.minimum(position.astype(int), max(n_in - 2, 0))
        share = (position - low).astype(np.float32)
        columns = np.stack([low, np.minimum(low + 1, n_in - 1)], axis=1)
        pointer = np.arange(0, 2 * n_out + 1, 2)
        return sp.csr_array((np.stack([1 - share, share], axis=1).ravel(), columns.ravel(), pointer), (n_out, n_in))

    rows, cols = (weights(o, i) for o, i in zip(shape, field.shape, strict=True))
    return rows @ np.ascontiguousarray((cols @ np.ascontiguousarray(field.T, dtype=np.float32)).T)


def smooth_noise(rng: np.random.Generator, side_um: float, *, scale_um: float) -> np.ndarray:
    """Gaussian random field of unit variance and correlation length `scale_um` on the raster of a section."""
    n = max(round(side_um / GRID_UM), 1)
    coarse = int(np.ceil(4 * side_um / scale_um)) + 1
    if coarse >= n:
        field, sigma = rng.standard_normal((n, n), dtype=np.float32), scale_um / GRID_UM / 2
    else:  # white noise on the grid that the correlation length needs, then enlarged
        field, sigma = rng.standard_normal((coarse, coarse), dtype=np.float32), 2.0
    field = ndi.gaussian_filter(field, sigma, mode="wrap") * np.float32(2 * np.sqrt(np.pi) * max(sigma, 0.3))
    return field if field.shape == (n, n) else upsample(field, (n, n))


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


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

    n = max(round(side_um / GRID_UM), 1)
    axis = (np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1
    radius = (axis[:, None] ** 4 + axis[None, :] ** 4) ** 0.25
    tissue = (0.96 - radius) * side_um / 2 + 0.035 * side_um * noise(side_um / 5) + 4.0 * noise(30.0) + noise(8.0)
    inside = tissue > 0

    field = noise(160.0)
    membrane, owner, centres = _adipocytes(rng, side_um, n)
    full = field[_cell(centres[:, 1], n), _cell(centres[:, 0], n)] > top(field, subject.fat, within=inside)
    fat = np.where(full[owner], 5.0, -ndi.distance_transform_edt(~full[owner]) * GRID_UM).astype(np.float32)

    field = noise(75.0) + 0.8 * noise(200.0)
    nest = 45.0 * (field - top(field, subject.tumour, within=inside)) + 2.5 * noise(12.0)
    nest = np.minimum(nest, -fat - 8.0)

    glands = _scatter(rng, side_um, spacing_um=75.0)
    glands = np.column_stack([glands, rng.uniform(7.0, 24.0, len(glands))])
    depth = nest[_cell(glands[:, 1], n), _cell(glands[:, 0], n)]
    glands = glands[(depth > 0.7 * glands[:, 2] + 6.0) & (rng.random(len(glands)) < 0.7)]
    lumen = np.full((n, n), -50.0, dtype=np.float32)
    if len(glands):
        lumen = _disc_level(glands, n) + 1.8 * noise(14.0)

    stroma = inside & (nest < 0) & (fat < 0)
    field = noise(85.0)
    edge = top(field, subject.immune, within=stroma)
    immune = ramp(field, edge - 0.12, edge + 0.12)
    field = noise(85.0) + 0.5 * field  # plasma cells keep to the neighbourhood of the aggregates
    edge = top(field, subject.plasma, within=stroma & (immune < 0.5))
    plasma = ramp(field, edge - 0.15, edge + 0.15) * (1 - immune)
    field = noise(85.0)
    edge = top(field, subject.myeloid, within=stroma & (immune < 0.5))
    myeloid = ramp(field, edge - 0.15, edge + 0.15) * (1 - immune) * (1 - plasma)
    loose = ramp(noise(90.0), -0.3, 1.8)

    angle = _fibre_angle(nest, rng, side_um)
    field = noise(100.0)
    edge = top(field, subject.vascular, within=stroma)
    density = 1 / 8000 + ramp(field, edge - 0.2, edge + 0.2) / 260
    vessels = _vessels(density * (tissue > 25) * (nest < -8) * (fat < -12) * (1 - immune), angle, rng, side_um)
    return Anatomy(
        side_um, tissue, nest, lumen, fat, membrane, immune, plasma, myeloid, loose, angle, glands, vessels
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
            angle = a.at(a.angle, x, y) + rng.normal(0, 0.2, len(x))
        loose.append(pd.DataFrame({"x": x, "y": y, "type": code, "angle": angle, "bend": 0.0}))
    scattered = pd.concat(loose, ignore_index=True)
    scattered = scattered.iloc[rng.permutation(len(scattered))]
    cells = pd.concat([*walls, scattered], ignore_index=True)
    inside = (cells["x"] > 0) & (cells["x"] < a.side_um) & (cells["y"] > 0) & (cells["y"] < a.side_um)
    cells = cells[inside]
    in_tissue = a.at(a.tissue, cells["x"].to_numpy(), cells["y"].to_numpy()) > 2
    in_lumen = a.at(a.lumen, cells["x"].to_numpy(), cells["y"].to_numpy()) > -3
    cells = cells[in_tissue & ~in_lumen]

    code = cells["type"].to_numpy()
    size = np.exp(rng.normal(0, 1, len(cells)) * NUCLEI["spread"].to_numpy()[code]) * subject.nuclear_scale
    squash = np.exp(rng.normal(0, 0.5, len(cells)) * NUCLEI["spread"].to_numpy()[code])
    cells = cells.assign(
        long=NUCLEI["long"].to_numpy()[code] * size * squash, short=NUCLEI["short"].to_numpy()[code] * size / squash
    )
    wavy = np.isin(code, [CELL_TYPES.index("fibroblast"), CELL_TYPES.index("myeloid")])
    cells["bend"] += np.where(wavy, rng.normal(0, 0.016, len(cells)), 0.0)
    free = NUCLEI["free"].to_numpy()[code] * np.sqrt(size)
    keep = _thin(cells["x"].to_numpy(), cells["y"].to_numpy(), free, a.side_um)
    return cells[keep].reset_index(drop=True)


def _cell(value_um: np.ndarray, n: int) -> np.ndarray:
    return np.clip((value_um / GRID_UM).astype(int), 0, n - 1)


def _scatter(rng: np.random.Generator, side_um: float, *, spacing_um: float) -> np.ndarray:
    """Points (x, y) of a jittered hexagonal grid that reaches one step beyond the section."""
    rows = np.arange(-1, side_um / (spacing_um * 0.866) + 2)
    cols = np.arange(-1, side_um / spacing_um + 2)
    x = (cols[None, :] + 0.5 * (rows[:, None] % 2)) * spacing_um
    y = np.broadcast_to(rows[:, None] * spacing_um * 0.866, x.shape)
    return np.column_stack([x.ravel(), y.ravel()]) + rng.uniform(-0.3, 0.3, (x.size, 2)) * spacing_um


def _raster_points(n: int) -> np.ndarray:
    axis = (np.arange(n) + 0.5) * GRID_UM
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def _adipocytes(rng: np.random.Generator, side_um: float, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance (um) to the nearest wall between fat cells with rounded corners, the cell of each pixel, and the centres."""
    centres = _scatter(rng, side_um, spacing_um=46.0)
    distance, nearest = cKDTree(centres).query(_raster_points(n), k=3)
    second, third = ((distance[:, k] - distance[:, 0]) / 2 for k in (1, 2))
    wall = np.minimum(second, 0.45 * (second + third) - 1.0)
    return wall.reshape(n, n).astype(np.float32), nearest[:, 0].reshape(n, n), centres


def _disc_level(discs: np.ndarray, n: int) -> np.ndarray:
    """Level set (um) of the union of discs (x, y, radius), by the nearest centre."""
    distance, nearest = cKDTree(discs[:, :2]).query(_raster_points(n))
    return (discs[nearest, 2] - distance).reshape(n, n).astype(np.float32)


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
    keep = _thin(x, y, 0.5 * (long + short) + 4.0, side_um)
    return np.column_stack([x, y, long, short, angle[row[order], col[order]]])[keep]


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
        rows.append(
            np.column_stack([x + cos * u - sin * v, y + sin * u + cos * v, tangent + angle, np.minimum(curvature, 0.2) / 2])
        )
    table = np.concatenate(rows) if rows else np.empty((0, 4))
    return pd.DataFrame(table, columns=["x", "y", "angle", "bend"]).assign(type=CELL_TYPES.index("endothelial"))


def _palisade(glands: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Tumour nuclei lined up around gland lumina, long axis towards the lumen."""
    rows = []
    for x, y, radius in glands:
        ring = radius + 8.0
        n = max(int(2 * np.pi * ring / 10.5), 4)
        t = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(n) + rng.uniform(-0.15, 0.15, n)) / n
        ring = ring + rng.normal(0, 1.0, n)
        rows.append(np.column_stack([x + ring * np.cos(t), y + ring * np.sin(t), t, np.zeros(n)]))
    table = np.concatenate(rows) if rows else np.empty((0, 4))
    return pd.DataFrame(table, columns=["x", "y", "angle", "bend"]).assign(type=CELL_TYPES.index("tumour"))


@nb.njit(cache=True)
def _thin(x: np.ndarray, y: np.ndarray, free: np.ndarray, side_um: float) -> np.ndarray:  # pragma: no cover
    """First come, first served: keep a disc when it overlaps none that was kept before."""
    n = len(x)
    keep = np.zeros(n, dtype=np.bool_)
    if n == 0:
        return keep
    bin_um = 2 * free.max()
    m = int(side_um / bin_um) + 1
    head = np.full((m, m), -1, dtype=np.int64)
    link = np.full(n, -1, dtype=np.int64)
    for i in range(n):
        row, col = int(y[i] / bin_um), int(x[i] / bin_um)
        clash = False
        for r in range(max(row - 1, 0), min(row + 2, m)):
            for c in range(max(col - 1, 0), min(col + 2, m)):
                j = head[r, c]
                while j >= 0:
                    reach = free[i] + free[j]
                    if (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 < reach * reach:
                        clash = True
                    j = link[j]
        if not clash:
            keep[i] = True
            link[i] = head[row, col]
            head[row, col] = i
    return keep
