"""Types of cells from expression, image and place: fit, predict, evaluate."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

from histocell._core import keys
from histocell._core.arguments import check_share, check_switch
from histocell._core.errors import warn
from histocell.models.base import Model
from histocell.models.registry import load, make_model
from histocell.tables.access import get_table
from histocell.tables.sections import Sections
from histocell.tl._cell_types.attention import attention_by_type, transformer_of
from histocell.tl._cell_types.inputs import embeddings, with_classes_of, without_copies
from histocell.tl._cell_types.task import CELL_TYPES, CellTypeWriter
from histocell.tl.engine import evaluate as _evaluate
from histocell.tl.engine import fit as _fit
from histocell.tl.engine import predict as _predict
from histocell.tl.engine import rows as _rows
from histocell.tl.engine.layout import places_for, reach_um

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.tables.access import Data


def fit_cell_types(
    data: Data,
    genes: str | Sequence[str] | None = None,
    image: str | Sequence[str] | None = None,
    *,
    model: str | Model = "cell_transformer",
    architecture: str | None = None,
    preset: str | None = None,
    config: Mapping[str, object] | None = None,
    target: str = keys.CELL_TYPE,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    library_key: str | None = None,
    keep_overlapping: bool = False,
    key_added: str = keys.CELL_TYPE_MODEL,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, object] | None:
    """Fit a model that tells the types of cells from their expression, their image, or both.

    Rows with ``obs[split_key] == "train"`` are fitted; rows with ``"val"`` only stop the training and calibrate the
    probabilities; no other row is looked at. Without validation rows a fifth of the training groups, blocks of tissue where
    there is one section, is held out for that, and the model is fitted again on all of them. Cells whose patches show
    tissue of held-out rows are left out, with a warning that counts them. The most frequent type, nearest neighbours and a
    logistic regression are fitted on the same inputs and kept in the model, to be shown beside it.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, one row per cell.
    genes
        One or several embeddings of expression in ``obsm``, such as ``"X_scgpt"`` or ``"X_pca_genes"``.
    image
        One or several embeddings of the image in ``obsm``, such as ``"X_morphology"``. A cell needs one of both: where the
        genes or the image are NaN, they are left out of its prediction.
    model
        ``"cell_transformer"``, ``"logistic"``, ``"knn"``, ``"majority"``, or a `histocell.models.Model`, whose settings are
        used and which itself stays as it is.
    architecture
        Of the transformer: ``"unimodal"``, ``"spatial"``, ``"dual"``, ``"multi_input"``; by default ``"dual"`` of genes and
        image, ``"unimodal"`` of one of them. ``"spatial"`` and ``"multi_input"`` read coordinates.
    preset
        Of the transformer: ``"robust"`` (default) or ``"paper"``.
    config
        More settings of the model, see `histocell.models.CellTransformer`.
    target
        Column of ``obs`` with the labels. Cells without one, and those called ``unsure``, are left out.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``; see `histocell.pp.split`.
    group_key
        Column of ``obs`` whose levels are held out whole when the model chooses something: by default ``patient``, else
        ``section``, whichever has two levels among the training rows, else blocks of the section, with a warning.
    library_key
        Column of ``obs`` with the sections or slides.
    keep_overlapping
        Whether cells stay in the fit whose patches show tissue of held-out cells, as publications that divide cells by
        chance do; with a warning, since scores flatter then.
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
    and ``history`` (mappings of arrays). `histocell.models.load` makes a model of it.

    Raises
    ------
    KeyError
        When an embedding, the labels or a column are missing.
    TypeError
        When the model has no such setting.
    ValueError
        When no embedding is named, there is no training row, all of them are of one type or show tissue of held-out rows,
        features are constant, or an architecture does not fit the modalities.

    References
    ----------
    Acosta et al.: CellSymphony.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=400, rng=0)
    >>> hc.pp.embed_genes(sdata, "pca", table_key="cell_table")
    >>> hc.pp.split(sdata, by="section", test="P3S1", table_key="cell_table")
    >>> hc.tl.fit_cell_types(sdata, "X_pca_genes", config={"max_epochs": 2}, table_key="cell_table")
    >>> sdata["cell_table"].uns["cell_type_model"].keys()
    dict_keys(['config', 'weights', 'history'])
    """
    sections = Sections(data, table_key=table_key, group_key=group_key, library_key=library_key)
    of_genes, of_image = embeddings(sections.table, genes, image)
    keep_overlapping = check_switch(keep_overlapping, "keep_overlapping")
    dataset = _fit.Dataset.read(CELL_TYPES, sections.table, [*of_genes, *of_image], target, None)
    described = [
        feature | {"modality": "genes" if feature["key"] in of_genes else "image"} for feature in dataset.features
    ]
    n_genes = sum(feature["dim"] for feature in described if feature["modality"] == "genes")
    given = {"preset": preset, "architecture": architecture, "gene_columns": n_genes}
    unfitted = _make(model, dict(config or {}) | {name: value for name, value in given.items() if value is not None})
    dataset = replace(dataset, features=described, places=places_for([unfitted], sections))
    reach = reach_um([unfitted], dataset.places)
    if keep_overlapping:
        warn("cells whose patches show tissue of held-out cells are fitted, so scores of those flatter the model")
    rows = _rows.training_rows(
        sections,
        dataset.known,
        split_key=split_key,
        features=dataset.names,
        reach_um=reach,
        keep_overlapping=keep_overlapping,
    )
    rows = without_copies(dataset, rows, split_key)
    dataset = with_classes_of(dataset, rows)
    fitted = _fit.fit(CELL_TYPES, unfitted, dataset, rows, rng=rng, device=device)
    state = fitted.to_dict()
    if not inplace:
        return state
    sections.table.uns[key_added] = state
    used = {name: value for name, value in fitted.facts.items() if name not in {"original_names", "sections"}}
    keys.write_provenance(sections.table, key_added, model=fitted.name, features=dataset.names, **used)
    return None


def predict_cell_types(
    data: Data,
    *,
    model: Model | str | Path | Mapping[str, object] | Data | None = None,
    model_key: str = keys.CELL_TYPE_MODEL,
    abstain: float = 0.0,
    min_probability: float = 0.0,
    attention: bool = False,
    baselines: bool = True,
    key_added: str = keys.PREDICTED_TYPE,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, object] | None:
    """Predict the types of cells, with probabilities.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, that holds the embeddings of the model. Where all genes or all images are
        missing, a transformer that was fitted on both predicts from the other, with a warning.
    model
        `None` for the model in the ``uns`` of `data`; or a fitted `histocell.models.Model`, a folder, the mapping that
        ``uns`` holds, or another AnnData or SpatialData that has a model.
    model_key
        Slot of ``uns`` that holds the model.
    abstain
        Share of the predicted cells, those with the least confidence, that are called ``unsure``.
    min_probability
        Cells whose most probable type is less probable than that are called ``unsure``.
    attention
        Whether to write how much of the attention of genes, image and coordinates goes to which, for each predicted type. It takes
        about as long as the prediction. Cells that lack genes or image do not count, with a warning.
    baselines
        Whether the baselines' predictions are written too, under the same rule.
    key_added
        Column of ``obs``, and beginning of the other slots.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` what would have been written, by slot: ``obs[key_added]``, a category of types (and
    ``unsure``; missing for cells without features); ``obs[key_added + "_confidence"]``, the probability of that type;
    ``obsm[key_added + "_probability"]``, a data frame with one column per type; and the same of the baselines with
    ``_majority``, ``_knn`` and ``_logistic`` after `key_added`. Probabilities stay where a cell is ``unsure``. With `attention`
    also ``uns[key_added + "_attention"]``, a data frame: ``cell_type`` as in ``obs[key_added]``, ``layer`` from 1, ``from`` and ``to``
    (``genes``, ``image``, ``coordinates``; ``to`` also those of neighbours), ``attention``, the mean over heads and cells, which
    sums to 1 over ``to``, and ``n_cells``. It is that of the transformer, without the logistic regression that may be
    blended in, and says where the net looked, not what decided the type.

    Raises
    ------
    KeyError
        When no model or no embedding is found.
    ValueError
        When an embedding is not that of the model, or attention is asked of a model with one kind of tokens or of cells none of
        which has genes and image.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=400, rng=0)
    >>> hc.pp.embed_genes(sdata, "pca", table_key="cell_table")
    >>> hc.pp.split(sdata, by="section", test="P3S1", table_key="cell_table")
    >>> hc.tl.fit_cell_types(sdata, "X_pca_genes", model="logistic", table_key="cell_table")
    >>> hc.tl.predict_cell_types(sdata, min_probability=0.5, table_key="cell_table")
    >>> "predicted_cell_type" in sdata["cell_table"].obs
    True
    """
    baselines = check_switch(baselines, "baselines")
    shares = {
        "abstain": check_share(abstain, "abstain"),
        "min_probability": check_share(min_probability, "min_probability"),
    }
    table = get_table(data, table_key)
    fitted = model if isinstance(model, Model) else load(table if model is None else model, model_key=model_key)
    library_key = fitted.facts.get("library_key")
    sections = Sections(data, table_key=table_key, library_key=library_key if library_key in table.obs else None)
    places = places_for([fitted], sections)
    task = replace(
        CELL_TYPES, writer=CellTypeWriter(abstain=shares["abstain"], min_probability=shares["min_probability"])
    )
    transformer = transformer_of(fitted) if check_switch(attention, "attention") else None
    X = _predict.inputs(task, table, fitted)
    slots = _predict.predict(task, table, fitted, key=key_added, device=device, baselines=baselines, places=places, X=X)
    if transformer is not None:
        types = cast("pd.Series", slots["obs", key_added])
        slots["uns", f"{key_added}_{keys.ATTENTION}"] = attention_by_type(transformer, X, types, places, device)
    if not inplace:
        return {slot: value for (_, slot), value in slots.items()}
    _predict.write(table, slots, key=key_added, model=fitted, baselines=baselines, more=shares)
    return None


def evaluate_cell_types(
    data: Data,
    *,
    key: str = keys.PREDICTED_TYPE,
    target: str | None = None,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    library_key: str | None = None,
    n_bootstrap: int = 1000,
    key_added: str = keys.CELL_TYPE_EVALUATION,
    rng: SeedLike | RNGLike | None = 0,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Score predicted types against known labels, beside the baselines.

    Rows with ``obs[split_key] == "test"`` are scored where there are any, else all rows; a warning tells how many of them
    the model was fitted on, and how many show tissue of those. Cells that are ``unsure`` do not count in other scores than
    ``called``. Cells of types that the model does not know are left out, with a warning that counts them.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table.
    key
        Column of ``obs`` with the predictions.
    target
        Column of ``obs`` with the labels; by default the one that the model was fitted on.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``.
    group_key
        Column of ``obs`` with the replicates: by default ``patient``, else ``section``, whichever has two levels among
        the scored rows, else one group.
    library_key
        Column of ``obs`` with the sections or slides, by default ``section``.
    n_bootstrap
        Number of resamples for the 95 % intervals, of at least five groups, or of blocks of tissue of a single one: the
        squares of `histocell.pp.split`, else 32 blocks of a section. Neighbouring cells are alike, so cells are not drawn
        one by one.
    key_added
        Slot of ``uns``.
    rng
        Seed or generator; `None` for other draws each time.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` the data frame that would have been written to ``uns[key_added]``, with the columns of
    `histocell.tl.evaluate_abundance`. Metrics of each ``cell_type`` are ``f1``, ``precision`` and ``recall``; that of
    ``mean`` is their mean over types, so macro-F1. Metrics of all cells together stand in ``mean`` alone: ``accuracy``,
    ``calibration_error`` (expected, in 15 bins of the confidence) and ``called``, the share of the cells that are not
    ``unsure``. ``interval`` says what ``low`` and ``high`` are: ``95 % over 14 blocks``, ``95 % over 6 groups``, ``range of
    2 groups`` or, with fewer than five blocks, ``none``.

    Raises
    ------
    KeyError
        When predictions or labels are missing.
    ValueError
        When they share no type, or no row can be scored.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=400, rng=0)
    >>> hc.pp.embed_genes(sdata, "pca", table_key="cell_table")
    >>> hc.pp.split(sdata, by="section", test="P3S1", table_key="cell_table")
    >>> hc.tl.fit_cell_types(sdata, "X_pca_genes", model="logistic", table_key="cell_table")
    >>> hc.tl.predict_cell_types(sdata, table_key="cell_table")
    >>> scores = hc.tl.evaluate_cell_types(sdata, n_bootstrap=50, table_key="cell_table", inplace=False)
    >>> sorted(set(scores["metric"]))
    ['accuracy', 'calibration_error', 'called', 'f1', 'precision', 'recall']
    """
    sections = Sections(data, table_key=table_key, library_key=library_key, group_key=group_key)
    recorded = keys.read_provenance(sections.table, key).get("target")
    truth = target or str(recorded or keys.CELL_TYPE)
    scores = _evaluate.evaluate(
        CELL_TYPES, sections, key=key, target=truth, split_key=split_key, n_bootstrap=n_bootstrap, rng=rng
    )
    if not inplace:
        return scores
    sections.table.uns[key_added] = scores
    keys.write_provenance(sections.table, key_added, key=key, target=truth, n_bootstrap=n_bootstrap)
    return None


def _make(model: str | Model, settings: dict[str, object]) -> Model:
    """The unfitted model; one that was given keeps its settings, but for the number of columns of the genes."""
    if not isinstance(model, Model):
        return make_model(model, settings, CELL_TYPES.name)
    n_genes = settings.pop("gene_columns")
    copy = make_model(model, settings, CELL_TYPES.name)
    return type(copy)(**asdict(copy.config) | {"gene_columns": n_genes})
