"""The task of predicting genes, for the protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core import keys
from histocell.tables.access import split_parts
from histocell.tables.expression import choose_panel
from histocell.tables.sections import Sections
from histocell.tl.tasks.expression import expression_task_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histocell.tables.access import Data
    from histocell.tl.engine.task import Task


def expression_task(
    data: Data,
    genes: int | str | Sequence[str] | None = 50,
    *,
    layer: str | None = None,
    scale: str = "log1p_cp10k",
    spot_context: bool = False,
    flavor: str = "variance",
    min_share: float = 0.0,
    split_key: str = keys.SPLIT,
    table_key: str | None = None,
) -> Task:
    """The task of predicting a panel of genes, for the protocols.

    Those leave groups out in turn and score one panel in all of them, so it is chosen over all groups, as that of
    HEST-Bench: over rows with ``obs[split_key] == "train"`` where there are any, else over all.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table, with raw counts.
    genes, layer, scale, spot_context, flavor, min_share
        As in `histocell.tl.fit_expression`.
    split_key
        Column of ``obs`` with ``train``, ``val``, ``test``.
    table_key
        Table of a SpatialData, where it holds several.

    Returns
    -------
    A task: ``hc.bench.leave_one_group_out(data, task=task)``. Its ``target=`` is not used.

    Raises
    ------
    KeyError
        When a gene or the layer is missing.
    ValueError
        When values are no raw counts, or sections share too few genes.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> task = hc.bench.expression_task(sdata, 20)
    >>> scores = hc.bench.leave_one_group_out(sdata, task=task, models="component_ridge", n_bootstrap=0)
    >>> "cc_per_slide" in set(scores["metric"])
    True
    """
    sections = Sections(data, table_key=table_key)
    parts = split_parts(sections.table, split_key)
    train = None if parts is None or not (parts == keys.TRAIN).any() else parts == keys.TRAIN
    options = {"genes": genes, "flavor": flavor, "min_share": min_share, "scale": scale, "spot_context": spot_context}
    panel = choose_panel(sections, train, layer=layer, **options)  # type: ignore[arg-type]
    return expression_task_of(panel, layer)
