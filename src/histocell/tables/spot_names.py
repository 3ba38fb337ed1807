"""Names of spots, barcodes or places in a grid with a section around them, and which names mean the same spot."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from histocell._core.errors import listing, warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from histocell._core.types import Ints

# Which spot of a slide it is, and for 10x the well behind it; R writes .1 for -1 and X10x13 for 10x13.
_SPOTS = (
    re.compile(r"(?<![A-Za-z0-9])([ACGTN]{12,}|s_\d{3}um_\d{5}_\d{5})(?:[-.](\d+))?(?![A-Za-z0-9])"),
    re.compile(r"(?<![A-Za-z0-9])X?(\d+x\d+)()(?![A-Za-z0-9])"),
)
_AROUND = "-_./: "
_FEW = 0.1  # a smaller share of matches than this is an accident


class SpotName(NamedTuple):
    """A name of a spot in its parts: ``C2_AAACAAGTATCTCCCA-1`` is spot ``AAAC...``, well ``1``, section ``C2``."""

    spot: str
    well: str
    section: str | None
    around: str  # what else stands around the spot


def parse_name(name: str, sections: Sequence[str] = ()) -> SpotName:
    """The parts of a name; a name without barcode and place in a grid is a spot as a whole, its section apart."""
    for pattern in _SPOTS:
        if found := pattern.search(name):
            parts = [part for text in (name[: found.start()], name[found.end() :]) if (part := text.strip(_AROUND))]
            section = next((part for part in parts if part in sections), None)
            around = " ".join(part for part in parts if part != section)
            return SpotName(found[1], found[2] or "", section, around)
    for section in sorted(sections, key=len, reverse=True):
        rest = name.removeprefix(section) if name.startswith(section) else name.removesuffix(section)
        if rest != (spot := rest.strip(_AROUND)):
            return SpotName(spot, "", section, "")
    return SpotName(name, "", None, "")


def match_spots(
    names: Iterable[str],
    labels: Sequence[str],
    others: Iterable[str],
    *,
    other_labels: Sequence[str] | None = None,
    section: str | None = None,
) -> Ints:
    """Position in `others` of the spot of each name, -1 where there is none.

    Names match by their spot, with or without a well and a section around it. What they say of their section must agree,
    and of several spots that fit the one with the most similar name is meant.

    Parameters
    ----------
    names, labels
        Names of the rows, and the section of each.
    others, other_labels
        Names in which they are looked for, and the section of each where it is known.
    section
        The section that `others` are of; by default what their names say.

    Raises
    ------
    ValueError
        When hardly any name matches, or one matches several.
    """
    sections = list(dict.fromkeys(labels))
    rows, source = _parsed(names, sections), _parsed(others, sections)
    misread = rows["name"][rows["section"].notna() & (rows["section"] != pd.Series(list(labels), dtype=object))]
    source.loc[source["name"].isin(misread), "section"] = None  # cell_2 of section 1, where there is a section 2
    rows["section"] = list(labels)
    if other_labels is not None:
        known = pd.Series(list(other_labels), dtype=object)
        source["section"] = known.where(known.isin(sections), None)
        source["around"] = known.where(~known.isin(sections), "")
    n_rows, n_source = len(rows), len(source)
    if section is not None:
        rows = rows[rows["section"] == section]
    if source["section"].notna().any():  # those that name another one are of sections that are not here
        source = source[source["section"].notna() | (source["around"] == "")]
    if section is not None:
        source = source[source["section"].isna() | (source["section"] == section)]
    pairs = rows.merge(source, on="spot", suffixes=("", "_source"))
    pairs = pairs[pairs["section_source"].isna() | (pairs["section_source"] == pairs["section"])]
    best = _most_similar(pairs)
    _check_one_to_one(best, pairs)
    if len(best) <= _FEW * min(len(rows), len(source)):
        msg = (
            f"{len(best)} of {len(rows)} rows are among the {n_source} names of the source. The rows are called "
            f"{listing(rows['name'][:3])}, the source has {listing(list(others)[:3])}"
        )
        raise ValueError(msg)
    strange = sorted(set(source["around"][best["position_source"]]) - set(rows["around"]) - {""})
    if section is None and strange:
        warn(
            f"the names of the source say {listing(strange, 3)}, which is no section here ({listing(sections, 3)}); "
            "section= says that they are the same"
        )
    found = np.full(n_rows, -1)
    found[best["position"]] = best["position_source"]
    return found


def _parsed(names: Iterable[str], sections: Sequence[str]) -> pd.DataFrame:
    """The parts of names as columns, beside the name itself and its position."""
    given = [str(name) for name in names]
    parsed = pd.DataFrame([parse_name(name, sections) for name in given], columns=SpotName._fields, dtype=object)
    return parsed.assign(name=given, position=np.arange(len(given)))


def _most_similar(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs of names that are more similar to each other than to any other name of the same spot."""
    likeness = sum(
        weight * (pairs[part] == pairs[f"{part}_source"]).astype(int)
        for part, weight in (("name", 4), ("around", 2), ("well", 1))
    )
    pairs = pairs.assign(likeness=likeness)
    for side in ("position_source", "position"):
        pairs = pairs[pairs["likeness"] == pairs.groupby(side)["likeness"].transform("max")]
    return pairs


def _check_one_to_one(best: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Refuse names that could mean spots of several sections."""
    if (twice := best["position"].duplicated(keep=False)).any():
        names = listing(best.loc[best["position"] == best["position"][twice].iloc[0], "name_source"], 3)
        msg = f"{names} of the source are all spot {best['name'][twice].iloc[0]}; give the rows of one section alone"
        raise ValueError(msg)
    # A name that fits spots of several sections: right if the other sections have names of their own in the source.
    contested = pairs[pairs["position_source"].duplicated(keep=False)].drop_duplicates("position")
    lost = ~contested["position"].isin(best["position"])
    unclear = best["position_source"].duplicated(keep=False)
    if unclear.any() or (lost.groupby(contested["section"]).mean() > 0.5).any():
        example = pairs[pairs["position_source"].duplicated(keep=False)]
        example = example[example["position_source"] == example["position_source"].iloc[0]]
        msg = (
            f"{example['name_source'].iloc[0]} of the source may be {listing(example['name'], 3)}, of section "
            f"{listing(example['section'].unique(), 3)}; say with section= which one the source is of"
        )
        raise ValueError(msg)
