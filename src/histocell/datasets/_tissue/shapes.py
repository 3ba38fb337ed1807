"""Shapes of vessels, cell bodies and nuclei, and their painting onto the stain planes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.ndimage as ndi

from histocell.datasets._tissue.cells import CELL_TYPES
from histocell.kernels.compiled import njit

# One painted shape: an ellipse (um) that may be bent and lobed, filled with stain. Later shapes cover earlier ones.
COLUMNS = (
    *("x", "y", "long", "short", "angle"),
    "bend",  # 1/um: the long axis follows v = bend * u**2
    "wobble",  # relative amplitude of the lobes of the outline
    *("haematoxylin", "eosin"),  # concentrations inside
    "opacity",
    "rim",  # haematoxylin added along the outline: the nuclear membrane
    "texture",  # relative amplitude of the granules
    "grain",  # um, their size
    "blur",  # um, softness of the outline
)
SHAPE = np.dtype([(name, np.float32) for name in COLUMNS])

# Nuclei, in the order of CELL_TYPES: columns of SHAPE.
CHROMATIN = pd.DataFrame(
    {
        "haematoxylin": [0.36, 0.68, 0.92, 0.82, 0.76, 0.40],
        "rim": [0.32, 0.10, 0.08, 0.12, 0.05, 0.20],
        "texture": [0.24, 0.14, 0.22, 0.27, 0.08, 0.16],
        "grain": [0.9, 0.8, 1.3, 1.6, 0.8, 0.8],
        "wobble": [0.045, 0.04, 0.03, 0.02, 0.03, 0.10],
    },
    index=list(CELL_TYPES),
)

# Bodies of the types that show one, painted in this order. Lengths are multiples: `long` of the nucleus, `short` of `long`.
CYTOPLASM = pd.DataFrame(
    {
        "long": [1.55, 1.95, 1.85, 1.22],
        "long_spread": [0.08, 0.12, 0.0, 0.0],
        "short": [0.88, 0.86, 0.72, 0.95],
        "offset": [0.0, 2.4, 2.7, 0.0],  # um, of the body from its nucleus
        "haematoxylin": [0.115, 0.02, 0.25, 0.13],
        "haematoxylin_spread": [0.015, 0.0, 0.015, 0.0],
        "eosin": [0.25, 0.105, 0.24, 0.16],
        "eosin_spread": [0.03, 0.012, 0.02, 0.0],
        "opacity": [0.85, 0.97, 0.95, 0.8],
        "rim": [0.0, 0.05, 0.0, 0.0],
        "texture": [0.10, 0.55, 0.08, 0.0],
        "grain": [1.2, 2.2, 1.0, 1.0],
        "wobble": [0.08, 0.06, 0.03, 0.0],
        "blur": [1.6, 0.9, 0.8, 0.8],
    },
    index=["tumour", "myeloid", "plasma", "lymphocyte"],
)


def draw_shapes(vessels: np.ndarray, cells: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Vessels, bodies of cells, nuclei and nucleoli, in the order in which they are painted."""
    parts = [_vessels(vessels, rng), _cytoplasm(cells, rng), _nuclei(cells, rng), _nucleoli(cells, rng)]
    return np.concatenate(parts)


def _shapes(n: int, **columns: np.ndarray | float) -> np.ndarray:
    shapes = np.zeros(n, dtype=SHAPE)
    shapes["opacity"], shapes["grain"], shapes["blur"] = 1.0, 1.0, 0.5
    for name, values in columns.items():
        shapes[name] = values
    return shapes


