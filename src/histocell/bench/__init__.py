"""Evaluation protocols that give tidy tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocell._core.lazy import attach

if TYPE_CHECKING:
    from histocell.bench.protocols import cross_dataset, leave_one_group_out

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "cross_dataset": "histocell.bench.protocols",
        "leave_one_group_out": "histocell.bench.protocols",
    },
)
