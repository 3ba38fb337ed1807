"""Colours of nuclei: by type, by value or by probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, to_rgba

from histocell._core import keys
from histocell._core.errors import listing, missing_key
from histocell.pl._points import UNKNOWN
from histocell.pl._style import PALETTE, colors_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import geopandas as gpd
    from anndata import AnnData
    from matplotlib.colors import Colormap
    from matplotlib.typing import ColorType

    from histocell._core.types import Floats, Ints
    from histocell.pl._style import Palette

PROBABILITY = "cell_type_probability"
MOST_TYPES = 60
_SCALE = ("p1", "p99")


@dataclass(frozen=True)
class Colours:
    """A colour for each nucleus.

    Attributes
    ----------
    rgba
        Shape (n, 4).
    names
        Colours of the types, for a legend; empty where there are none.
    values, cmap, norm
        What the colours show on a scale, shape (n,); `None` where there are types.
    """

    rgba: Floats
    names: Mapping[str, ColorType]
    values: Floats | None = None
    cmap: Colormap | None = None
    norm: Normalize | None = None


def plain(n: int, color: ColorType) -> Colours:
    """One colour for all."""
    return Colours(np.tile(to_rgba(color), (n, 1)), {})


def find_column(
    color: str, table: AnnData | None, places: tuple[Ints, Ints], shapes: gpd.GeoDataFrame
) -> tuple[pd.Series, bool]:
    """What nuclei are coloured by, in the order of the shapes, and whether it is a probability.

    A column of ``obs``, a measurement, the probability of a type, a gene, or a column of the shapes: the first that there
    is. Missing of shapes without a row.

    Parameters
    ----------
    places
        Rows of the table and, for each, the position of its shape.
    """
    names: list[str] = []
    for series, is_probability in _columns(color, table, names):
        rows, position = places
        known = position >= 0
        values = series.iloc[rows[known]]
        out = pd.Series(values.to_numpy(), index=position[known]).reindex(np.arange(len(shapes)))
        if isinstance(series.dtype, pd.CategoricalDtype):
            out = out.astype(pd.CategoricalDtype(series.cat.categories))
        return out, is_probability
    if color in shapes and color != shapes.geometry.name:
        return pd.Series(shapes[color].array), False
    names += [str(name) for name in shapes.columns if name != shapes.geometry.name]
    hint = "color= takes a column of obs, a measurement, a type with a probability, a gene, or a column of the shapes."
    raise missing_key("obs", color, names, hint)


def _columns(color: str, table: AnnData | None, names: list[str]) -> Iterator[tuple[pd.Series, bool]]:
    """The columns of this name in a table; adds what else there is to `names`."""
    if table is None:
        return
    for slot, is_probability in (("", False), (keys.MEASUREMENTS, False), (PROBABILITY, True)):
        frame = table.obs if not slot else table.obsm.get(slot)
        if isinstance(frame, pd.DataFrame):
            if color in frame:
                yield frame[color], is_probability
            names += [str(name) for name in frame.columns]
    if color in table.var_names:
        yield table[:, [color]].to_df().iloc[:, 0], False


def by_column(
    series: pd.Series,
    *,
    palette: Palette | None,
    own: Sequence[str] | None,
    cmap: str | Colormap,
    limits: tuple[float | None, float | None],
) -> Colours:
    """Colours of types, or of numbers on a scale; grey where nothing is known.

    Parameters
    ----------
    own
        Colours of the types that the table keeps, as scanpy does.
    limits
        Ends of the scale; by default the 1st and 99th percentile.
    """
    is_number = pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_bool_dtype(series.dtype)
    return _on_scale(series, cmap, limits) if is_number else _by_type(series, palette, own)


def _by_type(series: pd.Series, palette: Palette | None, own: Sequence[str] | None) -> Colours:
    types = series.astype(object).where(series.notna(), None).map(lambda value: value if value is None else str(value))
    if isinstance(series.dtype, pd.CategoricalDtype):
        names = [str(name) for name in series.cat.categories]
    else:
        names = sorted(set(types.dropna()))
    if not 0 < len(names) <= MOST_TYPES:
        msg = f"{len(names)} types are too many, or none, to tell apart by colour: {listing(names, 5)}"
        raise ValueError(msg)
    if palette is None and own is not None and len(own) == len(names):
        palette = dict(zip(names, map(str, own), strict=True))
    elif palette is None and len(names) > len(PALETTE):
        palette = "tab20" if len(names) <= 20 else "turbo"
    colors = colors_of(names, palette)
    table = np.array([to_rgba(UNKNOWN), *(to_rgba(colors[name]) for name in names)])
    codes = pd.Index(names).get_indexer(pd.Index(types))
    present = set(np.unique(codes))
    legend: dict[str, ColorType] = {name: colors[name] for code, name in enumerate(names) if code in present}
    if -1 in present:
        legend["unknown"] = UNKNOWN
    return Colours(table[codes + 1], legend)


def _on_scale(series: pd.Series, cmap: str | Colormap, limits: tuple[float | None, float | None]) -> Colours:
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(values)
    if not known.any():
        msg = "none of the nuclei has a value to be coloured by"
        raise ValueError(msg)
    ends = [
        float(np.percentile(values[known], float(percent[1:]))) if limit is None else float(limit)
        for limit, percent in zip(limits, _SCALE, strict=True)
    ]
    if not ends[0] <= ends[1]:
        msg = f"the colour scale ends before it begins: vmin={ends[0]:g}, vmax={ends[1]:g}"
        raise ValueError(msg)
    norm, colors = Normalize(ends[0], ends[1]), mpl.colormaps.get_cmap(cmap)
    rgba = np.asarray(colors(norm(np.where(known, values, ends[0]))))
    rgba[~known] = to_rgba(UNKNOWN)
    return Colours(rgba, {}, values, colors, norm)
