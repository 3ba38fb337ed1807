"""Tables of scores for a paper, as Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd

from histocell._core.arguments import as_names, check_count, check_switch
from histocell._core.errors import MissingKeyError, listing
from histocell.bench.columns import RUN, read_scores, run_names
from histocell.bench.costs import COSTS, GPU_MEMORY, MEMORY, PARAMETERS, SECONDS
from histocell.tl.engine.evaluate import ALL, MEAN
from histocell.tl.engine.intervals import NONE

if TYPE_CHECKING:
    type Kind = Literal["markdown", "latex"]

_TABLES = {  # of arXiv 2507.07013: Tables 2, 1 and 3
    "accuracy": ("l1", "cc"),
    "colocalization": ("colocalization_cosine", "colocalization_correlation"),
    "costs": (GPU_MEMORY, MEMORY, SECONDS, PARAMETERS),
}
_TITLES = {
    "l1": "L1",
    "cc": "CC",
    "cc_per_slide": "CC per slide",
    "colocalization_cosine": "cosine similarity",
    "colocalization_correlation": "correlation",
    "colocalization_cosine_with_diagonal": "cosine similarity, with diagonal",
    "colocalization_correlation_with_diagonal": "correlation, with diagonal",
    GPU_MEMORY: "GPU memory",
    MEMORY: "memory",
    SECONDS: "time",
    PARAMETERS: "parameters",
}
# Whether more is better; of others nothing is marked as best.
_HIGHER = dict.fromkeys(_TITLES, True) | {"l1": False, GPU_MEMORY: False, MEMORY: False, SECONDS: False}
del _HIGHER[PARAMETERS]
_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_ESCAPES |= {character: f"\\{character}" for character in "&%$#_{}"}


class _Column(NamedTuple):
    """A column of the printed table: the data set, the metric, and the text of each run with whether it is the best."""

    dataset: str
    metric: str
    cells: list[tuple[str, bool]]


def format_table(
    scores: pd.DataFrame | Mapping[str, pd.DataFrame],
    metrics: str | Sequence[str] = "accuracy",
    *,
    kind: Kind = "markdown",
    group: str = ALL,
    cell_type: str = MEAN,
    bold: bool = True,
    intervals: bool = False,
    digits: int = 2,
) -> str:
    """Write scores as a table for a paper: one row for each model and set of features.

    Parameters
    ----------
    scores
        Table of a protocol of ``hc.bench``, or several by the name of their data set, which become columns side by side.
    metrics
        ``"accuracy"`` for L1 and CC, ``"colocalization"`` for row-wise cosine and correlation of its maps, ``"costs"`` for
        memory, time and parameters; or names of metrics.
    kind
        ``"markdown"`` or ``"latex"``, which needs the package booktabs.
    group
        Held-out group; by default the mean over groups, of costs all groups together.
    cell_type
        Cell type; by default the mean over them.
    bold
        Whether the best of each column is bold, and what prints the same as the best. Nothing is where neither more nor
        less is better, such as the coverage and the number of parameters.
    intervals
        Whether the bounds are printed, with what they are in a line below.
    digits
        Decimals of scores.

    Returns
    -------
    The text of the table. What is undefined is a dash.

    Raises
    ------
    KeyError
        When no table has such a metric, group or cell type.

    References
    ----------
    arXiv 2507.07013: Tables 1 to 3.

    Examples
    --------
    >>> import pandas as pd
    >>> import histocell as hc
    >>> scores = pd.DataFrame(
    ...     {
    ...         "model": ["mlp", "ridge", "mlp", "ridge"],
    ...         "group": "all",
    ...         "cell_type": "mean",
    ...         "metric": ["l1", "l1", "cc", "cc"],
    ...         "value": [0.57, 0.6, 0.32, 0.3],
    ...         "low": float("nan"),
    ...         "high": float("nan"),
    ...     }
    ... )
    >>> print(hc.bench.format_table(scores))
    | model | L1 ↓ | CC ↑ |
    |---|---|---|
    | mlp | **0.57** | **0.32** |
    | ridge | 0.60 | 0.30 |
    """
    if kind not in ("markdown", "latex"):
        msg = f"kind must be markdown or latex, not {kind!r}"
        raise ValueError(msg)
    check_count(digits, "digits")
    bold, intervals = check_switch(bold, "bold"), check_switch(intervals, "intervals")
    tables = {
        name: _rows(table, group, cell_type)
        for name, table in (scores if isinstance(scores, Mapping) else {"": scores}).items()
    }
    if not tables:
        msg = "scores is empty; give the table of a protocol, or several by name"
        raise ValueError(msg)
    everything = pd.concat(tables.values(), ignore_index=True)
    everything[RUN] = run_names(everything)
    runs = list(dict.fromkeys(everything[RUN]))
    names = dict(zip(everything["model"] + "\0" + everything["features"], everything[RUN], strict=True))
    columns = [
        _column(
            name,
            table.set_index((table["model"] + "\0" + table["features"]).map(names)),
            metric,
            runs,
            intervals,
            digits,
        )
        for name, table in tables.items()
        for metric in _metrics(metrics, everything)
    ]
    if not bold:
        columns = [column._replace(cells=[(text, False) for text, _ in column.cells]) for column in columns]
    note = _interval_note(everything, columns) if intervals else ""
    return (_markdown if kind == "markdown" else _latex)(runs, columns, note)


def _rows(scores: pd.DataFrame, group: str, cell_type: str) -> pd.DataFrame:
    """The rows of one group and cell type."""
    table, column = read_scores(scores)
    for name, wanted in (("group", group), (column, cell_type)):
        if wanted not in set(table[name]):
            msg = f"{name.replace('_', ' ')} {wanted!r} is not in the scores; available: {listing(table[name].unique(), 40)}"
            raise MissingKeyError(msg)
        table = table[table[name] == wanted]
    return table


def _metrics(wanted: str | Sequence[str], table: pd.DataFrame) -> list[str]:
    present = list(dict.fromkeys(table["metric"]))
    if isinstance(wanted, str) and wanted in _TABLES:
        chosen = [name for name in _TABLES[wanted] if name in present or wanted != "costs"]
    else:
        chosen = as_names(wanted)
    absent = [name for name in chosen if name not in present]
    if absent or not chosen:
        there = f"{listing(present, 40)}, or a table: {listing(_TABLES)}"
        msg = f"metric {listing(absent or [wanted])} is not in the scores; available: {there}"
        raise MissingKeyError(msg)
    return chosen


def _column(
    dataset: str, table: pd.DataFrame, metric: str, runs: Sequence[str], intervals: bool, digits: int
) -> _Column:
    chosen = table[table["metric"] == metric].reindex(list(runs))
    values = chosen["value"].to_numpy(dtype=np.float64)
    texts = [_text(metric, value, digits) for value in values]
    known = np.isfinite(values)
    best = ""
    if metric in _HIGHER and known.any():
        signed = np.where(known, values if _HIGHER[metric] else -values, -np.inf)
        best = texts[int(signed.argmax())]
    marked = [bool(best) and text == best for text in texts]
    if intervals:
        bounds = chosen[["low", "high"]].to_numpy(dtype=np.float64)
        texts = [
            f"{text} [{_text(metric, low, digits)}, {_text(metric, high, digits)}]"
            if np.isfinite([low, high]).all()
            else text
            for text, (low, high) in zip(texts, bounds, strict=True)
        ]
    return _Column(dataset, metric, list(zip(texts, marked, strict=True)))


def _text(metric: str, value: float, digits: int) -> str:
    if not np.isfinite(value):
        return "–"
    if metric == SECONDS:
        return _duration(value)
    if metric in {MEMORY, GPU_MEMORY}:
        return f"{value:,.0f} MB"
    if metric == PARAMETERS:
        return f"{value:,.0f}"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _duration(seconds: float) -> str:
    """Milliseconds, seconds, or minutes and seconds."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f}ms"
    if seconds < 9.995:
        return f"{seconds:.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest}s"