def _vessels(vessels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wall, lumen and red cells of every vessel."""
    x, y, long, short, angle = vessels.T
    n = len(vessels)
    thick = rng.uniform(0.9, 1.6, n) + 0.16 * short
    place = {"x": x, "y": y, "angle": angle, "wobble": 0.12}
    wall = _shapes(n, **place, long=long + thick, short=short + thick, haematoxylin=0.05, eosin=0.33, texture=0.15)
    lumen = _shapes(n, **place, long=long, short=short, eosin=rng.choice([0.0, 0.02, 0.10], n))
    blood = []
    for center_x, center_y, a, b, turn in vessels[rng.random(n) < 0.75]:
        count = rng.poisson(0.6 * a * b / 3.1**2 * rng.uniform(0.2, 1.0))
        r, phi = np.sqrt(rng.uniform(0, 1, count)), rng.uniform(0, 2 * np.pi, count)
        u, v = r * max(a - 2.8, 0.2) * np.cos(phi), r * max(b - 2.8, 0.2) * np.sin(phi)
        cell = _shapes(count, angle=phi, opacity=0.92)
        cell["x"] = center_x + u * np.cos(turn) - v * np.sin(turn)
        cell["y"] = center_y + u * np.sin(turn) + v * np.cos(turn)
        for column, mean, spread in (("long", 3.0, 0.2), ("short", 2.6, 0.3), ("eosin", 0.62, 0.06)):
            cell[column] = rng.normal(mean, spread, count)
        blood.append(cell)
    return np.concatenate([wall, lumen, *blood])


def _cytoplasm(cells: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Cell bodies of the types that show one."""

    def vary(look: pd.Series, column: str, n: int) -> np.ndarray | float:
        spread = look[f"{column}_spread"]
        return rng.normal(look[column], spread, n) if spread else look[column]

    bodies = []
    for name, look in CYTOPLASM.iterrows():
        chosen = cells[cells["type"] == CELL_TYPES.index(str(name))]
        n = len(chosen)
        x, y, long, angle = chosen[["x", "y", "long", "angle"]].to_numpy().T
        long = long * vary(look, "long", n)
        direction = rng.uniform(0, 2 * np.pi, n) if look["offset"] else np.zeros(n)
        along = np.cos(direction), np.sin(direction)
        body = _shapes(
            n,
            x=x + look["offset"] * along[0],
            y=y + look["offset"] * along[1],
            long=long,
            short=long * look["short"],
            angle=direction if name == "plasma" else angle,
            haematoxylin=vary(look, "haematoxylin", n),
            eosin=vary(look, "eosin", n),
            **look[["opacity", "rim", "texture", "grain", "wobble", "blur"]],
        )
        bodies.append(body)
        if name == "plasma":  # the pale zone beside the nucleus
            x, y = x + 4.0 * along[0], y + 4.0 * along[1]
            stain = {"haematoxylin": 0.10, "eosin": 0.17, "opacity": 0.75, "blur": 1.2}
            bodies.append(_shapes(n, x=x, y=y, long=1.7, short=1.7, angle=direction, **stain))
    return np.concatenate(bodies)


def _nuclei(cells: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Nuclei of all cells, each with its own depth of stain."""
    look = CHROMATIN.iloc[cells["type"].to_numpy()]
    columns = {name: cells[name].to_numpy() for name in ("x", "y", "long", "short", "angle", "bend")}
    shapes = _shapes(len(cells), **columns, **{str(name): look[name].to_numpy() for name in CHROMATIN}, eosin=0.11)
    shapes["haematoxylin"] *= np.clip(rng.normal(1.0, 0.1, len(cells)), 0.7, 1.3).astype(np.float32)
    shapes["opacity"] = 0.95
    return shapes


def _nucleoli(cells: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """One or two per tumour nucleus."""
    tumour = cells[cells["type"] == CELL_TYPES.index("tumour")]
    tumour = tumour.loc[tumour.index.repeat(rng.integers(1, 3, len(tumour)))]
    n = len(tumour)
    r, phi = 0.5 * np.sqrt(rng.uniform(0, 1, n)), rng.uniform(0, 2 * np.pi, n)
    reach = r * tumour["short"].to_numpy()
    x, y = tumour["x"] + reach * np.cos(phi), tumour["y"] + reach * np.sin(phi)
    size = np.clip(rng.normal(0.95, 0.2, n), 0.5, 1.5)
    return _shapes(n, x=x, y=y, long=size, short=size, haematoxylin=0.85, eosin=0.22, opacity=0.85)


def draw_granules(rng: np.random.Generator, n: int = 512) -> np.ndarray:
    """A periodic tile of smooth noise with unit variance, 3 px per grain."""
    tile = ndi.gaussian_filter(rng.standard_normal((n, n), dtype=np.float32), 1.2, mode="wrap")
    return tile / tile.std()


@njit(cache=True)
def paint(
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
