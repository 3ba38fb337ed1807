"""The task of cell abundances: numbers of each cell type in ``obsm``, scored by correlation and error."""

from __future__ import annotations

from histocell import metrics
from histocell._core import keys
from histocell.tl.engine.frames import Frames
from histocell.tl.engine.task import Metric, Task

ABUNDANCE = Task(
    "abundance",
    target=Frames("hc.pp.import_abundance(data, table) writes abundances, one column per cell type.").read,
    metrics=(
        Metric("cc", metrics.pearson, metrics.bootstrap_pearson),
        Metric("cc_per_slide", metrics.pearson, metrics.bootstrap_pearson, within_slides=True),
        Metric.of_entries("l1", metrics.absolute_error, higher_is_better=False),
        Metric.of_entries("coverage", metrics.covered, outputs=(keys.LOWER, keys.UPPER)),
    ),
    writer=Frames("Run hc.tl.predict_abundance(data) first."),
    baselines=keys.BASELINES,
    column="cell_type",
)
