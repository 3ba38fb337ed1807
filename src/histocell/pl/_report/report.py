"""The maps, scores, co-localization and provenance of a run on one page that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from histocell import get
from histocell._core import keys
from histocell._core.arguments import check_count
from histocell._core.outputs import check_outputs, replacing
from histocell._core.settings import progress_bar
from histocell.pl._colocalization.map import colocalization
from histocell.pl._maps import abundance
from histocell.pl._niches.niches import niches
from histocell.pl._report.notes import EVALUATIONS, notes
from histocell.pl._report.style import PAGE
from histocell.pl._scores.types import scores as plot_scores
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from anndata import AnnData

    from histocell.pl._sections import Images
    from histocell.tables.access import Data

_DPI = 110
_ROWS = 25  # of a table
_WIDE = 7.0  # inches from which on a picture is not shrunk to the width of a phone
_MAPS = (keys.PREDICTED, keys.ABUNDANCE)


def report(
    data: Data,
    path: str | PathLike[str],
    *,
    section: str | Sequence[str] | None = None,
    image: Images | bool = True,
    max_sections: int = 4,
    title: str | None = None,
    table_key: str | None = None,
) -> None:
    """Write what is known of a run to one HTML page: maps, scores, co-localization, niches, warnings and provenance.

    Only slots that are there are shown; nothing is computed. Pictures lie within the page, which loads nothing from anywhere.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table. Reads abundances, evaluations, ``uns["colocalization"]``, ``obs["niche"]`` and the
        provenance of all slots.
    path
        File to write, ``.html``; a page that this function wrote is replaced, any other file is not.
    section
        Sections to map; by default the first `max_sections`.
    image
        Whether to draw the image under maps; for an AnnData also the image itself, or a mapping from section to it.
    max_sections
        Most sections that are mapped.
    title
        Of the page.
    table_key
        The table of a SpatialData that has several.

    Raises
    ------
    FileExistsError
        When another file has the name.
    ValueError
        When the data hold nothing to show, or the name does not end in ``.html``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.tl.colocalization(sdata, "cell_abundance", table_key="table")
    >>> page = Path(tempfile.mkdtemp()) / "run.html"
    >>> hc.pl.report(sdata, page, table_key="table")
    >>> page.read_text().count("<img")
    2
    """
    path = Path(path)
    if path.suffix.lower() not in {".html", ".htm"}:
        msg = f"a report is a page, so its name ends in .html; {path.name!r} does not"
        raise ValueError(msg)
    check_count(max_sections, "max_sections", least=1)
    check_outputs([path])
    sections = Sections(data, table_key=table_key)
    table = sections.table
    names = sections.names[:max_sections] if section is None else section
    parts = []
    with progress_bar(desc="Drawing the report", unit="part") as bar:
        for part in _parts(data, table, names, image, table_key):
            parts.append(part)
            bar.update()
    if not parts:
        there = (*_MAPS, *EVALUATIONS, "colocalization", keys.NICHE)
        msg = f"there is nothing to report: none of {', '.join(there)} is there. Predict, evaluate or colocalize first"
        raise ValueError(msg)
    shown = len([names] if isinstance(names, str) else names)
    if shown < len(sections):
        parts.insert(0, ("", f"<p>Maps show {shown} of {len(sections)} sections.</p>"))
    careful = list(notes(table))
    if careful:
        items = "".join(f"<li>{escape(note)}</li>" for note in careful)
        parts.insert(0, ("To be careful about", f'<ul class="notes">{items}</ul>'))
    parts.append(("How it was computed", _provenance(table)))
    heading = title or f"histocell: {', '.join(sections.names[:3])}{' and more' if len(sections) > 3 else ''}"
    facts = f"{table.n_obs:,} rows, {len(sections)} section{'' if len(sections) == 1 else 's'}, histocell {version('histocell')}"
    body = "".join(f"<section>{f'<h2>{escape(name)}</h2>' if name else ''}{html}</section>" for name, html in parts)
    with replacing(path) as file:
        file.write_text(PAGE.format(title=escape(heading), facts=escape(facts), body=body), encoding="utf-8")


def _parts(
    data: Data, table: AnnData, names: str | Sequence[str], image: Images | bool, table_key: str | None
) -> Iterator[tuple[str, str]]:
    key = next((each for each in _MAPS if each in table.obsm), None)
    if key is not None:
        title = "Predicted abundance" if key == keys.PREDICTED else "Measured abundance"
        for name in [names] if isinstance(names, str) else names:
            yield f"{title}: {name}", _picture(abundance, data, key=key, section=name, image=image, table_key=table_key)
    for evaluation in EVALUATIONS:
        if isinstance(scores := table.uns.get(evaluation), pd.DataFrame):
            metric = next((each for each in ("cc", "f1", "pcc") if each in set(scores["metric"])), None)
            options = {"key": evaluation, "metric": metric, "table_key": table_key}
            picture = "" if metric is None else _picture(plot_scores, data, **options)
            yield evaluation.replace("_", " ").capitalize(), picture + _means(scores)
    if "colocalization" in table.uns:
        yield "Co-localization", _picture(colocalization, data, table_key=table_key) + _pairs(data, table_key)
    if keys.NICHE in table.obs:
        yield "Niches", _picture(niches, data, section=names, image=image, table_key=table_key)


def _picture(draw: Callable[..., object], data: Data, **options: object) -> str:
    """What a plot draws, as an image within the page; figures of the user stay as they are."""
    before, interactive = set(plt.get_fignums()), plt.isinteractive()
    plt.ioff()
    try:
        draw(data, show=False, **options)
        images = []
        for number in sorted(set(plt.get_fignums()) - before):
            file = io.BytesIO()
            plt.figure(number).savefig(file, format="png", dpi=_DPI, bbox_inches="tight")
            encoded = base64.b64encode(file.getvalue()).decode("ascii")
            width = plt.figure(number).get_figwidth()
            kind = ' class="wide"' if width > _WIDE else ""
            images.append(f'<img{kind} alt="{escape(draw.__name__)}" src="data:image/png;base64,{encoded}">')
        return f'<div class="scroll">{"".join(images)}</div>'
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        plt.interactive(interactive)


def _means(scores: pd.DataFrame) -> str:
    """Mean scores over all groups, a row for each model and metric."""
    target = next((column for column in ("cell_type", "gene", "class", "target") if column in scores), None)
    chosen = scores[scores["group"].astype(str) == "all"] if "group" in scores else scores
    if target is not None and (chosen[target].astype(str) == "mean").any():
        chosen = chosen[chosen[target].astype(str) == "mean"]
    columns = [name for name in ("model", "metric", "value", "low", "high", "interval") if name in chosen]
    return _table(chosen[columns])


def _pairs(data: Data, table_key: str | None) -> str:
    frame = get.colocalization(data, table_key=table_key)
    frame = frame[frame["x"].astype(str) < frame["y"].astype(str)]
    columns = [name for name in ("x", "y", "R", "expected", "low", "high", "p", "p_adj", "n_patients") if name in frame]
    return _table(frame.sort_values("p")[columns])


def _provenance(table: AnnData) -> str:
    rows = []
    for slot, text in sorted(dict(table.uns.get(keys.PROVENANCE, {})).items()):
        facts = json.loads(str(text))
        rows.append((slot, ", ".join(f"{name}: {_short(value)}" for name, value in facts.items() if value is not None)))
    return (
        _table(pd.DataFrame(rows, columns=["slot", "how"]), most=len(rows)) if rows else "<p>Nothing is recorded.</p>"
    )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _table(frame: pd.DataFrame, most: int = _ROWS) -> str:
    head = "".join(f"<th>{escape(str(name))}</th>" for name in frame.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>"
        for row in frame.head(most).itertuples(index=False)
    )
    more = f"<p>{len(frame) - most} more rows are in the data.</p>" if len(frame) > most else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if not np.isfinite(value) else f"{value:.3g}"
    return str(value)
