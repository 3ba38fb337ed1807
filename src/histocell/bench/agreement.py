"""Agreement of predicted with true co-localization maps, section by section."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import warn
from histocell._core.settings import logger
from histocell.tables.access import is_spatialdata
from histocell.tl import colocalization, evaluate_colocalization

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histocell._core.types import Floats
    from histocell.tables.access import Data
    from histocell.tables.sections import Sections

    type Coordinates = tuple[Floats, float | None]  # (x, y) in um, and the length scale, `None` for the default

# In the table of scores: the measure of `evaluate_colocalization`, and whether a unit diagonal counts.
METRICS = {
    "colocalization_cosine": ("cosine", False),
    "colocalization_correlation": ("pearson", False),
    "colocalization_cosine_with_diagonal": ("cosine", True),
    "colocalization_correlation_with_diagonal": ("pearson", True),
}
LEAST_TYPES = 4  # three partners of each: a correlation of two numbers is 1
_SECTION, _KEY = "section", "map"


def map_coordinates(
    data: Data, sections: Sections, n_types: int, *, wanted: bool | None, length_scale_um: float | None
) -> Coordinates | None:
    """Where the rows lie, for maps of R; `None` where they are not wanted, or cannot be made and need not be.

    Raises
    ------
    ValueError
        When they are asked for, ``wanted=True``, and there are fewer than four cell types, or no coordinates.
    """
    if wanted is False:
        return None
    has_coordinates = keys.SPATIAL in sections.table.obsm or is_spatialdata(data)
    reason = "" if has_coordinates else f'there is no obsm["{keys.SPATIAL}"]'
    if n_types < LEAST_TYPES:
        reason = f"{n_types} targets are fewer than {LEAST_TYPES}"
    if reason and wanted:
        msg = f"co-localization cannot be scored: {reason}"
        raise ValueError(msg)
    if reason:
        logger.info("co-localization is not scored: %s", reason)
        return None
    try:
        mpp = sections.mpp(required=length_scale_um is not None)
        xy = sections.coordinates_px() * (mpp[:, None] if np.isfinite(mpp).all() else 1)
    except ValueError as error:
        if wanted:
            raise
        warn(f"co-localization is not scored: {error}")
        return None
    return xy, length_scale_um


def map_agreement(
    xy: Floats, length_scale_um: float | None, sections: np.ndarray, truth: Floats, predicted: Mapping[str, Floats]
) -> dict[str, pd.DataFrame]:
    """For each model the scores of `METRICS` of each section, in the order of the first row of each.

    Row by row, as `histocell.tl.evaluate_colocalization` does it; NaN where fewer than three cell types vary.

    Parameters
    ----------
    xy
        Coordinates in um, ``(n, 2)``.
    length_scale_um
        Of the weights; `None` for 2.2 pitches.
    sections
        Section of each row.
    truth, predicted
        Abundances, ``(n, n_types)``; rows that are not finite in one of the two are left out of both maps.
    """
    names = list(dict.fromkeys(sections))
    codes = pd.Series(sections).map({name: f"{index}" for index, name in enumerate(names)}).to_numpy()
    out = {}
    for model, values in predicted.items():
        rows = np.isfinite(truth).all(axis=1) & np.isfinite(values).all(axis=1)
        known = set(codes[rows])
        maps = [
            _maps(xy[rows], length_scale_um, codes[rows], each[rows]) if rows.any() else {} for each in (truth, values)
        ]
        scores = [
            _agreement(*(each[f"{index}"] for each in maps)) if f"{index}" in known else {}
            for index in range(len(names))
        ]
        out[model] = pd.DataFrame(scores, index=names, columns=list(METRICS), dtype=float)
    return out


def _maps(xy: Floats, length_scale_um: float | None, sections: np.ndarray, values: Floats) -> dict[str, pd.DataFrame]:
    """R of each section."""
    from anndata import AnnData

    obs = pd.DataFrame({_SECTION: sections}, index=[str(row) for row in range(len(xy))])
    table = AnnData(obs=obs)
    table.obsm[keys.SPATIAL], table.obsm[_KEY] = xy, values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # constant columns: they become NaN and are counted
        result = colocalization(
            table, _KEY, length_scale_um=length_scale_um, null="analytic", library_key=_SECTION, mpp=1.0, inplace=False
        )
    types = [str(index) for index in range(values.shape[1])]
    parts = result.sections  # type: ignore[union-attr]
    return {
        str(name): pd.DataFrame(r, index=types, columns=types)
        for name, r in zip(parts["names"], np.asarray(parts["R"]), strict=True)
    }


def _agreement(truth: pd.DataFrame, prediction: pd.DataFrame) -> dict[str, float]:
    scores = evaluate_colocalization(truth, prediction, n_bootstrap=0).set_index(["measure", "diagonal"])["value"]
    return {metric: float(scores[which]) for metric, which in METRICS.items()}
