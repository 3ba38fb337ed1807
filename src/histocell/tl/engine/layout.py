"""Places of the rows of a table, for the models that see neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell.models.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histocell.models.base import Model
    from histocell.tables.sections import Sections


def places_for(models: Iterable[Model], sections: Sections) -> Places | None:
    """The places of all rows in um, `None` where none of the models needs them.

    Raises
    ------
    KeyError
        When there are no coordinates.
    ValueError
        When the resolution is not known, or the coordinates are in another unit than the patches.
    """
    if not any(model.needs_places for model in models):
        return None
    return Places.of(sections.coordinates_um(), sections.labels.astype(str))


def reach_um(models: Iterable[Model], places: Places | None) -> float:
    """How far the widest of the models looks beside a row."""
    return max([0.0, *(model.reach_um(places) for model in models)])
