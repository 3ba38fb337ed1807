"""Tools: fit, predict and evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.tl._abundance import evaluate_abundance, fit_abundance, predict_abundance
    from histocell.tl._colocalization.colocalization import colocalization
    from histocell.tl._colocalization.comparison import colocalization_difference, compare_colocalization

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "colocalization": "histocell.tl._colocalization.colocalization",
        "colocalization_difference": "histocell.tl._colocalization.comparison",
        "compare_colocalization": "histocell.tl._colocalization.comparison",
        "evaluate_abundance": "histocell.tl._abundance",
        "fit_abundance": "histocell.tl._abundance",
        "predict_abundance": "histocell.tl._abundance",
    },
)
