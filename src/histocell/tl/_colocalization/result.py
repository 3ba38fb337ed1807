"""The result of a co-localization analysis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import listing, missing_key
from histocell.tables.access import get_table
from histocell.tl._colocalization.options import ACCOUNTS, NULLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histocell.tables.access import Data

    type Floats = NDArray[np.float64]

KEY = "colocalization"
FEW = "of two types the one is the other's complement, which leaves nothing to test, and so do fewer than eight points of other types"


@dataclass(frozen=True, repr=False)
class ColocalizationResult:
    """What :func:`histocell.tl.colocalization` returns with ``inplace=False``.

    Attributes
    ----------
    names
        Of the k variables, such as cell types.
    R
        Bivariate Moran's R of all pairs, shape ``(k, k)``: x in rows, the lagged y in columns.
    expected
        R under the null, shape ``(k, k)``; what is tested is ``R - expected``.
    z, p, p_adj
        Test statistic, p-value and Benjamini-Hochberg adjusted p-value, shape ``(k, k)``.
    n_eff
        Number of independent points that would be as informative, shape ``(k, k)``.
    low, high
        Confidence interval for R, shape ``(k, k)``.
    n_patients
        Replicates in which the pair is defined, shape ``(k, k)``.
    sections
        ``names`` and ``patients`` of the sections; ``R``, ``expected``, ``n_eff`` and ``scale`` of each, shape ``(sections, k, k)``.
    params
        How it was computed.
    local_x, local_y
        Names of the pairs of local R, shape ``(pairs,)``; `None` where it was not asked for.
    local, local_p
        Local R and its p-value, float32 of shape ``(n_obs, pairs)``; `None` where it was not asked for.
    """

    names: NDArray[np.object_]
    R: Floats
    expected: Floats
    z: Floats
    p: Floats
    p_adj: Floats
    n_eff: Floats
    low: Floats
    high: Floats
    n_patients: NDArray[np.int64]
    sections: dict[str, np.ndarray]
    params: dict[str, object]
    local_x: NDArray[np.object_] | None = None
    local_y: NDArray[np.object_] | None = None
    local: NDArray[np.float32] | None = None
    local_p: NDArray[np.float32] | None = None

    def to_uns(self) -> dict[str, object]:
        """What ``hc.tl.colocalization`` writes to ``uns``: arrays by name, ``params`` as JSON; without local R."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["params"] = json.dumps(self.params)
        return {name: value for name, value in values.items() if value is not None and name not in {"local", "local_p"}}

    def __repr__(self) -> str:
        known = np.isfinite(self.sections["R"]).any(axis=(1, 2))
        patients, n_sections = len(set(self.sections["patients"][known])), str(known.sum())
        if not known.all():
            n_sections += f" of {len(known)}"  # the others hold no values
        asked = ", ".join(f"{name}={self.params[name]!r}" for name in ("key", "length_scale_um", "weights", "null"))
        off = ~np.eye(len(self.names), dtype=bool)
        null = str(self.params["null"])
        tested = f"    tested: {NULLS[null]}\n    {_says(null)}"
        if null == "no_preference" and not np.isfinite(self.p[off]).any():
            tested = f"    not tested: {FEW}"
        found = f"    length scale: {self.params['length_scale_source']}\n"
        if "normalization" in self.params:
            found += f"    normalisation of X: {self.params['normalization']}\n"
        shape = "" if self.local is None else f"\n    local: {self.local.shape[0]} x {self.local.shape[1]} pairs"
        level = f"{100 * float(str(self.params['confidence'])):g} %"
        interval = f"over {patients} replicates" if patients > 1 else "within the only replicate, not for another"
        return (
            f"ColocalizationResult of {len(self.names)} variables, {n_sections} sections, {patients} replicates\n"
            f"    names: {listing(self.names)}\n    {asked}\n{found}{tested}\n    low, high: {level} {interval}{shape}"
        )


def _says(null: str) -> str:
    """What p makes of neighbours that are alike."""
    if null in ACCOUNTS:
        return f"p accounts for {ACCOUNTS[null]}, without which most unrelated pairs would be called significant"
    return "p takes neighbouring points for independent, and calls most unrelated pairs of smooth fields significant"


def read_result(
    source: Data | Mapping[str, object] | ColocalizationResult, key: str, table_key: str | None
) -> Mapping[str, object]:
    """A result as ``uns`` holds it: of :func:`histocell.tl.colocalization`, of ``uns``, or of data with one in ``uns[key]``."""
    if isinstance(source, ColocalizationResult):
        return source.to_uns()
    if isinstance(source, Mapping):
        return source
    uns = get_table(source, table_key).uns
    if key not in uns:
        raise missing_key("uns", key, uns.keys(), 'Run hc.tl.colocalization(data, "predicted_abundance") first.')
    return uns[key]
