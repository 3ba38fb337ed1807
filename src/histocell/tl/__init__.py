"""Tools: fit, predict and evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.tl._abundance import evaluate_abundance, fit_abundance, predict_abundance

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "evaluate_abundance": "histocell.tl._abundance",
        "fit_abundance": "histocell.tl._abundance",
        "predict_abundance": "histocell.tl._abundance",
    },
)
