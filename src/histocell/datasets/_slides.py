"""Synthetic slides: features of tiles, and a region that tells the label of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_amount, check_count, check_share, check_switch
from histocell._core.rng import as_rng

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.rng import RNGLike, SeedLike

_MPP, _EDGE_PX = 0.5, 224
_OF_PATIENT = 0.2  # standard deviation of what the tiles of a patient have in common; that of tiles is 1
_HAZARD = 5.0  # of patients with a positive slide, times that of others
_SEEN = 2.0  # censored at most so many mean times of the others


def synthetic_slides(
    n_slides: int = 40,
    *,
    n_patients: int | None = None,
    n_tiles: int = 400,
    n_features: int = 32,
    region: float = 0.06,
    effect: float = 4.0,
    planted: bool = True,
    rng: SeedLike | RNGLike | None = 0,
) -> AnnData:
    """Make tiles of slides of which half are positive: in a region of those, features are shifted.

    Every slide has a region whose features are shifted another way, which says nothing of the label, and an offset of its
    patient. Patients with a positive slide die earlier.

    Parameters
    ----------
    n_slides, n_patients
        Numbers of slides and of patients, every second of whom is positive in all slides; by default each slide is of a
        patient of its own.
    n_tiles, n_features
        Tiles of a slide, and their features.
    region
        Share of the tiles of a slide that lie in its region.
    effect
        Shift of the features there, in standard deviations of a tile.
    planted
        Whether positive slides have their region; without it, the label says nothing.
    rng
        Seed or generator; `None` for other slides each time.

    Returns
    -------
    AnnData, one row per tile: ``obsm["X_tiles"]``, ``obsm["spatial"]``; in ``obs`` ``section``, ``patient``, ``label``
    (``positive`` or ``negative``), ``time``, ``event`` (1 for a death, 0 for the last visit), ``mpp``, and ``planted``, whether
    the tile lies in a region that tells the label.

    Examples
    --------
    >>> import histocell as hc
    >>> tiles = hc.datasets.synthetic_slides(4, n_tiles=100, rng=0)
    >>> tiles.obs.groupby("label")["planted"].sum().to_dict()
    {'negative': 0, 'positive': 12}
    """
    from anndata import AnnData

    for name, value in (("n_slides", n_slides), ("n_tiles", n_tiles), ("n_features", n_features)):
        check_count(value, name, least=2)
    share, shift = check_share(region, "region"), check_amount(effect, "effect")
    is_planted, generator = check_switch(planted, "planted"), as_rng(rng)
    count = n_slides if n_patients is None else check_count(n_patients, "n_patients", least=2)
    directions = np.linalg.qr(generator.normal(size=(n_features, 2)))[0].T * shift
    times, events = _follow_up(count, is_planted, generator)
    offsets = generator.normal(scale=_OF_PATIENT, size=(count, n_features))
    side = int(np.ceil(np.sqrt(n_tiles)))
    grid = np.column_stack([np.arange(n_tiles) % side, np.arange(n_tiles) // side])
    parts, features = [], []
    for slide in range(n_slides):
        patient = slide % count
        positive = patient % 2 == 1
        X = generator.normal(size=(n_tiles, n_features)) + offsets[patient]
        inside, decoy = (_disc(grid, share, generator) for _ in range(2))
        told = inside & positive & is_planted
        X += told[:, None] * directions[0] + (decoy & ~told)[:, None] * directions[1]
        features.append(X.astype(np.float32))
        facts = {
            keys.SECTION: f"S{slide + 1}",
            keys.PATIENT: f"P{patient + 1}",
            "label": "positive" if positive else "negative",
            "time": times[patient],
            "event": events[patient],
            keys.MPP: _MPP,
        }
        parts.append(pd.DataFrame(facts | {"planted": told}, index=[f"S{slide + 1}_{i}" for i in range(n_tiles)]))
    table = AnnData(obs=pd.concat(parts))
    table.obsm["X_tiles"] = np.concatenate(features)
    table.obsm[keys.SPATIAL] = np.tile((grid + 0.5) * _EDGE_PX, (n_slides, 1))
    return table


def _disc(grid: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The tiles nearest to a point of the slide."""
    apart = np.linalg.norm(grid - grid[rng.integers(len(grid))], axis=1)
    inside = np.zeros(len(grid), dtype=bool)
    inside[np.argsort(apart, kind="stable")[: round(share * len(grid))]] = True
    return inside


def _follow_up(n: int, planted: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Time and event of each patient."""
    hazard = np.where((np.arange(n) % 2 == 1) & planted, _HAZARD, 1.0)
    death, visit = rng.exponential(1 / hazard), rng.uniform(0.2, _SEEN, size=n)
    return np.minimum(death, visit).round(3), (death <= visit).astype(int)
