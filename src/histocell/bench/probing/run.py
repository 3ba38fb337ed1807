"""The probe of embeddings: HEST-Bench's protocol, exact, over its folder or over a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core.arguments import as_names, check_count
from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng
from histocell.bench.probing.cohort import cohort_problem
from histocell.bench.probing.embeddings import cohort_keys, folder_sources, seen_groups, trained_on
from histocell.bench.probing.hest_folder import hest_problems
from histocell.bench.probing.problem import check_protocols
from histocell.tables.sections import Sections
from histocell.tl.engine.evaluate import ALL, MEAN
from histocell.tl.engine.intervals import NONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.bench.probing.embeddings import Encoders
    from histocell.tables.access import Data


def probe(
    data: Data | str | Path,
    encoders: Encoders | None = None,
    *,
    protocol: str | Sequence[str] = "hest",
    tasks: str | Sequence[str] | None = None,
    target: str | None = None,
    genes: int | Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
    group_key: str | None = None,
    fold_key: str | None = None,
    layer: str | None = None,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
    store: str | PathLike[str] | None = None,
) -> pd.DataFrame:
    """Predict expression from frozen embeddings by ridge, patients left out in turn: how much an encoder knows of it.

    The protocol of HEST-Bench: logarithms of 1 + raw counts of 50 genes; features standardised and reduced to 256 principal
    components, both fitted on the training rows; ridge without an intercept; Pearson correlation per gene over all rows of
    a test fold, the mean over genes, then over folds. Every row is read once; all folds and genes are solved from sums of
    products, exactly and in float64. HEST's own code stops its solver early and draws its components at random, which moves
    the mean of a fold by about 0.001.

    Parameters
    ----------
    data
        The folder of HEST-Bench, or of one of its tasks: ``splits/train_<i>.csv`` and ``test_<i>.csv`` (``sample_id,
        patches_path, expr_path``), ``var_50genes.json``, patches in h5, expression in h5ad. Or AnnData or SpatialData with
        embeddings.
    encoders
        What is compared: of a folder a name of :func:`histocell.encoders.list_encoders`, an encoder that is loaded, or a
        folder with embeddings, ``<sample>.h5`` or ``<task>/<sample>.h5`` with ``embeddings`` and ``barcodes``; of a table
        keys of ``obsm``, by default all ``X_*``, or encoders that embed its patches. One, several, or a mapping from names
        for the table.
    protocol
        ``"hest"``; ``"hest-cv"``, the penalty chosen on samples of the training side that are held out in turn (of a single
        sample on stretches of it), which is fairer to wide embeddings; ``"hest-no-pca"`` and ``"hest-cv-no-pca"``, ridge on
        the embeddings as they are. One or several.
    tasks
        Tasks of a folder; all by default.
    target
        Data frame in ``obsm`` to be predicted instead of expression.
    genes
        Names; or how many of a table, 50 by default: those with the largest variance among the genes in at least a tenth
        of the spots of every section, as HEST-Bench has them, over all rows. That choice says what is scored, and is the
        same for all folds and encoders.
    patients
        Patient of each sample of a folder; folds with one on both sides are refused.
    group_key
        Column of ``obs`` whose levels are left out in turn; by default ``patient``, else the section.
    fold_key
        Column of ``obs`` with the test fold of each row, instead.
    layer
        Layer with raw counts, by default ``X``.
    n_bootstrap, rng
        Resamples of groups for the intervals, and their seed.
    device
        Of encoders that embed.
    table_key
        Table of a SpatialData that holds several.
    store
        Folder that keeps what encoders embed of a folder, ``<store>/<encoder>/<task>/<sample>``, while they do. A run that
        was killed and is started again repeats at most 512 patches; other weights, settings or patches than those of the
        run before are an error.

    Returns
    -------
    One row per ``task, model`` (the protocol), ``features`` (the encoder), ``group`` (the fold, and ``all``) and ``gene``
    (and ``mean``): ``metric`` (``pearson``), ``value``, ``low, high, interval``, ``n_undefined`` (correlations that are not
    defined, as gene or prediction is constant; they are NaN, and means are over the others), ``n_spots, n_training,
    n_components, alpha``. Writes ``obsm["X_<encoder>"]`` of encoders that embedded the patches of a table. With several tasks the task ``all`` has their mean.

    Raises
    ------
    FileNotFoundError
        When a folder has no task, or a file is missing.
    KeyError
        When a gene, an embedding or an encoder is not there.
    ValueError
        When a patient lies on both sides of a fold, rows of embeddings and expression do not match, values are no raw
        counts, or `store` holds embeddings of other settings.

    References
    ----------
    Jaume et al.: HEST-1k (NeurIPS 2024), arXiv:2406.16192.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> scores = hc.bench.probe(sdata, "X_morphology", protocol="hest-no-pca", genes=20, n_bootstrap=100)
    >>> scores.query("group == 'all' and gene == 'mean'")["interval"].item()
    'range of 3 groups'
    """
    protocols = check_protocols(protocol)
    check_count(n_bootstrap, "n_bootstrap")
    intervals = {"n_bootstrap": n_bootstrap, "seed": int(as_rng(rng).integers(2**63 - 1))}
    if isinstance(data, str | Path):
        given = {"target": target, "group_key": group_key, "fold_key": fold_key, "layer": layer, "table_key": table_key}
        _check_none(given, "a table")
        if isinstance(genes, int):
            msg = "of a folder genes= are names; by default those of var_50genes.json"
            raise TypeError(msg)
        sources = folder_sources(encoders, device=device)
        wanted = [None if names is None else as_names(names) for names in (tasks, genes)]
        if store is not None and all(isinstance(source, Path) for source in sources.values()):
            msg = "store= keeps what encoders embed, and all encoders= are folders with embeddings"
            raise ValueError(msg)
        kept = None if store is None else Path(store).expanduser()
        problems = hest_problems(Path(data).expanduser(), sources, tasks=wanted[0], genes=wanted[1], store=kept)
        for problem in problems:
            problem.check(patients or {})
            seen = {name: trained_on(source) & {*problem.samples} for name, source in sources.items()}
            _warn_of_seen({name: sorted(samples) for name, samples in seen.items()})
        return finished([problem.scores(protocols, list(sources), **intervals) for problem in problems])
    _check_none({"tasks": tasks, "patients": patients, "store": store}, "a folder of HEST-Bench")
    sections = Sections(data, table_key=table_key, group_key=group_key)
    found = cohort_keys(data, sections.table, encoders, device=device, table_key=table_key)
    _warn_of_seen(seen_groups(sections.table, found, sections.groups()))
    facts = {"target": target, "genes": 50 if genes is None else genes, "fold_key": fold_key, "layer": layer}
    problem = cohort_problem(sections, found, **facts)  # type: ignore[arg-type]
    return finished([problem.scores(protocols, list(found), **intervals)])


def finished(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables of all tasks in one, with their mean where there are several."""
    table = pd.concat([*tables, *_over_tasks(tables)], ignore_index=True)
    return table.astype({"n_undefined": int, "n_spots": int, "n_training": int, "n_components": int})


def _warn_of_seen(seen: Mapping[str, Sequence[str]]) -> None:
    for name, known in seen.items():
        if known:
            warn(
                f"{name!r} was tuned with the expression of {listing(known)}: its scores there are of tissue that it knows"
            )


def _check_none(given: Mapping[str, object], kind: str) -> None:
    if wrong := [name for name, value in given.items() if value is not None]:
        msg = f"{listing(f'{name}=' for name in wrong)} is for {kind}"
        raise ValueError(msg)


def _over_tasks(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The mean over tasks of each protocol and encoder."""
    if len(tables) < 2:
        return []
    means = pd.concat([table[(table["group"] == ALL) & (table["gene"] == MEAN)] for table in tables])
    rows = []
    for _, part in means.groupby(["model", "features"], sort=False):
        value = metrics.nan_mean(np.asarray(part["value"], dtype=np.float64))
        counts = {name: part[name].sum() for name in ("n_undefined", "n_spots", "n_training")}
        row = part.iloc[0].to_dict() | counts | {"n_components": part["n_components"].min()}
        rows.append(row | {"task": ALL, "value": float(value), "low": np.nan, "high": np.nan, "interval": NONE})
    return [pd.DataFrame(rows)]
