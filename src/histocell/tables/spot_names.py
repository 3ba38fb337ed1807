"""Names of spots, barcodes or places in a grid with a section around them, and which names mean the same spot.

Two names mean one spot if barcode or place are the same and neither the names nor the labels say that the sections are
others. Where that leaves a choice the more similar name is meant, unless it is a bare barcode, which every section has;
a choice that is left then is an error.
"""

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
_FEW = 0.5  # of names of one section more than half match; of two sections that share barcodes or places fewer may


class SpotName(NamedTuple):
    """A name in its parts: ``C2_AAACAAGTATCTCCCA-1_b`` is spot ``AAAC...`` of section ``C2``, with ``b`` besides."""

    spot: str
    section: str | None
    words: str  # what else stands around the spot, but for the well 1, which says nothing


def parse_name(name: str, sections: Sequence[str] = ()) -> SpotName:
    """The parts of a name; a name without barcode and place in a grid is a spot as a whole, its section apart."""
    for pattern in _SPOTS:
        if found := pattern.search(name):
            well = "" if found[2] == "1" else found[2] or ""
            parts = [part.strip(_AROUND) for part in (name[: found.start()], name[found.end() :])]
            section = next((part for part in parts if part in sections), None)
            return SpotName(found[1], section, " ".join(part for part in (well, *parts) if part and part != section))
    for section in sorted(sections, key=len, reverse=True):
        rest = name.removeprefix(section) if name.startswith(section) else name.removesuffix(section)
        if rest != (spot := rest.strip(_AROUND)):
            return SpotName(spot, section, "")
    return SpotName(name, None, "")


def match_spots(
    names: Iterable[str],
    labels: Sequence[str],
    others: Iterable[str],
    *,
    other_labels: Sequence[str] | None = None,
    section: str | None = None,
) -> Ints:
    """Position in `others` of the spot of each name, -1 where there is none.

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
        When fewer than half of the names match, or one matches several.
    """
    sections = list(dict.fromkeys(labels))
    rows, source = _parsed(names, sections), _parsed(others, sections)
    misread = rows["name"][rows["section"].notna() & (rows["section"] != pd.Series(list(labels), dtype=object))]
    source.loc[source["name"].isin(misread), "section"] = None  # cell_2 of section 1, where there is a section 2
    rows["section"] = list(labels)
    if other_labels is not None:
        known = pd.Series(list(other_labels), dtype=object)
        source["section"] = known.where(known.isin(sections), None)
        source["words"] = known.where(~known.isin(sections), "")
    found = np.full(len(rows), -1)
    if section is not None:
        rows = rows[rows["section"] == section]
        source = source[source["section"].isna() | (source["section"] == section)]
    if source["section"].notna().any():  # those that name another one are of sections that are not here
        source = source[source["section"].notna() | (source["words"] == "")]
    pairs = rows.merge(source, on="spot", suffixes=("", "_source"))
    pairs = pairs[pairs["section_source"].isna() | (pairs["section_source"] == pairs["section"])]
    best = _most_similar(pairs, bare_decides=bool(rows["spot"].duplicated().any()))
    _check_one_to_one(best, pairs)
    _check_enough(best, rows, source)
    strange = sorted(set(best["words_source"]) - set(rows["words"]) - {""})
    if section is None and strange:
        warn(
            f"the names of the source say {listing(strange, 3)}, which is no section here ({listing(sections, 3)}); "
            "section= says that they are the same"
        )
    found[best["position"]] = best["position_source"]
    return found


def _parsed(names: Iterable[str], sections: Sequence[str]) -> pd.DataFrame:
    """The parts of names as columns, beside the name itself and its position."""
    given = [str(name) for name in names]
    parsed = pd.DataFrame([parse_name(name, sections) for name in given], columns=SpotName._fields, dtype=object)
    return parsed.assign(name=given, position=np.arange(len(given)))


def _most_similar(pairs: pd.DataFrame, *, bare_decides: bool) -> pd.DataFrame:
    """The pairs of names that are more similar to each other than to any other name of the same spot."""
    likeness = 2 * (pairs["name"] == pairs["name_source"]) + (pairs["words"] == pairs["words_source"])
    pairs = pairs.assign(likeness=likeness * (bare_decides | (pairs["words"] != "")))
    for side in ("position_source", "position"):
        pairs = pairs[pairs["likeness"] == pairs.groupby(side)["likeness"].transform("max")]
    return pairs


def _check_enough(best: pd.DataFrame, rows: pd.DataFrame, source: pd.DataFrame) -> None:
    """Refuse names of another section, of which some are the same by accident."""
    if len(best) <= _FEW * min(len(rows), len(source)):
        ours, theirs = (
            listing(each["name"][~each["position"].isin(best[column])][:3])
            for each, column in ((rows, "position"), (source, "position_source"))
        )
        msg = (
            f"{len(best)} of {len(rows)} rows are among the {len(source)} names of the source: it is of other spots, or "
            f"names them otherwise. The others are called {ours} here, {theirs} in the source"
        )
        raise ValueError(msg)


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
