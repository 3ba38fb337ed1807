"""Inputs of a model of cell types: embeddings of two modalities, types with training cells, no cell twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell._core.errors import listing, warn
from histocell.tl.engine.task import Values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from histocell.tl.engine.fit import Dataset
    from histocell.tl.engine.rows import Rows

FEW_CELLS = 10


def embeddings(
    table: AnnData, genes: str | Sequence[str] | None, image: str | Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Names of the embeddings of each modality.

    Raises
    ------
    ValueError
        When there are none, or one is named for both.
    """
    of_genes, of_image = ([] if each is None else as_names(each) for each in (genes, image))
    if not of_genes and not of_image:
        there = [key for key in table.obsm if key.startswith("X_")]
        msg = (
            f'say which embeddings: genes="X_scgpt", image="X_morphology" or both; obsm has: {listing(there)}. '
            "hc.pp.embed_genes and hc.pp.embed_image make them"
        )
        raise ValueError(msg)
    if both := sorted(set(of_genes) & set(of_image)):
        msg = f"{listing(both)} cannot be of the genes and of the image at once"
        raise ValueError(msg)
    return of_genes, of_image


def with_classes_of(dataset: Dataset, rows: Rows) -> Dataset:
    """The dataset with the types that have training cells only; a warning tells of others, and of types with few cells."""
    truth = dataset.truth
    counts = truth.array[rows.index[~rows.validation]].sum(axis=0)
    names = np.array(truth.names)
    if (counts > 0).sum() < 2:
        msg = (
            f"the {len(rows.index)} cells of the fit are of one type ({listing(names[counts > 0])}), so there is nothing to tell "
            "apart; check the labels and the split"
        )
        raise ValueError(msg)
    if (absent := counts == 0).any():
        warn(f"no training cell is of type {listing(names[absent])}, which can not be predicted")
    if few := [f"{name} ({int(n)})" for name, n in zip(names, counts, strict=True) if 0 < n < FEW_CELLS]:
        warn(f"types with fewer than {FEW_CELLS} training cells are hardly learnt: {listing(few)}")
    array = truth.array[:, ~absent].copy()
    array[~(array == 1).any(axis=1)] = np.nan
    kept = list(names[~absent])
    renamed = {new: old for new, old in truth.renamed.items() if new in kept}
    return replace(dataset, truth=Values(array, [str(name) for name in kept], renamed))


def without_copies(dataset: Dataset, rows: Rows, split_key: str) -> Rows:
    """The rows without cells that are held out under another name or twice in the table; a warning counts them."""
    if split_key not in dataset.table.obs:
        return rows
    parts = np.asarray(dataset.table.obs[split_key].astype(object))
    copied = np.zeros(len(rows.index), dtype=bool)
    mine = dataset.hashes[rows.index]
    for held, which in (
        (parts == keys.TEST, np.ones(len(rows.index), dtype=bool)),
        (parts == keys.VAL, ~rows.validation),
    ):
        copied |= which & np.isin(mine, dataset.hashes[held]).any(axis=1)
    if not copied.any():
        return rows
    text = (
        f"{int(copied.sum())} cells of the fit are held-out cells, too (same place and same name or features); left out"
    )
    kept = replace(rows, index=rows.index[~copied], validation=rows.validation[~copied], groups=rows.groups[~copied])
    if kept.validation.all():
        msg = f"{text}, and no training cell remains; divide the cells again with hc.pp.split"
        raise ValueError(msg)
    warn(text)
    return kept
