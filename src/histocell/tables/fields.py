"""Fields of view: what of its image the features of each row depend on, and which rows share it with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.geometry import overlapping_windows
from histocell._core.keys import DROPPED, TEST, TRAIN, VAL
from histocell.encoders.registry import get_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.types import Bools, Floats
    from histocell.tables.sections import Sections

# A part of a split, and those whose tissue its rows must not show.
_ALL_PX = 1e7  # more than the edge of any slide
_UNSEEN = ((TRAIN, (TEST,)), (VAL, (TEST,)), (TRAIN, (VAL,)))


@dataclass(frozen=True)
class FieldsOfView:
    """Squares of the image around the rows of a table.

    Attributes
    ----------
    sections
        The rows by section; rows of two sections share nothing.
    windows
        Shape ``(n, 4)``: y0, x0, y1, x1 in full-resolution px; NaN where nothing is known.
    size
        Their edge, as a text.
    """

    sections: Sections
    windows: Floats
    size: str

    @classmethod
    def of(cls, sections: Sections, features: Sequence[str] | None = None, *, reach_um: float = 0.0) -> FieldsOfView:
        """The largest of the patches and of what the encoders of the embeddings see, of all embeddings by default.

        A model that sees neighbours up to `reach_um` away sees their tissue, too: two rows then share tissue where the
        fields of any of their neighbours do. With an infinite reach that is the whole section.
        """
        table = sections.table
        names = [key for key in table.obsm if key.startswith("X_")] if features is None else features
        field_um = max([0.0, *(_field_um(table, name) for name in names)])
        edge, mpp = np.zeros(table.n_obs), sections.mpp(required=False)
        centers = np.full((table.n_obs, 2), np.nan)
        if keys.PATCHES in table.obsm:
            patches = np.asarray(table.obsm[keys.PATCHES], dtype=np.float64)
            centers, edge = (patches[:, :2] + patches[:, 2:]) / 2, (patches[:, 2:] - patches[:, :2]).max(axis=1)
            size_um = keys.read_provenance(table, keys.PATCHES).get("size_um", np.nan)
            mpp = np.where(np.isfinite(mpp), mpp, size_um / edge)
        elif keys.SPATIAL in table.obsm:
            centers = np.asarray(table.obsm[keys.SPATIAL], dtype=np.float64)[:, 1::-1]
        edge = np.fmax(edge, np.rint(field_um / mpp))
        if reach_um:
            reach_px = np.full(table.n_obs, _ALL_PX) if np.isinf(reach_um) else np.nan_to_num(reach_um / mpp, nan=0.0)
            edge += np.rint(2 * np.minimum(reach_px, _ALL_PX))
        half = np.where(edge > 0, edge, np.nan)[:, None] / 2
        largest = (
            f"{(edge * mpp).max(initial=0):,.0f} um" if np.isfinite(mpp).all() else f"{edge.max(initial=0):,.0f} px"
        )
        size = f"{largest} wide"
        if reach_um:
            size = "the whole section" if np.isinf(reach_um) else f"{size}, neighbours that the model sees included"
        return cls(sections, np.hstack([centers - half, centers + half]), size)

    def shared(self, rows: Bools, others: Bools) -> Bools:
        """Which of `rows` share pixels with any of the `others` of their section."""
        out = np.zeros(len(rows), dtype=bool)
        known = np.isfinite(self.windows).all(axis=1)
        if not (rows & known).any() or not (others & known).any():
            return out
        for section in self.sections.rows:
            mine, theirs = (section[(which & known)[section]] for which in (rows, others))
            out[mine] = overlapping_windows(self.windows[mine], self.windows[theirs])
        return out

    def drop_shared(self, parts: NDArray[np.object_]) -> NDArray[np.object_]:
        """The parts of a split, with rows for training or validation ``dropped`` that show tissue of held-out rows.

        Held out are the test rows for both, and the validation rows for those for training.
        """
        parts = parts.copy()
        for seen, unseen in _UNSEEN:
            parts[self.shared(parts == seen, np.isin(parts, unseen))] = DROPPED
        return parts


def _field_um(table: AnnData, key: str) -> float:
    """Edge of what the features of ``obsm[key]`` depend on, in um; 0 where nothing is recorded of them."""
    recorded = keys.read_provenance(table, key)
    size_um = float(recorded.get("size_um") or 0)
    if "field_um" in recorded:
        return float(recorded["field_um"])
    try:  # features of a version that did not record it
        return get_spec(str(recorded.get("encoder"))).field_of_view(size_um) if size_um else 0.0
    except KeyError:
        return size_um
