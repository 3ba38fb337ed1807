"""Models by name, the table of them, and loading of saved ones."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocell._core import keys
from histocell._core.errors import listing, missing_key
from histocell.models import files
from histocell.models.base import BASELINE, FINGERPRINT, Model
from histocell.models.checks import check_shapes
from histocell.models.fingerprint import Fingerprint

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

# The function that writes the model of a slot
_FITS = {
    "abundance_model": "fit_abundance",
    "alignment_model": "fit_alignment",
    "cell_type_model": "fit_cell_types",
    "expression_model": "fit_expression",
    "slide_model": "fit_slides",
}
# Name in files and arguments to the class, or to where it is. Adding a model = one file + one row.
MODELS: dict[str, str | type[Model]] = {
    "abmil": "histocell.models.slides.abmil:ABMIL",
    "bleep": "histocell.models.expression.retrieval:Bleep",
    "cca": "histocell.models.alignment.cca:CCA",
    "cell_transformer": "histocell.models.cells.transformer:CellTransformer",
    "common_class": "histocell.models.slides.pooled:CommonClass",
    "component_ridge": "histocell.models.expression.component_ridge:ComponentRidge",
    "contrastive": "histocell.models.alignment.projectors:Contrastive",
    "hest": "histocell.models.expression.hest:Hest",
    "hist2cell": "histocell.models.regressors.hist2cell.regressor:Hist2Cell",
    "knn": "histocell.models.cells.baselines:Nearest",
    "logistic": "histocell.models.cells.baselines:Logistic",
    "majority": "histocell.models.cells.baselines:Majority",
    "mean": "histocell.models.regressors.ridge:Mean",
    "mean_pooling": "histocell.models.slides.pooled:MeanPooling",
    "mlp": "histocell.models.regressors.mlp:MLP",
    "ridge": "histocell.models.regressors.ridge:Ridge",
    "seal_decoder": "histocell.models.expression.nets:SealDecoder",
    "similarity": "histocell.models.expression.retrieval:Similarity",
    "spatial_mlp": "histocell.models.regressors.spatial_mlp:SpatialMLP",
    "st_net": "histocell.models.expression.nets:STNet",
}


def has_models(task: str) -> bool:
    """Whether there are models that are for a task."""
    return any(task in _class(name).tasks for name in MODELS)


def model_class(name: str, task: str | None = None) -> type[Model]:
    """The class of a model name, or an error that lists the names, those for a task alone where one is given."""
    if name in MODELS and (task is None or task in (_class(name).tasks or (task,))):
        return _class(name)
    fit = [each for each in MODELS if task is None or task in (_class(each).tasks or (task,))]
    what = (
        f"{name!r} is a model for {listing(_class(name).tasks)}, not for {task}"
        if name in MODELS
        else f"unknown model {name!r}"
    )
    msg = f"{what}; there are: {', '.join(fit)}"
    raise ValueError(msg)


def _class(name: str) -> type[Model]:
    entry = MODELS[name]
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)


_COLUMNS = ("tasks", "summary", "needs", "limits", "cost", "license", "reference")


def list_models() -> pd.DataFrame:
    """The models of all tasks, one row each, indexed by name.

    Columns: the tasks that a model is for (``"abundance"``: :func:`histocell.tl.fit_abundance`, ``"alignment"``: :func:`histocell.tl.fit_alignment`), a summary, what it reads
    beside the target, its limits, what it costs, the licence of a fitted model, publication. No model comes fitted: what a
    fitted one inherits are the terms of the encoder that its embeddings are of
    (:func:`histocell.encoders.list_encoders`).

    Examples
    --------
    >>> import histocell as hc
    >>> hc.models.list_models().loc["mlp", "reference"]
    'Sun, Zhu and Qiu 2025, arXiv:2507.07013'
    """
    import pandas as pd

    classes = {name: model_class(name) for name in MODELS}
    rows = {name: {column: getattr(each, column) for column in _COLUMNS} for name, each in classes.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS)).rename_axis("name")
    return table.assign(tasks=table["tasks"].map(", ".join))


def make_model(model: str | Model, config: Mapping[str, object], task: str | None = None) -> Model:
    """A model by name, or an unfitted copy of the model given; an error for one of another task."""
    if isinstance(model, str):
        return model_class(model, task)(**config)
    if not isinstance(model, Model):
        msg = f"model must be a name or a histocell model, not {type(model).__name__}"
        raise TypeError(msg)
    if task is not None and model.tasks and task not in model.tasks:
        msg = f"{type(model).__name__} is a model for {listing(model.tasks)}, not for {task}"
        raise ValueError(msg)
    if config:
        msg = f"settings belong into the model when one is given: {type(model).__name__}({listing(config)})"
        raise TypeError(msg)
    return type(model)(**asdict(model.config))


def load(
    source: str | Path | Mapping[str, Any] | AnnData | SpatialData,
    *,
    model_key: str = keys.MODEL,
    table_key: str | None = None,
) -> Model:
    """Load a fitted model.

    Parameters
    ----------
    source
        A folder that `Model.save` wrote, an AnnData or SpatialData that a model was fitted on, or the mapping that its
        ``uns[model_key]`` holds.
    model_key
        Slot of ``uns`` that holds the model.
    table_key
        Table of a SpatialData, where several hold a model.

    Raises
    ------
    FileNotFoundError
        When the folder or one of its files is not there.
    KeyError
        When the data hold no such model.
    ValueError
        When the model is damaged or was changed: names, shapes and types of the weights must be those that the config
        lists and fit its settings, and they must be finite. When several tables hold a model.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_abundance(sdata, model="ridge")
    >>> model = hc.models.load(sdata)
    >>> model
    Ridge(6 targets, features: X_morphology as they are and standardised by section, 40 training rows, groups by patient)
    >>> model.save("abundance_model")  # doctest: +SKIP
    >>> model = hc.models.load("abundance_model")  # doctest: +SKIP
    """
    if isinstance(source, str | Path):
        with files.naming(str(source)):
            return _from_state(files.read(Path(source)))
    if isinstance(source, Mapping):
        with files.naming("the mapping"):
            return _from_state(files.from_dict(source))
    mapping = _uns(source, model_key, table_key)[model_key]
    with files.naming(f'uns["{model_key}"]'):
        return _from_state(files.from_dict(mapping))


def _uns(source: AnnData | SpatialData, model_key: str, table_key: str | None) -> Mapping[str, Any]:
    """The ``uns`` that holds the model: of an AnnData, or of the one table of a SpatialData that has it."""
    if not hasattr(source, "tables") and not hasattr(source, "uns"):
        msg = f"a model is loaded from a folder, a mapping, an AnnData or a SpatialData, not {type(source).__name__}"
        raise TypeError(msg)
    tables = dict(getattr(source, "tables", None) or {"": source})
    if table_key is not None:
        if table_key not in tables:
            raise missing_key("tables", table_key, tables)
        tables = {table_key: tables[table_key]}
    holders = [name for name, table in tables.items() if model_key in table.uns]
    if not holders:
        there = [key for table in tables.values() for key in table.uns]
        fit = f"hc.tl.{_FITS[model_key]}(data)" if model_key in _FITS else "with a function hc.tl.fit_..."
        hint = f"Fit a model first, {fit}, or choose its slot with model_key=."
        raise missing_key("uns", model_key, there, hint)
    if len(holders) > 1:
        msg = f'several tables hold uns["{model_key}"]: {listing(holders)}; choose one with table_key='
        raise ValueError(msg)
    return tables[holders[0]].uns


def _from_state(state: files.State) -> Model:
    config, weights = state.config, dict(state.weights)
    model = model_class(config["model"])(**config["config"])
    model.features, model.targets, model.facts = config["features"], config["targets"], config["facts"]
    model.history = state.history
    for name, baseline in config["baselines"].items():
        arrays = files.pop_prefix(weights, BASELINE.format(name))
        model.baselines[name] = _from_state(files.State(baseline, arrays, {}))
    rows = files.pop_prefix(weights, FINGERPRINT)
    needed = set(Fingerprint._fields) - set(Fingerprint._field_defaults)  # not every fit knows the places of its rows
    if rows and not needed <= set(rows) <= set(Fingerprint._fields):
        msg = f"the rows of the fit are {listing(rows)}, not {listing(Fingerprint._fields)}"
        raise ValueError(msg)
    model.fingerprint = Fingerprint(**rows) if rows else None
    model.weights = weights
    check_shapes(weights, model.weight_shapes())
    return model
