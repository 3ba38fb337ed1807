"""Encoders side by side: frozen, tuned, and how they differ over patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell import metrics
from histocell._core import keys
from histocell._core.arguments import as_names, check_count
from histocell._core.errors import listing, warn
from histocell._core.rng import as_rng
from histocell.bench.comparison import compare
from histocell.bench.costs import COSTS
from histocell.bench.expression import expression_task
from histocell.bench.probing.cohort import cohort_problem
from histocell.bench.probing.embeddings import cohort_keys, seen_groups
from histocell.bench.probing.run import finished
from histocell.bench.protocols import leave_one_group_out
from histocell.tables.sections import Sections
from histocell.tl.engine.abundance import ABUNDANCE
from histocell.tl.engine.evaluate import ALL, MEAN
from histocell.tl.engine.intervals import over_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.bench.probing.embeddings import Encoders
    from histocell.tables.access import Data

TASKS = ("probe", "expression", "abundance")
_SCORE = {"probe": "pearson", "expression": "cc", "abundance": "cc"}


@dataclass(frozen=True)
class EncoderComparison:
    """Scores of encoders on the same groups, and their differences; :func:`histocell.bench.compare_encoders` makes it.

    Attributes
    ----------
    scores
        The table of :func:`histocell.bench.probe` or :func:`histocell.bench.leave_one_group_out`, with a column ``task``;
        ``features`` names the encoder.
    differences
        The table of :func:`histocell.bench.compare`, with a column ``task``: each encoder less the reference, group by
        group.
    reference
        The encoder that others are compared with.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    reference: str

    def __repr__(self) -> str:
        means = self.scores[(self.scores["group"] == ALL) & (self.scores["target"] == MEAN)]
        lines = []
        for task in dict.fromkeys(means["task"]):
            chosen = means[(means["task"] == task) & (means["metric"] == _SCORE[task])]
            for row in chosen.to_dict("records"):
                line = f"  {task:<10} {row['features']:<24} {row['value']:.3f} {_bounds(row)}"
                found = self.differences.query(
                    "task == @task and features == @name", local_dict={"task": task, "name": row["features"]}
                )
                if len(found):
                    other = found.iloc[0]
                    line += (
                        f"   {other['difference']:+.3f} {_bounds(other)} p = {other['p']:.2g} against {self.reference}"
                    )
                lines.append(line)
        return "EncoderComparison\n" + "\n".join(lines)


def compare_encoders(
    data: Data,
    encoders: Encoders | None = None,
    tasks: str | Sequence[str] = "probe",
    *,
    reference: str | None = None,
    model: str = "ridge",
    genes: int | Sequence[str] = 50,
    target: str = keys.ABUNDANCE,
    group_key: str = keys.PATIENT,
    layer: str | None = None,
    n_bootstrap: int = 1000,
    rng: SeedLike | RNGLike | None = 0,
    device: str | None = None,
    table_key: str | None = None,
) -> EncoderComparison:
    """Compare encoders, frozen and tuned, on patients that are left out in turn.

    Every encoder is scored by the same model on the same rows; differences are taken patient by patient. A ridge on the
    frozen encoder is what a tuned one has to beat: tuning by contrast can make the prediction of expression worse. Patients
    whose expression an adapter was trained or validated on are scored for no encoder, since the tuned one knows them.

    Parameters
    ----------
    data
        AnnData or SpatialData with counts or abundances, and embeddings or patches.
    encoders
        Keys of ``obsm``, by default all ``X_*``; or encoders: names, folders of adapters, or loaded ones. What is not in
        ``obsm`` is embedded. Or a mapping from names for the tables: ``{"frozen": "X_uni", "SEAL": "runs/uni-seal"}``.
    tasks
        ``"probe"`` (the protocol ``hest-cv`` of :func:`histocell.bench.probe`), ``"expression"`` (as
        :func:`histocell.tl.fit_expression` does it), ``"abundance"`` (as :func:`histocell.tl.fit_abundance`); one or several.
    reference
        The encoder that others are compared with, by its name; by default the first.
    model
        Of ``"expression"`` and ``"abundance"``.
    genes
        Of ``"probe"`` and ``"expression"``: how many, or names.
    target
        Of ``"abundance"``: data frame in ``obsm``.
    group_key
        Column of ``obs`` whose levels are left out in turn.
    layer
        Layer with raw counts, by default ``X``.
    n_bootstrap, rng
        Resamples of groups for the intervals, and their seed.
    device
        Torch device.
    table_key
        Table of a SpatialData that holds several.

    Returns
    -------
    :class:`EncoderComparison`: ``scores`` and ``differences``. Writes ``obsm["X_<encoder>"]`` of encoders that were not
    there.

    Raises
    ------
    KeyError
        When an embedding is not there.
    ValueError
        For fewer than two encoders or groups, an unknown task, or when adapters were trained on all groups but one.

    References
    ----------
    Gindra et al.: HESCAPE (2025), arXiv:2508.01490, on contrastive tuning that makes the prediction of expression worse.

    Examples
    --------
    >>> import numpy as np
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(5, n_patients=5, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> sdata["table"].obsm["X_noise"] = np.random.default_rng(0).normal(size=(sdata["table"].n_obs, 30))
    >>> result = hc.bench.compare_encoders(sdata, ["X_noise", "X_morphology"], "abundance", n_bootstrap=100)
    >>> result.differences["difference"].item() > 0
    True
    """
    names = as_names(tasks)
    if unknown := [name for name in names if name not in TASKS]:
        msg = f"tasks must be of {listing(TASKS)}, not {listing(unknown)}"
        raise ValueError(msg)
    check_count(n_bootstrap, "n_bootstrap")
    sections = Sections(data, table_key=table_key, group_key=group_key)
    groups = sections.groups()
    found = cohort_keys(data, sections.table, encoders, device=device, table_key=table_key)
    first = _reference(found, reference)
    dropped = _dropped(seen_groups(sections.table, found, groups), groups)
    seed = int(as_rng(rng).integers(2**31 - 1))
    options = {"n_bootstrap": n_bootstrap, "rng": seed, "table_key": table_key}
    scores, differences = [], []
    for task in names:
        if task == "probe":
            problem = cohort_problem(sections, found, target=None, genes=genes, fold_key=None, layer=layer)
            table = finished([problem.scores(["hest-cv"], list(found), n_bootstrap=n_bootstrap, seed=seed)])
        else:
            of_task = (
                ABUNDANCE if task == "abundance" else expression_task(data, genes, layer=layer, table_key=table_key)
            )
            table = leave_one_group_out(
                data,
                found,
                task=of_task,
                models=[model],
                target=target,
                group_key=group_key,
                colocalization=False,
                device=device,
                **options,  # type: ignore[arg-type]
            )
        table = _unseen(table[~table["metric"].isin(COSTS)].assign(task=task), dropped, n_bootstrap, seed)
        tests = compare(table, (table["model"].iloc[0], first), metric=_SCORE[task], n_bootstrap=n_bootstrap, rng=seed)
        column = "gene" if "gene" in table else "cell_type"
        scores.append(table.rename(columns={column: "target"}))
        differences.append(tests.rename(columns={column: "target"}).assign(task=task))
    both = [pd.concat(each, ignore_index=True) for each in (scores, differences)]
    return EncoderComparison(both[0], both[1], first)


