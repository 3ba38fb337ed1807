"""Tools: fit, predict and evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.tl._abundance import evaluate_abundance, fit_abundance, predict_abundance
    from histocell.tl._colocalization.colocalization import colocalization
    from histocell.tl._colocalization.difference import colocalization_difference
    from histocell.tl._colocalization.evaluation import evaluate_colocalization
    from histocell.tl._colocalization.result import ColocalizationResult

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "ColocalizationResult": "histocell.tl._colocalization.result",
        "colocalization": "histocell.tl._colocalization.colocalization",
        "colocalization_difference": "histocell.tl._colocalization.difference",
        "evaluate_abundance": "histocell.tl._abundance",
        "evaluate_colocalization": "histocell.tl._colocalization.evaluation",
        "fit_abundance": "histocell.tl._abundance",
        "predict_abundance": "histocell.tl._abundance",
    },
)
