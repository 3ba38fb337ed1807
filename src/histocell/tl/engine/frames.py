"""Targets and predictions as data frames in ``obsm``, one column per target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing
from histocell.tables.access import get_obsm
from histocell.tl.engine.task import Values

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell.tl.engine.task import Slots


@dataclass(frozen=True)
class Frames:
    """Reads and writes numbers as a data frame, or a plain array, in ``obsm``.

    Attributes
    ----------
    hint
        What to do where the slot is missing.
    """

    hint: str = ""

    def read(self, table: AnnData, key: str) -> Values:
        """The numbers of ``obsm[key]``, with names that can be written."""
        frame = get_obsm(table, key, self.hint)
        if not isinstance(frame, pd.DataFrame):
            array = np.asarray(frame)
            frame = pd.DataFrame(array, columns=[f"{key}_{i}" for i in range(array.shape[1])])
        if frame.shape[1] == 0 or not all(np.issubdtype(dtype, np.number) for dtype in frame.dtypes):
            msg = f'obsm["{key}"] must hold numbers, one column per target; it has {listing(frame.dtypes)}'
            raise ValueError(msg)
        names, renamed = keys.safe_names(frame.columns, quiet=True)
        return Values(frame.to_numpy(dtype=np.float64), names, renamed)

    def slots(self, key: str, values: Values, index: pd.Index) -> Slots:
        """One data frame in ``obsm``."""
        return {("obsm", key): pd.DataFrame(values.array, index=index, columns=values.names)}
