"""Options of a co-localization analysis: weights, null, alternative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histocell.kernels.null import Alternative

    type Null = Literal["stationary", "no_preference", "labels", "shift", "permute", "permute_y", "analytic"]

NULLS = {  # what is tested
    "stationary": "R of two independent smooth fields is 0",
    "no_preference": "neighbours of another type come in proportion to abundance",
    "labels": "types are placed at random",
    "shift": "fields that are shifted, turned and mirrored agree as well",
    "permute": "points are exchanged at random, all variables together",
    "permute_y": "points of the lagged variable are exchanged at random",
    "analytic": "points do not depend on each other",
}
ACCOUNTS = {  # what p makes of neighbours that are alike
    "stationary": "how smooth each field is by itself",
    "no_preference": "how each type clusters by itself",
    "shift": "how smooth each field is by itself",
}
ALTERNATIVES = ("two-sided", "greater", "less")


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """An error that lists what is allowed."""
    if value not in allowed:
        msg = f"{name} must be one of {', '.join(allowed)}, not {value!r}"
        raise ValueError(msg)


class Kernel(TypedDict):
    """Parameters of RBF weights."""

    length_scale: float
    cutoff: float
    include_self: bool


@dataclass(frozen=True)
class Options:
    """How R and its p-value are computed.

    Attributes
    ----------
    length_scale_um, length_scale_source
        Of the RBF weights and of the autocovariances; where it comes from.
    weights
        Where the weights come from.
    cutoff, include_self
        Of the RBF weights.
    row_standardize
        Whether weights are made to sum to 1 in each row.
    null, alternative, n_draws, confidence
        Of the test; `n_draws` is 0 where nothing is drawn.
    """

    length_scale_um: float
    length_scale_source: str
    weights: str
    cutoff: float
    include_self: bool
    row_standardize: bool
    null: Null
    alternative: Alternative
    n_draws: int
    confidence: float

    @property
    def kernel(self) -> Kernel:
        """Of the RBF weights."""
        return {"length_scale": self.length_scale_um, "cutoff": self.cutoff, "include_self": self.include_self}
