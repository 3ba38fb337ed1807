"""The result of a check of the alignment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from histocell._core.types import Floats
    from histocell.nuclei.alignment.check import Check
    from histocell.tables.placed_nuclei import PlacedNuclei

N_TRIED = 10  # maps that are kept of those that were tried


@dataclass(frozen=True, repr=False)
class AlignmentResult:
    """What :func:`histocell.pp.check_alignment` returns with ``inplace=False``.

    Attributes
    ----------
    sections
        One row for each section: ``section``, ``verdict``, ``says`` (in a sentence), ``n_nuclei``, ``on_tissue`` (share of them, as they
        are); ``effect``, ``p`` and ``n_shifts`` of the nuclei as they are; ``found`` (the map that puts them where they belong), its
        ``z`` and ``p_found``; what is to be done after that map: ``offset_x_um``, ``offset_y_um`` with ``se_x_um``, ``se_y_um``,
        ``rotation`` (degrees, x towards y), ``scale``, and ``largest_um``, which 95 % of the displacements stay below;
        ``factor`` of map and scale together; ``tolerance_um``, ``radius_um``, ``mpp``; ``stains_estimated``, whether the image
        looks like haematoxylin and eosin.
    matrix
        Shape ``(sections, 3, 3)``: (x, y) in px as the coordinates say, to where the nuclei belong; NaN where that is unknown.
    tried
        The best maps of each section: ``section``, ``map``, ``z``, ``offset_x_um``, ``offset_y_um``.
    profile
        ``section``, ``axis``, ``shift_um``, ``effect``: contrast under shifted copies along x and along y through the best shift.
    params
        How it was computed.
    """

    sections: pd.DataFrame
    matrix: Floats
    tried: pd.DataFrame
    profile: pd.DataFrame
    params: dict[str, object]

    def to_uns(self) -> dict[str, object]:
        """What ``hc.pp.check_alignment`` writes to ``uns``: data frames, an array, and ``params`` as JSON."""
        return {
            "sections": self.sections,
            "matrix": self.matrix,
            "tried": self.tried,
            "profile": self.profile,
            "params": json.dumps(self.params),
        }

    def __repr__(self) -> str:
        lines = (f"    {row.section}: {row.says}" for row in self.sections.itertuples())
        return "\n".join([f"AlignmentResult of {len(self.sections)} sections", *lines])


def collect(
    placed: list[PlacedNuclei], checks: list[Check], tolerances: list[float], params: dict[str, object]
) -> AlignmentResult:
    """One result of the checks of all sections."""
    rows = [_row(*each) for each in zip(placed, checks, tolerances, strict=True)]
    tried = [
        {
            "section": one.section,
            "map": hypothesis.name,
            "z": peak.z,
            "offset_x_um": peak.offset_um[0],
            "offset_y_um": peak.offset_um[1],
        }
        for one, check in zip(placed, checks, strict=True)
        for hypothesis, peak in check.tried[:N_TRIED]
    ]
    columns = ["section", "map", "z", "offset_x_um", "offset_y_um"]
    profiles = [_profile(one.section, check) for one, check in zip(placed, checks, strict=True)]
    return AlignmentResult(
        pd.DataFrame(rows),
        np.stack([check.matrix for check in checks]),
        pd.DataFrame(tried, columns=columns),
        pd.concat(profiles, ignore_index=True),
        params,
    )


def _row(placed: PlacedNuclei, check: Check, tolerance_um: float) -> dict[str, object]:
    left = check.residual
    nan = np.full(2, np.nan)
    (x, y), (se_x, se_y) = (nan, nan) if left is None else (left.offset_um, left.se_um)
    return {
        "section": placed.section,
        "verdict": check.verdict,
        "says": says(placed, check),
        "n_nuclei": len(placed.xy_px),
        "on_tissue": check.here.on_tissue,
        "effect": check.here.effect,
        "p": check.here.p,
        "n_shifts": check.here.n_shifts,
        "found": check.found,
        "z": check.z,
        "p_found": check.p_found,
        "offset_x_um": x,
        "offset_y_um": y,
        "se_x_um": se_x,
        "se_y_um": se_y,
        "rotation": np.nan if left is None else left.rotation,
        "scale": np.nan if left is None else left.scale,
        "largest_um": np.nan if left is None else left.largest_um,
        "factor": check.factor,
        "tolerance_um": tolerance_um,
        "radius_um": placed.radius_um,
        "mpp": placed.mpp,
        "stains_estimated": check.here.stains_estimated,
    }


def says(placed: PlacedNuclei, check: Check) -> str:
    """The verdict in a sentence."""
    here = f"effect {check.here.effect:.2f}, p = {check.here.p:.2g} against {check.here.n_shifts} shifted copies, n = {len(placed.xy_px)}"
    left = check.residual
    if left is None:
        return f"unrelated: {_why(placed, check)}"
    x, y = left.offset_um
    move = f"x {x:+.1f}, y {y:+.1f} um (standard error {left.se_um.max():.2f})"
    if check.verdict == "fits":
        return f"fits ({here}); what is left is {move}"
    if check.verdict == "shifted":
        return f"shifted: nuclei must move by {move} ({here})"
    if check.verdict == "wrong pixel size":
        return f"wrong pixel size: coordinates must be multiplied by {check.factor:.4g}; then nuclei must move by {move} (z = {check.z:.0f})"
    if check.found == "as it is":
        return f"rotated: nuclei must be turned by {left.rotation:+.2f} degrees and their middle moved by {move} (z = {check.z:.0f})"
    return f"{check.verdict}: {check.found} and moved by {move}, the nuclei lie on the image (z = {check.z:.0f})"


def _why(placed: PlacedNuclei, check: Check) -> str:
    """The reason why no map was found."""
    size = np.array(placed.image.shape[::-1])
    inside = ((placed.xy_px >= 0) & (placed.xy_px < size)).all(axis=1)
    n = len(inside)
    if not inside.any():
        low, high = placed.xy_px.min(axis=0), placed.xy_px.max(axis=0)
        return (
            f"none of {n} nuclei lies on the image of {size[0]} x {size[1]} px; they span x {low[0]:.0f} to {high[0]:.0f}, y "
            f"{low[1]:.0f} to {high[1]:.0f} px"
        )
    if check.here.on_tissue == 0:
        return f"there is no tissue under the {inside.sum()} of {n} nuclei that lie on the image"
    if check.here.brighter:
        return f"the image is brighter under the {n} nuclei than around them, as in fluorescence; an H&E image is darker there"
    return (
        f"no map puts the {n} nuclei on dark places (effect as they are {check.here.effect:.2f}, p = {check.here.p:.2g}; the best of all maps "
        f"has z = {check.z:.1f}, p = {check.p_found:.2g})"
    )


def _profile(section: str, check: Check) -> pd.DataFrame:
    """Contrast under shifted copies, less its mean over all shifts, along x and y through the best shift."""
    effect = check.profile.effect
    half = effect.shape[0] // 2
    peak = check.profile.peak()
    row = column = half
    if peak is not None and check.found:
        column, row = (int(np.clip(round(each / check.profile.step) + half, 0, 2 * half)) for each in peak.offset_um)
    known = effect[np.isfinite(effect)]
    effect = effect - (known.mean() if len(known) else 0.0)
    shifts = (np.arange(2 * half + 1) - half) * check.profile.step
    lines = {"x": effect[row], "y": effect[:, column]}
    return pd.concat(
        [
            pd.DataFrame({"section": section, "axis": axis, "shift_um": shifts, "effect": line})
            for axis, line in lines.items()
        ]
    )
