"""Results of co-localization as plots read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core.errors import missing_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

DIVERGING = "RdBu_r"
KEY = "colocalization"


@dataclass(frozen=True)
class Result:
    """A result of ``hc.tl.colocalization`` as ``uns`` holds it, with the names of its cell types."""

    stored: Mapping[str, Any]  # arrays, and what sections and params hold
    names: list[str]

    def matrix(self, part: str, names: Sequence[str]) -> NDArray[np.float64]:
        """``R``, ``p_adj`` or another array, for these types in this order."""
        rows = [self.names.index(name) for name in names]
        return np.asarray(self.stored[part], dtype=np.float64)[np.ix_(rows, rows)]

    def effect(self, names: Sequence[str]) -> NDArray[np.float64]:
        """What is tested: R, less what the null expects where it expects something."""
        r = self.matrix("R", names)
        return r - self.matrix("expected", names) if self._expects else r

    @property
    def effect_name(self) -> str:
        """For the legend."""
        if "R_first" in self.stored:
            params = json.loads(str(self.stored.get("params", "{}")))
            return f"R, {params.get('first', 'first')} − {params.get('second', 'second')}"
        return "R − expected" if self._expects else "Moran's R"

    @property
    def _expects(self) -> bool:
        return "expected" in self.stored and bool(np.any(np.nan_to_num(self.stored["expected"])))


def read_result(table: AnnData, key: str) -> Result:
    """``uns[key]``, or the error that says what to run."""
    if key not in table.uns:
        raise missing_key("uns", key, table.uns.keys(), "Run hc.tl.colocalization(data) first.")
    stored = table.uns[key]
    if not hasattr(stored, "keys") or not {"R", "names"} <= set(stored):
        msg = f'uns["{key}"] is not a result of hc.tl.colocalization'
        raise ValueError(msg)
    return Result(stored, [str(name) for name in stored["names"]])
