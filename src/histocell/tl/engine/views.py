"""Features as they are, standardised within sections, or both side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from histocell._core import keys
from histocell._core.errors import missing_key, warn
from histocell._core.settings import logger
from histocell.models.scaling import FEW_ROWS, standardize_groups
from histocell.tables.access import row_labels
from histocell.tables.sections import ALL, Sections

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell._core.types import Bools
    from histocell.models.base import Model
    from histocell.models.files import JSON

AUTO = "auto"


@dataclass(frozen=True)
class Views:
    """What a model sees of features.

    Attributes
    ----------
    column
        Column of ``obs`` within whose levels they are standardised, `None` where they are not.
    beside_raw
        Whether they stand there as they are, too, before the standardised ones.
    """

    column: str | None = None
    beside_raw: bool = False

    @classmethod
    def choose(cls, standardize_by: str | None, table: AnnData) -> Self:
        """The views that a user asks for; ``"auto"``: both, where it is known on which section a row lies.

        Neither alone is best everywhere: a stain or a scanner that shifts all features of a section misleads the raw ones,
        and the standardised ones do not know a section of tumour from one of fat. Few rows have no mean to speak of.
        """
        if standardize_by != AUTO:
            return cls(standardize_by)
        sections = Sections(table)
        if sections.library_key is None:
            logger.info("features as they are: no column of obs names the sections")
            return cls()
        if (typical := int(np.median([len(rows) for rows in sections.rows]))) < FEW_ROWS:
            logger.info("features as they are: sections have %d rows, too few to standardise within them", typical)
            return cls()
        logger.info("features as they are, and standardised within each %s", sections.library_key)
        return cls(sections.library_key, beside_raw=True)

    @classmethod
    def of(cls, model: Model) -> Self:
        """The views that a model was fitted on."""
        return cls(model.facts.get("standardize_by"), bool(model.facts.get("beside_raw")))

    @property
    def facts(self) -> JSON:
        """What a model remembers."""
        return {"standardize_by": self.column, "beside_raw": self.beside_raw}

    def tell(self, model: Model) -> Model:
        """The model, told how many views of each feature it gets; not fitted."""
        if self.beside_raw and hasattr(model.config, "n_views"):
            return type(model)(**asdict(model.config) | {"n_views": 2})
        return model

    def apply(self, X: np.ndarray, table: AnnData, *, unseen: Bools | None = None) -> np.ndarray:
        """The features that a model sees, from those of all rows of a table.

        Means and standard deviations of a section are not of its `unseen` rows, unless it has no others.

        Raises
        ------
        KeyError
            When the column is not there; a table without one is one section where the column was not chosen by the user.
        """
        if self.column is None:
            return X
        if self.column in table.obs:
            labels = row_labels(table, self.column)
        elif self.beside_raw:
            labels = Sections(table).labels
            if (labels == ALL).all():
                warn(f'no obs["{self.column}"]: all {len(X)} rows are standardised as one section')
        else:
            hint = "The model was fitted on features standardised within its levels."
            raise missing_key("obs", self.column, table.obs.columns, hint)
        counted = np.ones(len(X), dtype=bool) if unseen is None else ~unseen
        if keys.BETWEEN in table.obs:  # a denser grid goes by its spots, so that predictions there stay as they are
            counted &= ~np.asarray(table.obs[keys.BETWEEN], dtype=bool)
        standardized = standardize_groups(X, labels, of=counted)
        return np.hstack([X, standardized]) if self.beside_raw else standardized
