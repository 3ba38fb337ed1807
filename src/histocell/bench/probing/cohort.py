"""A cohort in a table as the task of a probe: groups that are left out in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell.bench.probing.embeddings import matrix
from histocell.bench.probing.problem import Fold, Problem, Sample
from histocell.tables.access import get_obsm, row_labels
from histocell.tables.expression import choose_panel, read_expression

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from histocell._core.types import Floats
    from histocell.tables.sections import Sections

_MIN_SHARE = 0.1  # of the spots of every section have counts of a gene, as in HEST-Bench


def cohort_problem(
    sections: Sections,
    keys_of: Mapping[str, str],
    *,
    target: str | None,
    genes: int | Sequence[str],
    fold_key: str | None,
    layer: str | None,
) -> Problem:
    """The task of a table: each group, or each fold that a column names, is left out in turn.

    `keys_of` names the key of ``obsm`` of each encoder.

    Raises
    ------
    ValueError
        When there is one group, a section holds several, or a group lies in several folds.
    """
    embeddings = {name: matrix(sections.table, key) for name, key in keys_of.items()}
    groups = dict(zip(sections.names, sections.groups(), strict=True))
    names, targets = _targets(sections, target, genes, layer)
    known = np.isfinite(targets).all(axis=1)
    for values in embeddings.values():
        known &= np.isfinite(values).all(axis=1)
    if not known.all():
        warn(
            f"{int((~known).sum())} of {len(known)} rows are left out, as their target or one of the embeddings is not known; "
            "all encoders are compared on the same rows"
        )
    rows = {name: part[known[part]] for name, part in zip(sections.names, sections.rows, strict=True)}
    samples = [name for name, part in rows.items() if len(part)]
    fold_of = {name: groups[name] for name in samples}
    if fold_key is not None:
        labels = row_labels(sections.table, fold_key, "fold_key= names the column of folds.")
        fold_of = {name: sections.constant(labels, fold_key, name) for name in samples}
        _check_folds(fold_of, groups, fold_key)
    folds = list(dict.fromkeys(fold_of.values()))
    if len(folds) < 2:
        msg = f"a probe leaves groups out in turn, and there is one ({listing(folds)}); group_key= or fold_key= names the column"
        raise ValueError(msg)
    xy = np.asarray(sections.table.obsm[keys.SPATIAL]) if keys.SPATIAL in sections.table.obsm else None

    def read(i: int) -> Sample:
        mine = rows[samples[i]]
        along = np.arange(len(mine)) if xy is None else xy[mine, np.argmax(np.ptp(xy[mine], axis=0))]
        return Sample({name: values[mine] for name, values in embeddings.items()}, targets[mine], along)

    sides = [
        Fold(
            fold,
            [i for i, s in enumerate(samples) if fold_of[s] != fold],
            [i for i, s in enumerate(samples) if fold_of[s] == fold],
        )
        for fold in folds
    ]
    problem = Problem(target or "expression", names, samples, sides, read)
    problem.check(groups)
    return problem


def _check_folds(fold_of: Mapping[str, str], groups: Mapping[str, str], fold_key: str) -> None:
    of_group: dict[str, set[str]] = {}
    for sample, fold in fold_of.items():
        of_group.setdefault(groups[sample], set()).add(fold)
    if split := [group for group, found in of_group.items() if len(found) > 1]:
        msg = (
            f'{listing(split)} lies in several folds of obs["{fold_key}"], so that a probe would be tested on a patient that '
            "it was fitted on; every section of a patient belongs to one fold"
        )
        raise ValueError(msg)


def _targets(
    sections: Sections, target: str | None, genes: int | Sequence[str], layer: str | None
) -> tuple[list[str], Floats]:
    table = sections.table
    if target is None:
        panel = choose_panel(sections, genes=genes, flavor="variance", min_share=_MIN_SHARE, scale="log1p", layer=layer)
        return panel.genes, read_expression(table, panel, layer=layer).astype(np.float64)
    frame = get_obsm(table, target)
    if not hasattr(frame, "columns"):
        msg = f'obsm["{target}"] must be a data frame with one column per target, not {type(frame).__name__}'
        raise TypeError(msg)
    return list(map(str, frame.columns)), frame.to_numpy(dtype=np.float64)
