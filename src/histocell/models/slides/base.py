"""The base of models of slides: what is predicted, and checks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.special import softmax

from histocell.models.base import Model
from histocell.models.settings import Config, limited

if TYPE_CHECKING:
    from histocell._core.types import Bools, Floats

CLASSES, SURVIVAL = "classes", "survival"


@dataclass(frozen=True)
class SlideConfig(Config):
    """Settings that all models of slides know.

    Attributes
    ----------
    outcome
        ``"classes"``: targets are 1 in the column of the class; ``"survival"``: targets are the time, and 1 where the event
        happened then, 0 where the patient was last seen without it. :func:`histocell.tl.fit_slides` sets it.
    """

    outcome: str = limited(CLASSES, choices=(CLASSES, SURVIVAL))


class SlideModel(Model):
    """A model of slides: probabilities of classes, or a risk, from the tiles of a slide or from their mean."""

    config_class = SlideConfig
    config: SlideConfig
    tasks = ("slides",)
    needs = "embeddings of tiles of any encoder"

    @property
    def is_survival(self) -> bool:
        """Whether it predicts a risk."""
        return self.config.outcome == SURVIVAL

    @classmethod
    def baseline_for(cls, model: Model) -> Self:
        """A model of this class for the outcome of `model`."""
        return cls(outcome=getattr(model.config, "outcome", CLASSES))

    def _check_width(self, X: np.ndarray, n_features: int) -> None:
        self._check_fitted()
        if X.ndim != 2 or X.shape[1] != n_features:
            msg = f"X must have shape (n, {n_features}), as the model was fitted; it has {X.shape}"
            raise ValueError(msg)

    def _as_outputs(self, scores: Floats) -> Floats:
        """Probabilities of classes from logits; risks stay what they are."""
        return scores if self.is_survival else softmax(scores, axis=1)


def check_outcome(Y: Floats, train: Bools, outcome: str) -> None:
    """Refuse targets of training slides that nothing can be learnt from.

    Raises
    ------
    ValueError
        When they are of one class, or no event is among them.
    """
    n = int(train.sum())
    if outcome == SURVIVAL:
        if Y.shape[1] != 2 or not np.isin(Y[:, 1], (0, 1)).all() or (Y[:, 0] < 0).any():
            msg = "targets of survival must be a time of at least 0 and an event, 0 or 1"
            raise ValueError(msg)
        if not Y[train, 1].any():
            msg = f"all {n} training slides are censored: without an event there is no risk to learn"
            raise ValueError(msg)
        return
    if Y.shape[1] < 2 or not (np.isin(Y, (0, 1)).all() and (Y.sum(axis=1) == 1).all()):
        msg = f"targets of classes must hold a single 1 in each row, in two columns or more; Y has shape {Y.shape}"
        raise ValueError(msg)
    if (Y[train].sum(axis=0) > 0).sum() < 2:
        msg = f"all {n} training slides are of one class, so there is nothing to tell apart"
        raise ValueError(msg)


def fit_scale(X: np.ndarray) -> dict[str, Floats]:
    """Mean of each feature and one over its standard deviation, 0 for a constant one.

    Raises
    ------
    ValueError
        When every feature is constant.
    """
    mean, std = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
    varies = std > 1e-7 * np.maximum(np.abs(X).max(axis=0), 1e-30)
    if not varies.any():
        msg = (
            "all features are the same in all training slides, so nothing can be learnt from them; check the embedding"
        )
        raise ValueError(msg)
    return {"input_mean": mean, "input_scale": np.divide(1.0, std, out=np.zeros_like(std), where=varies)}
