"""Fit a model that brings image and genes of cells into one space, and apply it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.errors import warn
from histocell._core.rng import as_rng
from histocell.models.alignment.base import GENES, VIEWS, AlignmentModel
from histocell.models.base import Model
from histocell.models.fingerprint import Fingerprint, hash_arrays
from histocell.models.registry import load, make_model, model_class
from histocell.tables.access import get_obsm, get_table
from histocell.tables.fields import FieldsOfView
from histocell.tables.sections import Sections
from histocell.tl.engine import features as _features
from histocell.tl.engine.places import places_of
from histocell.tl.engine.rows import row_hashes, usable_parts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import JSON, Bools, Ints
    from histocell.tables.access import Data

TASK = "alignment"
_BASELINE = "cca"


def fit_alignment(
    data: Data,
    genes: str = "X_scgpt",
    image: str = "X_uni2-h",
    *,
    model: str | Model = "contrastive",
    config: Mapping[str, object] | None = None,
    split_key: str = keys.SPLIT,
    library_key: str | None = None,
    key_added: str = keys.ALIGNMENT_MODEL,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> JSON | None:
    """Learn to bring the image and the genes of each cell to the same place in one space.

    Two perceptrons are trained so that each cell of a batch finds its own other view among those of the batch (symmetric
    InfoNCE). Rows with ``obs[split_key] == "train"`` are fitted; rows with ``"val"`` only say when to stop, and without any
    all epochs are trained, with a warning; no other row is looked at. Training rows whose image features show tissue of
    held-out rows are left out, with a warning. A canonical correlation analysis is fitted on the same rows and kept in the
    model, to be shown beside it.

    By default each cell of a batch is a negative of each other, as in the paper. Many of them are of one kind, false
    negatives that genes do not tell apart; ``config={"alike": 0.9}`` leaves out pairs whose gene embeddings (less
    the mean of the training rows) have at least this cosine. The model says in its facts which rule it had.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table. Reads ``obsm[genes]``, ``obsm[image]``, ``obs[split_key]``.
    genes, image
        Embeddings of the expression and of the image of each row, ``(n, n_features)``. That of the image should be
        of the cell itself: a patch of 100 um shows fifty others.
    model
        ``"contrastive"``, or ``"cca"``, which is linear; or a `histocell.models.Contrastive`, whose settings are used.
    config
        Settings of the model, see `histocell.models.Contrastive`, for example ``{"max_epochs": 50}``.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``; see `histocell.pp.split`.
    library_key
        Column of ``obs`` with the sections or slides, by default ``section``.
    key_added
        Slot of ``uns``.
    rng
        Seed or generator; the same one gives the same model, `None` another one each time.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written to ``uns[key_added]``: ``config`` (JSON), ``weights``
    and ``history``. `histocell.models.load` makes a model of it.

    Raises
    ------
    KeyError
        When an embedding is missing.
    TypeError
        When the model has no such setting, or is none that aligns two views.
    ValueError
        When there are no two training rows with both views, a view is constant, or both are the same embedding.

    References
    ----------
    CellSymphony: projectors to 128 dimensions, symmetric InfoNCE.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=1, size_px=600, rng=0)
    >>> hc.pp.patches(sdata, size_um=30, table_key="cell_table")
    >>> hc.pp.embed_image(sdata, "morphology", table_key="cell_table")
    >>> hc.pp.embed_genes(sdata, "pca", n_dims=20, table_key="cell_table")
    >>> cells = sdata["cell_table"]
    >>> hc.pp.split(cells, by="section", val="P1S2", test="P1S3")
    >>> hc.tl.fit_alignment(cells, "X_pca_genes", "X_morphology", config={"max_epochs": 2, "batch_size": 128})
    >>> hc.tl.align(cells)
    >>> cells.obsm["X_aligned_image"].shape == cells.obsm["X_aligned_genes"].shape == (cells.n_obs, 128)
    True
    """
    sections = Sections(data, table_key=table_key, library_key=library_key)
    table = sections.table
    image_features, gene_features = _described(table, image, genes)
    X, Y = (_features.feature_matrix(table, [feature]) for feature in (image_features, gene_features))
    fitted = make_model(model, config or {}, "alignment")
    if not isinstance(fitted, AlignmentModel):
        msg = f'{fitted.name!r} aligns no two views; use model="contrastive" or "cca"'
        raise TypeError(msg)
    known = np.isfinite(X).all(axis=1) & np.isfinite(Y).all(axis=1)
    parts = usable_parts(sections, known, split_key=split_key, features=[image])
    rows = np.flatnonzero((parts == keys.TRAIN) | (parts == keys.VAL))
    validation = parts[rows] == keys.VAL
    generator = as_rng(rng)
    fitted.fit(X[rows], Y[rows], validation=validation, rng=generator, device=device)
    if fitted.name != _BASELINE:
        baseline = model_class(_BASELINE).baseline_for(fitted)
        with warnings.catch_warnings():  # what is wrong with the rows was said
            warnings.simplefilter("ignore", UserWarning)
            fitted.baselines[_BASELINE] = baseline.fit(X[rows], Y[rows], validation=validation, rng=generator)
    for each in (fitted, *fitted.baselines.values()):
        each.features = [image_features]
        each.facts |= {"task": TASK, GENES: gene_features, "library_key": sections.library_key}
    _remember(fitted, sections, image, rows, validation)
    state = fitted.to_dict()
    if not inplace:
        return state
    table.uns[key_added] = state
    keys.write_provenance(
        table, key_added, model=fitted.name, image=image, genes=genes, n_train=fitted.facts["n_train"]
    )
    return None


def align(
    data: Data,
    *,
    model: Model | str | Path | Mapping[str, object] | Data | None = None,
    model_key: str = keys.ALIGNMENT_MODEL,
    key_added: str = keys.ALIGNED,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, NDArray[np.float32]] | None:
    """Bring the image and the genes of each row into the common space of a fitted model.

    The image alone will do: where the gene embedding of the model is missing, only the image is aligned, with a warning.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, that holds the embeddings of the model.
    model
        `None` for the model in the ``uns`` of `data`; or a fitted model, a folder, the mapping that ``uns`` holds, or
        another AnnData or SpatialData that has one.
    model_key
        Slot of ``uns`` that holds the model.
    key_added
        Beginning of the slots of ``obsm``: with ``_image`` and ``_genes``, float32 ``(n, dim)``, unit vectors; NaN for rows
        without finite features.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` the arrays that would have been written to ``obsm``, by key.

    Raises
    ------
    KeyError
        When no model or no embedding of the image is found.
    ValueError
        When an embedding is not of the kind that the model was fitted on.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> cells = AnnData(obsm={"X_image": rng.normal(size=(60, 8)), "X_genes": rng.normal(size=(60, 6))})
    >>> cells.obs["split"] = ["train"] * 40 + ["val"] * 20
    >>> hc.tl.fit_alignment(cells, "X_genes", "X_image", config={"max_epochs": 2, "batch_size": 40})
    >>> hc.tl.align(cells)
    >>> sorted(key for key in cells.obsm if key.startswith("X_aligned"))
    ['X_aligned_genes', 'X_aligned_image']
    """
    table = get_table(data, table_key)
    fitted = load_alignment(table if model is None else model, model_key)
    described = dict(zip(VIEWS, (fitted.features[0], fitted.facts[GENES]), strict=True))
    if described["genes"]["key"] not in table.obsm:
        warn(f'obsm["{described["genes"]["key"]}"] not found: only the image is aligned')
        del described["genes"]
    _features.check_same(table, list(described.values()))
    slots = {}
    for view, feature in described.items():
        values = _features.feature_matrix(table, [feature])
        aligned = slots[f"{key_added}_{view}"] = fitted.project(view, values, device=device)
        if unknown := int((~np.isfinite(aligned).all(axis=1)).sum()):
            warn(f'{unknown} of {table.n_obs} rows of obsm["{feature["key"]}"] are not finite; NaN in the aligned one')
    if not inplace:
        return slots
    facts = {"model": fitted.name, "axes": f"{fitted.name} {hash_arrays(fitted.weights.values())}"}
    for slot, values in slots.items():
        table.obsm[slot] = values
        keys.write_provenance(table, slot, **facts, features=[each["key"] for each in described.values()])
    return None


def load_alignment(source: Model | str | Path | Mapping[str, object] | Data, model_key: str) -> AlignmentModel:
    """A fitted model of two views, or an error that says what it is instead."""
    fitted = source if isinstance(source, Model) else load(source, model_key=model_key)
    if not isinstance(fitted, AlignmentModel) or not fitted.features or GENES not in fitted.facts:
        msg = f"{type(fitted).__name__} was not fitted by hc.tl.fit_alignment, which makes models of two views"
        raise TypeError(msg)
    return fitted


def _described(table: AnnData, image: str, genes: str) -> tuple[JSON, JSON]:
    """What is known of both embeddings."""
    if image == genes:
        msg = f'image and genes are both obsm["{image}"]; a view is not aligned with itself'
        raise ValueError(msg)
    if genes not in table.obsm:
        name = "pca" if genes == "X_pca_genes" else genes.removeprefix("X_")
        get_obsm(table, genes, f'Run hc.pp.embed_genes(data, "{name}") first, or say which with genes=.')
    first, second = _features.describe(table, [*_features.embedding_keys(table, image), genes])
    return first, second


def _remember(fitted: Model, sections: Sections, image: str, rows: Ints, validation: Bools) -> None:
    """Tell the model on which rows and places it was fitted, by which an evaluation recognises them."""
    hashes = row_hashes(sections.table, [image])
    fitted_places, fitted.facts["sections"] = places_of(FieldsOfView.of(sections, [image]), rows)
    fitted.fingerprint = Fingerprint.of(hashes[rows], validation)._replace(places=fitted_places)
