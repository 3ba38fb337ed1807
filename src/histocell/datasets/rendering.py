"""Pixels of a synthetic section: haematoxylin and eosin concentrations, then Beer-Lambert colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba as nb
import numpy as np
import pandas as pd
import scipy.ndimage as ndi

from histocell.datasets.anatomy import CELL_TYPES, GRID_UM, ramp, smooth_noise, upsample

if TYPE_CHECKING:
    from histocell.datasets.anatomy import Anatomy, Subject

# One painted shape: an ellipse (um) that may be bent and lobed, filled with stain. Later shapes cover earlier ones.
SHAPE = np.dtype(
    [
        (name, np.float32)
        for name in (
            "x", "y", "long", "short", "angle",
            "bend",  # 1/um: the long axis follows v = bend * u**2
            "wobble",  # relative amplitude of the lobes of the outline
            "haematoxylin", "eosin",  # concentrations inside
            "opacity",
            "rim",  # haematoxylin added along the outline: the nuclear membrane
            "texture",  # relative amplitude of the granules
            "grain",  # um, their size
            "blur",  # um, softness of the outline
        )
    ]
)  # fmt: skip

# How the nuclei of each type look, in the order of CELL_TYPES.
CHROMATIN = pd.DataFrame(
    {
        "haematoxylin": [0.36, 0.68, 0.92, 0.82, 0.76, 0.40],
        "rim": [0.32, 0.10, 0.08, 0.12, 0.05, 0.20],
        "texture": [0.24, 0.14, 0.20, 0.38, 0.08, 0.16],
        "grain": [0.9, 0.8, 1.3, 1.6, 0.8, 0.8],
        "wobble": [0.045, 0.04, 0.03, 0.02, 0.03, 0.10],
    },
    index=list(CELL_TYPES),
)


def render(
    anatomy: Anatomy, cells: pd.DataFrame, subject: Subject, *, size_px: int, mpp: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw the section as a scanner would see it.

    Parameters
    ----------
    anatomy, cells
        The section and its cells.
    subject
        Gives the colours of the stains.
    size_px
        Side of the image, px.
    mpp
        um per px.
    rng
        Generator.

    Returns
    -------
    uint8 array (size_px, size_px, 3), RGB.
    """
    haematoxylin, eosin = _background(anatomy, size_px, rng)
    granules = _granules(rng)
    shapes = np.concatenate(
        [
            _vessel_walls(anatomy.vessels, rng),
            _cytoplasm(cells, rng),
            _nuclei(cells),
            _nucleoli(cells, rng),
        ]
    )
    _paint(haematoxylin, eosin, shapes, granules, mpp)
    sigma = 0.3 / mpp  # optics
    stains = [
        ndi.gaussian_filter(plane, sigma) * np.float32(strength)
        for plane, strength in zip((haematoxylin, eosin), subject.strength, strict=True)
    ]
    return _scan(stains, subject, rng)