def _interval_note(table: pd.DataFrame, columns: Sequence[_Column]) -> str:
    shown = table[table["metric"].isin([column.metric for column in columns])]
    names = [name for name in shown.get("interval", pd.Series(dtype=object)).dropna().unique() if name != NONE]
    return f"In brackets: {', '.join(map(str, names))}." if names else ""


def _title(metric: str) -> tuple[str, bool | None]:
    """Title of a column, and whether more is better; `None` where neither is, or where it goes without saying."""
    return _TITLES.get(metric, metric), None if metric in COSTS else _HIGHER.get(metric)


def _markdown(runs: Sequence[str], columns: Sequence[_Column], note: str) -> str:
    arrows = {True: " ↑", False: " ↓", None: ""}
    heads = []
    for column in columns:
        title, higher = _title(column.metric)
        heads.append(f"{f'{column.dataset}: ' if column.dataset else ''}{title}{arrows[higher]}")
    cells = [[f"**{text}**" if best else text for text, best in column.cells] for column in columns]
    rows = [["model", *heads], *([run, *row] for run, *row in zip(runs, *cells, strict=True))]
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * (len(columns) + 1))
    return "\n".join([*lines, *(["", note] if note else [])])


def _latex(runs: Sequence[str], columns: Sequence[_Column], note: str) -> str:
    arrows = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}
    lines = [rf"\begin{{tabular}}{{l{'c' * len(columns)}}}", r"\toprule"]
    datasets = list(dict.fromkeys(column.dataset for column in columns))
    if datasets != [""]:
        width = len(columns) // len(datasets)
        heads = [rf"\multicolumn{{{width}}}{{c}}{{{_escaped(name)}}}" for name in datasets]
        rules = [rf"\cmidrule(lr){{{2 + i * width}-{1 + (i + 1) * width}}}" for i in range(len(datasets))]
        lines += [" & ".join(["", *heads]) + r" \\", " ".join(rules)]
    titles = [_title(column.metric) for column in columns]
    lines += [
        " & ".join(["model", *(_escaped(text) + arrows[higher] for text, higher in titles)]) + r" \\",
        r"\midrule",
    ]
    cells = [
        [rf"\textbf{{{_escaped(text)}}}" if best else _escaped(text) for text, best in each.cells] for each in columns
    ]
    lines += [" & ".join([_escaped(run), *row]) + r" \\" for run, *row in zip(runs, *cells, strict=True)]
    lines.append(r"\bottomrule")
    if note:
        lines.append(rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{\footnotesize {_escaped(note)}}} \\")
    return "\n".join([*lines, r"\end{tabular}"])


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text).replace("–", "--")
