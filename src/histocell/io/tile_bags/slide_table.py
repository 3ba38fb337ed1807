"""A table of slides, one row each: labels, number of tiles, and the mean of their features."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.settings import progress_bar
from histocell.io.tile_bags.bags import Bags
from histocell.tables.access import row_labels

if TYPE_CHECKING:
    from anndata import AnnData

    from histocell.io.tile_bags.bags import Source


def slide_table(
    tiles: Source,
    labels: pd.DataFrame | None = None,
    *,
    features: str | None = None,
    summary: pd.DataFrame | None = None,
    slide_key: str = keys.SECTION,
    table_key: str | None = None,
) -> AnnData:
    """Make a table of slides, which `histocell.tl.fit_slides` learns from, of their tiles and labels.

    The tiles are read once, some at a time, however many a slide has.

    Parameters
    ----------
    tiles
        Tiles with embeddings: a table (AnnData or SpatialData); a folder of `histocell.pp.embed_cohort`; or a mapping from
        the name of a slide to such a result, or to anything with ``shape`` ``(tiles, features)`` and rows to slice, such as
        an array of numpy, zarr or h5py.
    labels
        What is known of each slide: the index names the slides, the columns are copied to ``obs``, such as ``label``,
        ``patient``, ``time``, ``event``. Slides without a row get missing values, rows without a slide are left out, both
        with a warning. By default the columns of ``obs`` of a table that have one value in each slide.
    features
        Embedding in ``obsm``; by default the only one there is.
    summary
        What the slides are made of, which a regression is fitted on beside other models: the table of
        `histocell.tl.summarize_slides`, or a data frame of numbers with one row per slide.
    slide_key
        Column of ``obs`` of a table that names the slide of each tile; ``"patient"`` for one bag per patient.
    table_key
        Table of a SpatialData that holds several.

    Returns
    -------
    AnnData with one row per slide: ``obs["section"]``, ``obs["n_tiles"]`` and the labels, and in ``obsm[features]`` the mean of
    the tiles with finite features, NaN for a slide without any. With `summary` also the data frame ``obsm["composition"]``,
    NaN for what is not known of a slide.

    Raises
    ------
    KeyError
        When the embedding or the column of the slides is not there.
    ValueError
        When slides were embedded by several encoders, a slide has two rows of labels, or no label or row of `summary` fits
        a slide.

    Examples
    --------
    >>> import histocell as hc
    >>> tiles = hc.datasets.synthetic_slides(6, n_tiles=50)
    >>> slides = hc.io.slide_table(tiles)
    >>> slides.obs.loc["S1", ["patient", "label"]].tolist(), int(slides.obs["n_tiles"].sum())
    (['P1', 'negative'], 300)
    """
    from anndata import AnnData

    bags = Bags.open(tiles, features, slide_key=slide_key, table_key=table_key)
    names = list(bags.of)
    obs, varying = _constant(bags, slide_key) if bags.table is not None else (pd.DataFrame(index=names), [])
    if labels is not None:
        obs = _joined(obs, labels, names)
    obs[keys.SECTION] = names
    obs[keys.N_TILES] = [len(bag) for bag in bags.of.values()]
    means, counts = np.full((len(names), next(iter(bags.of.values())).dim), np.nan, dtype=np.float32), []
    with progress_bar(total=len(names), desc="mean of tiles", unit="slide") as bar:
        for row, bag in enumerate(bags.of.values()):
            means[row], count = bag.mean()
            counts.append(count)
            bar.update()
    _warn_of_empty(names, obs[keys.N_TILES].to_numpy(), np.array(counts))
    table = AnnData(obs=obs)
    table.obsm[bags.key] = means
    if summary is not None:
        table.obsm[keys.COMPOSITION] = _composition(summary, names)
    if bags.facts:
        facts = {name: value for name, value in bags.facts.items() if name != "histocell"}
        keys.write_provenance(table, bags.key, **facts)
    keys.write_provenance(table, keys.N_TILES, features=bags.key, slide_key=slide_key, varying=varying)
    return table


def _constant(bags: Bags, slide_key: str) -> tuple[pd.DataFrame, list[str]]:
    """Columns of the table of tiles that have one value in each slide, and the names of the others."""
    table = bags.table
    if table is None:
        return pd.DataFrame(), []
    slides = row_labels(table, slide_key)
    first = [int(bag.rows[0]) for bag in bags.of.values() if bag.rows is not None]
    columns = cast("pd.DataFrame", table.obs)
    numbers = columns.groupby(slides.astype(str), observed=True).nunique(dropna=False).max()
    constant = [str(name) for name in columns.columns if numbers[name] == 1]
    obs = columns.iloc[first][constant].copy()
    obs.index = pd.Index(list(bags.of))
    return obs, [str(name) for name in table.obs.columns if name not in constant]


def _joined(obs: pd.DataFrame, labels: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The labels beside what the tiles say."""
    index = labels.index.astype(str)
    if index.has_duplicates:
        msg = f"labels has several rows of one slide: {listing(index[index.duplicated()].unique(), 5)}"
        raise ValueError(msg)
    if not index.isin(names).any():
        msg = (
            f"the index of labels names no slide: {listing(index, 5)}; the slides are {listing(names, 5)}. "
            "labels.set_index(...) makes a column the index"
        )
        raise ValueError(msg)
    if both := [str(name) for name in labels.columns if name in obs]:
        msg = f"the table of tiles and labels both have {listing(both)}; drop one of them"
        raise ValueError(msg)
    if strangers := [name for name in index if name not in set(names)]:
        warn(f"{len(strangers)} rows of labels have no slide: {listing(strangers, 5)}; left out")
    if absent := [name for name in names if name not in set(index)]:
        warn(f"{len(absent)} slides have no labels: {listing(absent, 5)}; their labels are missing")
    return pd.concat([obs, labels.set_axis(index).reindex(names)], axis=1)


