"""Attention between the tokens of cells as a table, by predicted type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histocell._core.errors import warn

if TYPE_CHECKING:
    import numpy as np

    from histocell.models.base import Model
    from histocell.models.cells.transformer import CellTransformer
    from histocell.models.places import Places
    from histocell.models.problem import Joined


def transformer_of(model: Model) -> CellTransformer:
    """The model, if it is a transformer.

    Raises
    ------
    ValueError
        When it is another.
    """
    from histocell.models.cells.transformer import CellTransformer

    if not isinstance(model, CellTransformer):
        msg = f'{model.name} has no attention; fit model="cell_transformer" on genes and image'
        raise ValueError(msg)
    return model


def attention_by_type(
    model: CellTransformer,
    X: np.ndarray | Joined,
    types: pd.Series,
    places: Places | None,
    device: str | None,
) -> pd.DataFrame:
    """Mean attention by type, layer, and kinds of tokens from and to which it goes.

    Cells that lack a modality do not count, with a warning.

    Raises
    ------
    ValueError
        When no cell has all modalities, or the model has one kind of tokens.
    """
    needed = places if model.needs_places else None
    found = model.attention(X, types.cat.codes.to_numpy(), places=needed, device=device)
    n, n_predicted = int(found.n_cells.sum()), int(types.notna().sum())
    modalities = " and ".join(model.modalities(X.shape[1]).columns)
    if not n:
        msg = f"no cell has {modalities}, so there is no attention between its tokens; predict with attention=False"
        raise ValueError(msg)
    if n < n_predicted:
        warn(f"attention is the mean over the {n} of {n_predicted} predicted cells that have {modalities}")
    names, n_layers = list(types.cat.categories), found.mean.shape[1]
    levels = [names[: len(found.n_cells)], range(1, n_layers + 1), found.sources, found.targets]
    index = pd.MultiIndex.from_product(levels, names=["cell_type", "layer", "from", "to"])
    each = index.get_level_values("cell_type")
    counts = pd.Series(found.n_cells, index=names[: len(found.n_cells)])
    frame = pd.DataFrame(
        {"attention": found.mean.ravel(), "n_cells": counts[each].to_numpy()}, index=index
    ).reset_index()
    return frame[frame["n_cells"] > 0].reset_index(drop=True)
