"""Tables of spot positions: their numbers, and the resolution that the printed grid gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core.errors import warn
from histocell._core.geometry import check_mpp, mpp_from_pitch, spot_pitch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def numbers(table: pd.DataFrame, columns: Sequence[str], path: Path, what: str = "spot") -> NDArray[np.float64]:
    """Columns of a table (n, k) as finite numbers; a `ValueError` that names the file, the row and what stands there."""
    values = table[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        more = f"; {len(wrong)} values are no numbers" if len(wrong) > 1 else ""
        msg = (
            f"{path}: {columns[column]} of {what} {table.index[row]} is {table[columns[column]].iloc[row]}, not a "
            f"number{more}. The file may be damaged"
        )
        raise ValueError(msg)
    return values


def grid_mpp(xy: NDArray[np.float64], grid_um: NDArray[np.float64], name: str) -> float:
    """Micrometres per px from the place of each spot in the printed grid.

    Fits an affine map from the grid (k, 2; um) to px by least squares, which averages over all spots where the distance
    to the nearest neighbour would be biased by their jitter. Falls back to that distance where the spots are too few.
    Warns where spots do not lie where the grid has them; `name` is what their section is called.
    """
    centred = grid_um - grid_um.mean(axis=0)
    if len(xy) < 4 or np.linalg.matrix_rank(centred) < 2:
        return mpp_from_pitch(xy, spot_pitch(grid_um))
    moved = xy - xy.mean(axis=0)
    matrix, *_ = np.linalg.lstsq(centred, moved, rcond=None)
    area = abs(np.linalg.det(matrix))  # px per um, squared
    mpp = check_mpp(1 / np.sqrt(area) if area > 0 else np.inf, source=f"the grid of spots of {name}")
    away = np.linalg.norm(moved - centred @ matrix, axis=1) * mpp > spot_pitch(grid_um) / 2
    if away.any():
        warn(
            f"{away.sum()} of {len(xy)} spots of {name} lie more than half a spot distance from their place in the grid; "
            "look for errors in the table of positions"
        )
    return mpp
