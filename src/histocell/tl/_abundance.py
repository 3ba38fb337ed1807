"""Cell abundances from image embeddings: fit, predict, evaluate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from histocell._core import keys
from histocell._core.arguments import check_switch
from histocell.models.base import Model
from histocell.models.registry import load, make_model
from histocell.tables.access import get_table, split_parts
from histocell.tables.sections import Sections
from histocell.tables.units import recorded_unit, unit_of, warn_of_other_unit
from histocell.tl.engine import evaluate as _evaluate
from histocell.tl.engine import fit as _fit
from histocell.tl.engine import predict as _predict
from histocell.tl.engine import rows as _rows
from histocell.tl.engine.abundance import ABUNDANCE
from histocell.tl.engine.layout import places_for, reach_um
from histocell.tl.engine.views import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.tables.access import Data


def fit_abundance(
    data: Data,
    features: str | Sequence[str] | None = None,
    *,
    model: str | Model = "mlp",
    preset: str | None = None,
    config: Mapping[str, object] | None = None,
    target: str = keys.ABUNDANCE,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    library_key: str | None = None,
    standardize_by: str | None = AUTO,
    target_transform: str | None = None,
    interval: float | None = 0.9,
    key_added: str = keys.MODEL,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, Any] | None:
    """Fit a model that predicts cell abundances from embeddings.

    Rows with ``obs[split_key] == "train"`` are fitted; rows with ``"val"`` only choose (when to stop, which penalty, how
    wide an interval); no other row is looked at. Without that column every row with a known target is fitted, with a
    warning. Neighbours of held-out rows, whose features show the same tissue (see `field_um` of
    `histocell.encoders.EncoderSpec`), are left out, with a warning that counts them: training rows beside test or
    validation rows, validation rows beside test rows. What the neighbours show counts, too, for a model that sees them. The
    mean and a ridge regression are fitted on the same rows and kept in the model, to be shown beside it.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table.
    features
        One or several embeddings in ``obsm``, set side by side; by default the only one there is.
    model
        ``"mlp"``, ``"ridge"``, ``"mean"``; ``"spatial_mlp"`` and ``"hist2cell"``, which see the rows around each row and
        need coordinates and the resolution; or a `histocell.models.Model`, whose settings are used and which itself stays
        as it is. ``"hist2cell"`` runs on the embeddings, in place of the ResNet18 of the original.
    preset
        Of the ``"mlp"``: ``"robust"`` (default) or ``"paper"``.
    config
        Settings of the model, see `histocell.models.MLP`, `histocell.models.Ridge`, `histocell.models.SpatialMLP` and
        `histocell.models.Hist2Cell`, for example ``{"mode": "paper"}``.
    target
        Data frame in ``obsm`` with one column per cell type.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``; see `histocell.pp.split`.
    group_key
        Column of ``obs`` whose levels are held out whole when the model chooses something: by default ``patient``, else
        ``section``, whichever has two levels among the training rows, else blocks of the section, with a warning.
    library_key
        Column of ``obs`` with the sections or slides: rows of two of them share no tissue, whatever their coordinates. By
        default ``section``, else what `histocell.pp.patches` was given.
    standardize_by
        ``"auto"``: the features twice, as they are and standardised within each section, side by side, where it is known
        which section a row lies on and sections have 20 rows. A column of ``obs``, for example ``"section"``: features
        standardised within each of its levels alone. `None`: features as they are. Standardising uses the features of the
        rows of a level and nothing else: here without test rows, when predicting of all of them. It corrects for stain and
        scanner, and takes differences between the means of levels away: predictions from such features alone compare
        places within a section, not sections.
    target_transform
        ``"none"``, ``"log1p"``, ``"sqrt"``, ``"standard"`` or ``"root"``, inverted at prediction; by default what the
        model or its preset says, see `histocell.models.Ridge`.
    interval
        Share of true values that the predicted interval should hold, or `None` for no interval.
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
        When an embedding, the target or a column is missing.
    TypeError
        When the model has no such setting.
    ValueError
        When there is no training row, all of them show tissue of held-out rows, ``obs[split_key]`` holds anything but
        ``train``, ``val``, ``test`` and ``dropped``, features are constant, several embeddings could be meant, or a model
        that sees neighbours finds no resolution.

    References
    ----------
    arXiv 2507.07013.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_abundance(sdata, model="ridge")
    >>> sdata["table"].uns["abundance_model"].keys()
    dict_keys(['config', 'weights', 'history'])
    """
    sections = Sections(data, table_key=table_key, group_key=group_key, library_key=library_key)
    parts = split_parts(sections.table, split_key)
    unseen = None if parts is None else parts == keys.TEST
    dataset = _fit.Dataset.read(ABUNDANCE, sections.table, features, target, standardize_by, unseen=unseen)
    keys.safe_names(dataset.truth.renamed.values())  # warns of names that had to change
    given = {"preset": preset, "target_transform": target_transform}
    settings = dict(config or {}) | {name: value for name, value in given.items() if value is not None}
    if isinstance(model, str):  # an instance has an interval of its own
        settings = {"interval": interval} | settings
    unfitted = dataset.views.tell(make_model(model, settings, ABUNDANCE.name))
    dataset = replace(dataset, places=places_for([unfitted], sections))
    reach = reach_um([unfitted], dataset.places)
    rows = _rows.training_rows(sections, dataset.known, split_key=split_key, features=dataset.names, reach_um=reach)
    fitted = _fit.fit(ABUNDANCE, unfitted, dataset, rows, rng=rng, device=device)
    fitted.facts["unit"] = unit_of(sections.table, target, dataset.truth.array)
    state = fitted.to_dict()
    if not inplace:
        return state
    sections.table.uns[key_added] = state
    used = {name: value for name, value in fitted.facts.items() if name not in {"original_names", "sections"}}
    keys.write_provenance(sections.table, key_added, model=fitted.name, features=dataset.names, **used)
    return None


def predict_abundance(
    data: Data,
    *,
    model: Model | str | Path | Mapping[str, Any] | Data | None = None,
    model_key: str = keys.MODEL,
    baselines: bool = True,
    key_added: str = keys.PREDICTED,
    device: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> dict[str, Any] | None:
    """Predict cell abundances.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, that holds the embeddings of the model.
    model
        `None` for the model in the ``uns`` of `data`; or a fitted `histocell.models.Model`, a folder, the mapping that
        ``uns`` holds, or another AnnData or SpatialData that has a model.
    model_key
        Slot of ``uns`` that holds the model.
    baselines
        Whether the baselines' predictions are written too.
    key_added
        Slot of ``obsm``: a data frame, one column per cell type.
    device
        Torch device; `None` for the best there is.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` the data frames that would have been written to ``obsm``, by key: `key_added`, with
    ``_lower`` and ``_upper`` the interval, with ``_mean`` and ``_ridge`` the baselines. Rows without finite features are
    NaN.

    Raises
    ------
    KeyError
        When no model or no embedding is found.
    ValueError
        When an embedding comes from another encoder, patch size or resolution than the model's, or has another dimension.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_abundance(sdata, model="ridge")
    >>> hc.tl.predict_abundance(sdata)
    >>> hc.get.abundance(sdata).columns[:2].to_list()
    ['tumour', 'fibroblast']

    A slide without transcriptomics is predicted with a saved model:

    >>> hc.tl.predict_abundance(slide, model="abundance_model")  # doctest: +SKIP
    """
    baselines = check_switch(baselines, "baselines")
    table = get_table(data, table_key)
    fitted = model if isinstance(model, Model) else load(table if model is None else model, model_key=model_key)
    library_key = fitted.facts.get("library_key")
    sections = Sections(data, table_key=table_key, library_key=library_key if library_key in table.obs else None)
    places = places_for([fitted], sections)
    slots = _predict.predict(ABUNDANCE, table, fitted, key=key_added, device=device, baselines=baselines, places=places)
    if not inplace:
        return {slot: frame for (_, slot), frame in slots.items()}
    _predict.write(table, slots, key=key_added, model=fitted, baselines=baselines)
    return None


def evaluate_abundance(
    data: Data,
    *,
    key: str = keys.PREDICTED,
    target: str = keys.ABUNDANCE,
    split_key: str = keys.SPLIT,
    group_key: str | None = None,
    library_key: str | None = None,
    n_bootstrap: int = 1000,
    key_added: str = keys.EVALUATION,
    rng: SeedLike | RNGLike | None = 0,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Score predictions against known abundances, beside the baselines.

    Rows with ``obs[split_key] == "test"`` are scored where there are any, else all rows. A warning tells how many of the
    scored rows the model was fitted on, and how many show tissue of those, whatever ``obs[split_key]`` says now; a model
    remembers its rows by name and section and by their features.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table.
    key
        Slot of ``obsm`` with the predictions.
    target
        Slot of ``obsm`` with the truth; columns are matched by name.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``.
    group_key
        Column of ``obs`` with the replicates: by default ``patient``, else ``section``, whichever has two levels among
        the scored rows, else one group.
    library_key
        Column of ``obs`` with the sections or slides, by default ``section``.
    n_bootstrap
        Number of resamples for the 95 % intervals, of at least five groups or of the spots of one.
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
    `None`, or with ``inplace=False`` the data frame that would have been written to ``uns[key_added]``, with columns
    ``model``, ``group`` (``all``: mean over groups, and each of them where there are several), ``cell_type`` (``mean``:
    mean over types), ``metric`` (``cc``: Pearson correlation over the spots of a group; ``cc_per_slide``: within slides,
    then averaged; ``l1``: mean absolute error in the units of the target; ``coverage`` of the interval), ``value``,
    ``low``, ``high``, ``interval``, ``n_spots``, ``n_undefined``, ``n_training`` (how many of the spots the model was fitted on),
    ``n_overlapping`` (how many others have features that show tissue of those). A group called ``all`` or a cell type
    called ``mean`` gets an underscore, with a warning. ``interval`` says what ``low`` and ``high`` of a mean are:
    ``95 % over 6 groups``, a bootstrap; ``range of 2 groups``, the least and the greatest of fewer than five, of which
    there is no 95 % interval; with one group ``95 % over spots``, too narrow for other patients; or ``none``. Scores that
    are undefined (constant or missing values) are left out of means and counted.

    Raises
    ------
    KeyError
        When predictions or truth are missing.
    ValueError
        When they share no column, no row can be scored, or ``obs[split_key]`` holds anything but ``train``, ``val``,
        ``test`` and ``dropped``.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_abundance(sdata, model="ridge")
    >>> hc.tl.predict_abundance(sdata)
    >>> hc.tl.evaluate_abundance(sdata, n_bootstrap=100, rng=0)
    >>> scores = hc.get.scores(sdata)
    >>> scores.query("metric == 'l1' and cell_type == 'mean'")[["model", "group", "n_training"]]
       model group  n_training
    ...
    """
    sections = Sections(data, table_key=table_key, library_key=library_key, group_key=group_key)
    scores = _evaluate.evaluate(
        ABUNDANCE, sections, key=key, target=target, split_key=split_key, n_bootstrap=n_bootstrap, rng=rng
    )
    units = [recorded_unit(sections.table, slot) for slot in (key, target)]
    warn_of_other_unit(units[0], units[1], names=("the prediction", "the truth"))
    if not inplace:
        return scores
    sections.table.uns[key_added] = scores
    facts = {"key": key, "target": target, "unit": units[1] or units[0], "split_key": split_key}
    keys.write_provenance(sections.table, key_added, **facts, n_bootstrap=n_bootstrap)
    return None
