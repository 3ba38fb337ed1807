"""Models on arrays, their files and their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.models.registry import load
    from histocell.models.regressors.mlp import MLP
    from histocell.models.regressors.ridge import Mean, Ridge

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "MLP": "histocell.models.regressors.mlp",
        "Mean": "histocell.models.regressors.ridge",
        "Ridge": "histocell.models.regressors.ridge",
        "load": "histocell.models.registry",
    },
)