def _reference(found: Mapping[str, str], reference: str | None) -> str:
    if len(found) < 2:
        msg = f"a comparison needs two encoders, not {listing(found)}"
        raise ValueError(msg)
    first = next(iter(found)) if reference is None else reference
    if first not in found:
        msg = f"reference {first!r} is none of the encoders: {listing(found)}"
        raise ValueError(msg)
    return first


def _dropped(seen: dict[str, list[str]], groups: Sequence[str]) -> set[str]:
    """Groups that are not scored, as an adapter was trained on them."""
    dropped = {group for names in seen.values() for group in names}
    if not dropped:
        return dropped
    left = [group for group in dict.fromkeys(groups) if group not in dropped]
    who = "; ".join(f"{name} on {listing(names, 6)}" for name, names in seen.items())
    if len(left) < 2:
        msg = f"encoders were tuned with the expression of the patients that are to be scored ({who}), and {listing(left)} is left; compare them on patients that no adapter has seen"
        raise ValueError(msg)
    warn(
        f"encoders were tuned with the expression of some patients ({who}): these are scored for no encoder, {len(left)} are"
    )
    return dropped


def _unseen(table: pd.DataFrame, dropped: set[str], n_bootstrap: int, seed: int) -> pd.DataFrame:
    """The scores of the other groups, and their means anew."""
    if not dropped:
        return table
    column = "gene" if "gene" in table else "cell_type"
    kept = table[~table["group"].isin(dropped)].copy()
    single = kept[kept["group"] != ALL]
    for (model, features, metric), part in single.groupby(["model", "features", "metric"], sort=False):
        wide = part.pivot_table(index="group", columns=column, values="value", sort=False, dropna=False)
        targets = [name for name in wide if name != MEAN]
        values = wide[targets].to_numpy(dtype=float)
        if not targets:  # scored as a whole
            values = wide[[MEAN]].to_numpy(dtype=float)
        low, high, names = over_groups(values, "groups", n_bootstrap=n_bootstrap, rng=seed)
        of_all = (
            (kept["group"] == ALL)
            & (kept["model"] == model)
            & (kept["features"] == features)
            & (kept["metric"] == metric)
        )
        means = [*metrics.nan_mean(values), float(metrics.nan_mean(metrics.nan_mean(values, axis=1)))]
        place = {name: i for i, name in enumerate(targets)} | {MEAN: -1}
        where = kept.loc[of_all, column].map(place).to_numpy()
        for name, new in (("value", means), ("low", low), ("high", high), ("interval", names)):
            kept.loc[of_all, name] = np.asarray(new, dtype=object if name == "interval" else float)[where]
    return kept


def _bounds(row: dict[str, float] | pd.Series) -> str:
    return f"({row['low']:.3f} to {row['high']:.3f}, {row['interval']})" if np.isfinite(row["low"]) else ""