def _background(a: Anatomy, size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Concentrations of both stains before any cell is drawn, float32 (size_px, size_px)."""
    shape = (size_px, size_px)
    n = a.tissue.shape[0]
    seeds = rng.standard_normal((2, n, n), dtype=np.float32)
    seeds[1] = ndi.gaussian_filter(seeds[1], 1.6 / GRID_UM, mode="wrap") * 5.6
    strands, bundles = _streaks(seeds, a.angle.astype(np.float32), round(9 / GRID_UM), round(26 / GRID_UM))
    strands /= strands.std()
    bundles /= bundles.std()
    cloud = smooth_noise(rng, a.side_um, scale_um=45.0)
    speckle = smooth_noise(rng, a.side_um, scale_um=3.0)

    # stroma: collagen bundles with clefts, loosened among immune cells
    pale = np.maximum.reduce([0.55 * a.loose, 0.55 * a.immune, 0.75 * a.myeloid, 0.4 * a.plasma])
    eosin = (0.29 + 0.04 * strands + 0.05 * bundles + 0.02 * cloud) * (1 - 0.55 * pale)
    cleft = ramp(-bundles - 0.35 * strands, 1.15, 1.75) * (1 - 0.7 * np.maximum(a.immune, a.myeloid))
    eosin *= 1 - 0.88 * cleft
    haematoxylin = (0.035 + 0.012 * strands + 0.07 * a.immune + 0.05 * a.plasma) * (1 - 0.9 * cleft)

    # tumour nests: continuous amphophilic cytoplasm, pulled off the stroma here and there
    nest = ramp(a.nest, -0.8, 1.2)
    eosin += nest * (0.16 + 0.02 * cloud + 0.02 * speckle - eosin)
    haematoxylin += nest * (0.08 + 0.012 * cloud + 0.012 * speckle - haematoxylin)
    gap = np.exp(-(((a.nest + 2.2) / 1.3) ** 2)) * ramp(cloud, 0.2, 1.2)
    brim = np.exp(-(((a.lumen + 1.5) / 1.5) ** 2))  # apical border of the glands
    eosin += 0.10 * brim
    secretion = 0.25 * ramp(cloud, 0.3, 1.5) * ramp(a.lumen, 2.0, 5.0) * np.clip(1 + 0.3 * speckle, 0, 2)
    open_ = np.maximum(ramp(a.lumen, -1.0, 1.0) * (1 - secretion), 0.85 * gap)

    # fat cells are empty but for their walls
    wall = np.exp(-((np.maximum(a.membrane, 0) / 0.8) ** 2))
    fat = ramp(a.fat, -1.0, 1.5)
    eosin += fat * (0.20 * wall - eosin)
    haematoxylin += fat * (0.03 * wall - haematoxylin)

    # dense rim of the tissue, uneven thickness of the section
    edge = np.exp(-np.maximum(a.tissue, 0) / 5.0)
    thickness = (1 + 0.07 * smooth_noise(rng, a.side_um, scale_um=130.0)) * (1 - open_) * ramp(a.tissue, -0.7, 0.9)
    eosin = np.maximum(eosin + 0.10 * edge, 0) * thickness
    haematoxylin = np.maximum(haematoxylin + 0.04 * edge, 0) * thickness
    return upsample(haematoxylin, shape), upsample(eosin, shape)


def _shapes(n: int, **columns: np.ndarray | float) -> np.ndarray:
    shapes = np.zeros(n, dtype=SHAPE)
    shapes["opacity"], shapes["grain"], shapes["blur"] = 1.0, 1.0, 0.5
    for name, values in columns.items():
        shapes[name] = values
    return shapes


def _vessel_walls(vessels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wall, lumen and red cells of every vessel."""
    x, y, long, short, angle = vessels.T
    n = len(vessels)
    thick = rng.uniform(0.9, 1.6, n) + 0.16 * short
    wall = _shapes(n, x=x, y=y, long=long + thick, short=short + thick, angle=angle, haematoxylin=0.05, eosin=0.33,
                   texture=0.15, wobble=0.12)  # fmt: skip
    lumen = _shapes(n, x=x, y=y, long=long, short=short, angle=angle, eosin=rng.choice([0.0, 0.02, 0.10], n),
                    wobble=0.12)
    blood = []
    for vx, vy, a, b, t in vessels[rng.random(n) < 0.75]:
        count = rng.poisson(0.6 * a * b / 3.1**2 * rng.uniform(0.2, 1.0))
        r, phi = np.sqrt(rng.uniform(0, 1, count)), rng.uniform(0, 2 * np.pi, count)
        u, v = r * max(a - 2.8, 0.2) * np.cos(phi), r * max(b - 2.8, 0.2) * np.sin(phi)
        cx, cy = vx + u * np.cos(t) - v * np.sin(t), vy + u * np.sin(t) + v * np.cos(t)
        blood.append(_shapes(count, x=cx, y=cy, long=rng.normal(3.0, 0.2, count), short=rng.normal(2.6, 0.3, count),
                             angle=phi, eosin=rng.normal(0.62, 0.06, count), opacity=0.92))  # fmt: skip
    return np.concatenate([wall, lumen, *blood])


def _cytoplasm(cells: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Cell bodies of the types that show one."""

    def of(name: str) -> tuple[int, dict[str, np.ndarray]]:
        chosen = cells[cells["type"] == CELL_TYPES.index(name)]
        return len(chosen), {column: chosen[column].to_numpy() for column in ("x", "y", "long", "angle")}

    n, body = of("tumour")
    body["long"] = body["long"] * rng.normal(1.55, 0.08, n)
    tumour = _shapes(n, **body, short=body["long"] * 0.88, haematoxylin=rng.normal(0.115, 0.015, n),
                     eosin=rng.normal(0.25, 0.03, n), opacity=0.85, texture=0.10, grain=1.2, wobble=0.08, blur=1.6)  # fmt: skip

    n, body = of("myeloid")
    body["long"] = body["long"] * rng.normal(1.95, 0.12, n)
    shift = rng.uniform(0, 2 * np.pi, n)
    body["x"] = body["x"] + 2.4 * np.cos(shift)
    body["y"] = body["y"] + 2.4 * np.sin(shift)
    myeloid = _shapes(n, **body, short=body["long"] * 0.86, haematoxylin=0.02, eosin=rng.normal(0.105, 0.012, n),
                      opacity=0.97, rim=0.05, texture=0.55, grain=2.2, wobble=0.06, blur=0.9)  # fmt: skip

    n, body = of("plasma")
    off = rng.uniform(0, 2 * np.pi, n)
    cx, cy = body["x"], body["y"]
    body |= {"x": cx + 2.7 * np.cos(off), "y": cy + 2.7 * np.sin(off), "angle": off, "long": body["long"] * 1.85}
    plasma = _shapes(n, **body, short=body["long"] * 0.72, haematoxylin=rng.normal(0.22, 0.015, n),
                     eosin=rng.normal(0.24, 0.02, n), opacity=0.95, texture=0.08, wobble=0.03, blur=0.8)  # fmt: skip
    hof = _shapes(n, x=cx + 4.0 * np.cos(off), y=cy + 4.0 * np.sin(off), long=1.7, short=1.7, angle=off,
                  haematoxylin=0.10, eosin=0.17, opacity=0.75, blur=1.2)  # fmt: skip

    n, body = of("lymphocyte")
    body["long"] = body["long"] * 1.22
    lymphocyte = _shapes(n, **body, short=body["long"] * 0.95, haematoxylin=0.13, eosin=0.16, opacity=0.8, blur=0.8)
    return np.concatenate([tumour, myeloid, plasma, hof, lymphocyte])


def _nuclei(cells: pd.DataFrame) -> np.ndarray:
    look = CHROMATIN.iloc[cells["type"].to_numpy()]
    columns = {name: cells[name].to_numpy() for name in ("x", "y", "long", "short", "angle", "bend")}
    shapes = _shapes(len(cells), **columns, **{name: look[name].to_numpy() for name in CHROMATIN}, eosin=0.11)
    # cells differ in depth of stain: a hash of the position keeps this free of the generator
    depth = 1 + 0.13 * np.sin(37.0 * columns["x"] + 91.0 * columns["y"])
    shapes["haematoxylin"] *= depth.astype(np.float32)
    shapes["opacity"] = 0.95
    return shapes


def _nucleoli(cells: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """One or two per tumour nucleus."""
    tumour = cells[cells["type"] == CELL_TYPES.index("tumour")]
    tumour = tumour.loc[tumour.index.repeat(rng.integers(1, 3, len(tumour)))]
    n = len(tumour)
    r, phi = 0.5 * np.sqrt(rng.uniform(0, 1, n)), rng.uniform(0, 2 * np.pi, n)
    reach = r * tumour["short"].to_numpy()
    size = np.clip(rng.normal(0.95, 0.2, n), 0.5, 1.5)
    return _shapes(n, x=tumour["x"] + reach * np.cos(phi), y=tumour["y"] + reach * np.sin(phi), long=size, short=size,
                   haematoxylin=0.85, eosin=0.22, opacity=0.85)  # fmt: skip


def _granules(rng: np.random.Generator, n: int = 512) -> np.ndarray:
    """A periodic tile of smooth noise with unit variance, 3 px per grain."""
    tile = ndi.gaussian_filter(rng.standard_normal((n, n), dtype=np.float32), 1.2, mode="wrap")
    return tile / tile.std()


def _scan(stains: list[np.ndarray], subject: Subject, rng: np.random.Generator) -> np.ndarray:
    """Transmitted light, ``white * 10**-(concentrations @ stains)``, with the noise of a camera, as uint8."""
    image = np.empty((*stains[0].shape, 3), dtype=np.uint8)
    grey = rng.standard_normal(stains[0].shape, dtype=np.float32)
    for channel in range(3):
        density = sum(np.float32(-np.log(10) * v[channel]) * c for v, c in zip(subject.stains, stains, strict=True))
        light = np.exp(density) * np.float32(subject.white[channel])
        light += 1.4 * grey + 1.2 * rng.standard_normal(light.shape, dtype=np.float32)
        image[..., channel] = np.clip(light + 0.5, 0, 255).astype(np.uint8)
    return image


@nb.njit(cache=True)
def _streaks(
    seeds: np.ndarray, angle: np.ndarray, short: int, long: int
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover
    """Line integral convolution: average two noise images along the fibres, over `short` and `long` px each way."""
    h, w = angle.shape
    cos, sin = np.cos(angle), np.sin(angle)
    out = np.empty_like(seeds)
    for i in range(h):
        for j in range(w):
            first, second = seeds[0, i, j], seeds[1, i, j]
            for sign in (-1.0, 1.0):
                y, x = i + 0.5, j + 0.5
                r, c = i, j
                dy, dx = sign * sin[i, j], sign * cos[i, j]
                for step in range(long):
                    y += dy
                    x += dx
                    r, c = int(y), int(x)
                    if y < 0 or x < 0 or r >= h or c >= w:
                        break
                    if step < short:
                        first += seeds[0, r, c]
                    second += seeds[1, r, c]
                    # a direction has two senses: keep going the same way
                    if cos[r, c] * dx + sin[r, c] * dy < 0:
                        dy, dx = -sin[r, c], -cos[r, c]
                    else:
                        dy, dx = sin[r, c], cos[r, c]
            out[0, i, j], out[1, i, j] = first, second
    return out[0], out[1]


@nb.njit(cache=True)
def _paint(
    haematoxylin: np.ndarray, eosin: np.ndarray, shapes: np.ndarray, granules: np.ndarray, mpp: float
) -> None:  # pragma: no cover
    """Lay the shapes over both stain planes, in order, in place."""
    h, w = eosin.shape
    n = granules.shape[0]
    for k in range(len(shapes)):
        s = shapes[k]
        cos, sin = np.cos(s.angle), np.sin(s.angle)
        long, short = max(s.long, 0.3), max(s.short, 0.3)
        blur = max(s.blur, 0.7 * mpp)
        two, three = np.sin(12.9 * s.x + 4.1 * s.y), np.sin(7.7 * s.y - 3.3 * s.x)  # lobes differ from cell to cell
        shift = int(abs(53.0 * s.x + 97.0 * s.y))
        reach = max(long, short) * (1 + 2 * s.wobble) + abs(s.bend) * long * long + blur
        top, bottom = max(int((s.y - reach) / mpp), 0), min(int((s.y + reach) / mpp) + 2, h)
        left, right = max(int((s.x - reach) / mpp), 0), min(int((s.x + reach) / mpp) + 2, w)
        for i in range(top, bottom):
            dy = (i + 0.5) * mpp - s.y
            for j in range(left, right):
                dx = (j + 0.5) * mpp - s.x
                u = (cos * dx + sin * dy) / long
                v = (cos * dy - sin * dx - s.bend * (u * long) ** 2) / short
                if long > 2.5 * short:  # spindles taper
                    v *= 1 + 0.7 * u * u
                rho = np.sqrt(u * u + v * v) + 1e-6
                c, d = u / rho, v / rho
                outline = 1 + s.wobble * (two * (c * c - d * d) + three * c * (4 * c * c - 3))
                depth = (1 - rho / outline) * short  # about um below the outline
                cover = min(max(depth / blur + 0.5, 0.0), 1.0) * s.opacity
                if cover <= 0:
                    continue
                grain = granules[int(3 * i * mpp / s.grain + shift) % n, int(3 * j * mpp / s.grain + shift // n) % n]
                relief = max(1 + s.texture * grain, 0.1)
                edge = s.rim * np.exp(-((depth / 0.55) ** 2))
                haematoxylin[i, j] += cover * (s.haematoxylin * relief + edge - haematoxylin[i, j])
                eosin[i, j] += cover * (s.eosin * relief - eosin[i, j])
