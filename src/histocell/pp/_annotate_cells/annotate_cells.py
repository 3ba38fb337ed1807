"""Label cells by marker genes, by a reference, or by a column, and set aside those with low confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from histocell._core import keys
from histocell._core.arguments import check_amount
from histocell._core.errors import listing, missing_key, warn
from histocell._core.rng import as_rng
from histocell.pp._annotate_cells.markers import score_markers
from histocell.pp._annotate_cells.references import run_celltypist, run_singler
from histocell.pp._embed_genes.counts import expression
from histocell.tables.access import get_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from anndata import AnnData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Bools, Floats
    from histocell.tables.access import Data

METHODS = ("markers", "celltypist", "singler")
MARGIN, SCORE = "_margin", "_score"
_MAD = 1.4826  # of a normal distribution the standard deviation is so many of it


def annotate_cells(
    data: Data,
    method: str,
    markers: Mapping[str, str | Sequence[str]] | None = None,
    *,
    model: str | PathLike[str] | None = None,
    reference: AnnData | None = None,
    labels_key: str = keys.CELL_TYPE,
    rename: Mapping[str, str] | None = None,
    layer: str | None = None,
    n_mads: float = 3.0,
    key_added: str = keys.CELL_TYPE,
    rng: SeedLike | RNGLike | None = 0,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, pd.Series | pd.DataFrame] | None:
    """Label cells by their expression, and set those aside that are not clear.

    A cell gets the type with the highest score. Its margin is by how much that score is above the next one. Cells are set
    aside, which means that they have no label and take part in no fit, where the margin is more than `n_mads` median
    absolute deviations below the median of the cells with that label, where no counts are, and by ``"markers"`` also where
    no score is above 0. Labels made from the same counts that a model then learns from say how well it repeats this rule,
    not how well it knows cells.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, one row per cell: raw counts, which are normalised here to 10,000 per cell and
        to the logarithm. Values with fractions are taken as normalised already, with a warning.
    method
        ``"markers"``: mean z-score of the marker genes of a type less that of genes expressed as much.
        ``"celltypist"``: a model of CellTypist. ``"singler"``: SingleR with a reference. Else a column of ``obs`` with labels
        that are taken as they are.
    markers
        Genes of each type, by type.
    model
        Of ``"celltypist"``: name or file of a model, which CellTypist unpickles: use none that you do not trust.
    reference
        Of ``"singler"``: an AnnData of cells with raw counts in ``X``.
    labels_key
        Column of ``obs`` of the reference with the types.
    rename
        Other names of labels, such as ``{"CD4 T": "T cell", "CD8 T": "T cell"}``; an empty one sets cells aside.
    layer
        Layer with the counts, instead of ``X``.
    n_mads
        See above; the rule of SingleR's ``pruneScores`` has three.
    key_added
        Column of ``obs``.
    rng
        Seed or generator that draws the control genes of ``"markers"``.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written, by slot: ``obs[key_added]``, a category, missing where
    cells were set aside; ``obs[key_added + "_margin"]``; ``obsm[key_added + "_score"]``, a data frame with one column per
    type. Of a column of labels the first alone.

    Raises
    ------
    ImportError
        When a package is missing; ``pip install "histocell[annotation]"`` brings both.
    KeyError
        When there is neither such a method nor such a column.
    ValueError
        When markers, model or reference are missing, or none of the markers of a type is measured.

    References
    ----------
    Tirosh et al., Science 352 (2016) 189 (scores against control genes). Dominguez Conde et al., Science 376 (2022) eabl5197
    (CellTypist). Aran et al., Nat Immunol 20 (2019) 163 (SingleR).

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=400, rng=0)
    >>> genes = {"tumour": ["EPCAM"], "fibroblast": ["COL1A1"], "lymphocyte": ["CD3D"], "plasma": ["JCHAIN"]}
    >>> hc.pp.annotate_cells(sdata, "markers", genes, key_added="label", table_key="cell_table")
    >>> sdata["cell_table"].obs["label"].cat.categories.to_list()
    ['fibroblast', 'lymphocyte', 'plasma', 'tumour']
    """
    check_amount(n_mads, "n_mads")
    table = get_table(data, table_key)
    if method in METHODS:
        scores, doubtful = _scores(table, method, markers, model, reference, labels_key, layer, rng)
        label, more, facts = _labelled(scores, doubtful, n_mads, key_added)
        facts["rule"] = f"margin more than {n_mads:g} MAD below the median of its label, no counts" + (
            ", no score above 0" if method == "markers" else ""
        )
    elif method in table.obs:
        labels = table.obs[method].astype(object)
        label, more, facts = labels.where(labels.notna(), None).map(str, na_action="ignore"), {}, {}
    else:
        hint = f"method is one of {', '.join(METHODS)}, or a column of obs with labels."
        raise missing_key("obs", method, table.obs.columns, hint)
    label = _renamed(label, rename).astype("category")
    n_set_aside = int(np.asarray(label.isna()).sum())
    slots: dict[str, pd.Series | pd.DataFrame] = {key_added: label, **more}
    for value in slots.values():
        value.index = table.obs_names
    if n_set_aside == len(label):
        msg = f"all {len(label)} cells were set aside; check the markers or the reference, and n_mads={n_mads:g}"
        raise ValueError(msg)
    if not inplace:
        return slots
    for slot, value in slots.items():
        (table.obsm if isinstance(value, pd.DataFrame) else table.obs)[slot] = value
    keys.write_provenance(table, key_added, method=method, n_set_aside=n_set_aside, **facts)
    return None


def _scores(
    table: AnnData,
    method: str,
    markers: Mapping[str, str | Sequence[str]] | None,
    model: str | PathLike[str] | None,
    reference: AnnData | None,
    labels_key: str,
    layer: str | None,
    rng: SeedLike | RNGLike | None,
) -> tuple[pd.DataFrame, Bools]:
    """The score of each type, and cells that are set aside whatever their margin."""
    if method == "markers" and not markers:
        msg = 'method="markers" needs markers, the genes of each type: {"T cell": ["CD3D", "CD3E"], ...}'
        raise ValueError(msg)
    values = log_normalized(table, layer)
    empty = np.asarray(values.sum(axis=1)).ravel() == 0
    if empty.any():
        warn(f"{int(empty.sum())} of {len(empty)} cells have no counts; they get no label")
    if method == "markers":
        scores = score_markers(values, table.var_names, markers or {}, as_rng(rng))
        return scores, empty | (scores.to_numpy().max(axis=1) <= 0)
    if method == "celltypist":
        return run_celltypist(values, table.var_names, model), empty
    of_reference = None if reference is None else log_normalized(reference, None)
    return run_singler(values, table.var_names, reference, labels_key, of_reference), empty


def log_normalized(table: AnnData, layer: str | None) -> csr_matrix:
    """Logarithm of 1 + counts per 10,000 of the cell; values with fractions as they are, with a warning."""
    values = expression(table, layer, normalized="They are taken as the logarithm of normalised counts")
    if (values.data != np.rint(values.data)).any():
        return values
    total = np.asarray(values.sum(axis=1)).ravel()
    values = values.multiply((1e4 / np.maximum(total, 1))[:, None]).tocsr()
    values.data = np.log1p(values.data)
    return csr_matrix(values)


def _labelled(
    scores: pd.DataFrame, doubtful: Bools, n_mads: float, key: str
) -> tuple[pd.Series, dict[str, pd.Series | pd.DataFrame], dict[str, object]]:
    """Label, margin and scores with their slots; cells that are not clear have no label."""
    array = scores.to_numpy(dtype=np.float64)
    first = np.nan_to_num(array, nan=-np.inf).argmax(axis=1)
    ordered = np.sort(array, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    unclear = doubtful | ~np.isfinite(margin)
    unclear |= _outlying(margin, first, ~unclear, n_mads)
    label = pd.Series(np.where(unclear, None, np.array(scores.columns, dtype=object)[first]), dtype=object)
    names, renamed = keys.safe_names(scores.columns, quiet=True)
    frame = pd.DataFrame(array, columns=names)
    facts: dict[str, object] = {"original_names": renamed} if renamed else {}
    return label, {key + MARGIN: pd.Series(margin), key + SCORE: frame}, facts


def _outlying(margin: Floats, label: np.ndarray, known: Bools, n_mads: float) -> Bools:
    """Whether a margin is far below those of the cells with the same label."""
    out = np.zeros(len(margin), dtype=bool)
    for each in np.unique(label[known]):
        rows = np.flatnonzero(known & (label == each))
        median = np.median(margin[rows])
        out[rows] = margin[rows] < median - n_mads * _MAD * np.median(np.abs(margin[rows] - median))
    return out


def _renamed(labels: pd.Series, rename: Mapping[str, str] | None) -> pd.Series:
    """Labels under other names; an error for a name that no label has."""
    if not rename:
        return labels
    there = set(labels.dropna())
    if absent := [name for name in rename if name not in there]:
        msg = f"rename: no label {listing(absent)}; there are: {listing(sorted(there))}"
        raise ValueError(msg)
    return labels.map(lambda name: rename.get(name, name) or None, na_action="ignore")