def _composition(summary: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """What each slide is made of, in the order of the slides."""
    wide = summary
    if {"slide", "feature", "value"} <= set(summary):
        if (repeated := summary.duplicated(["slide", "feature"])).any():
            which = listing(summary.loc[repeated, "slide"].astype(str).unique(), 5)
            msg = f"summary has several values of one feature of a slide: {which}; it was put together twice, or slides share a name"
            raise ValueError(msg)
        wide = summary.pivot(index="slide", columns="feature", values="value")
        wide = wide[summary["feature"].unique()]
    wide = wide.set_axis(wide.index.astype(str)).rename(columns=lambda name: str(name).replace("/", "_"))
    wide.columns.name = wide.index.name = None
    texts = [name for name, kind in wide.dtypes.items() if kind.kind not in "fiub"]
    if texts or not wide.columns.size or wide.columns.has_duplicates or wide.index.has_duplicates:
        msg = (
            "summary must be the table of hc.tl.summarize_slides, or numbers in columns of different names, one row per slide; "
            f"it has the columns {listing(wide.columns, 6)}"
            + (f", of which no numbers: {listing(texts, 6)}" if texts else "")
        )
        raise ValueError(msg)
    if not wide.index.isin(names).any():
        msg = f"summary names no slide: {listing(wide.index, 5)}; the slides are {listing(names, 5)}"
        raise ValueError(msg)
    if absent := [name for name in names if name not in set(wide.index)]:
        warn(f"summary says nothing of {len(absent)} of {len(names)} slides: {listing(absent, 5)}")
    return wide.reindex(names).astype(np.float64)


def _warn_of_empty(names: list[str], n_tiles: np.ndarray, n_finite: np.ndarray) -> None:
    if empty := [name for name, count in zip(names, n_finite, strict=True) if not count]:
        warn(f"{len(empty)} of {len(names)} slides have no tile with finite features: {listing(empty, 5)}")
    if lost := int((n_tiles - n_finite)[n_finite > 0].sum()):
        warn(f"{lost} of {int(n_tiles.sum())} tiles have features that are not finite; left out of their slides")
