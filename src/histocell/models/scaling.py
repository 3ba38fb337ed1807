"""Scaling of features and targets, fitted on training rows and stored with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core.errors import listing, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from histocell._core.types import Arrays, Bools, Floats

_FORWARD: dict[str, Callable[[Floats], Floats]] = {"none": np.positive, "log1p": np.log1p, "sqrt": np.sqrt}
_INVERSE: dict[str, Callable[[Floats], Floats]] = {
    "none": np.positive,
    "log1p": np.expm1,
    "sqrt": lambda Z: np.maximum(Z, 0.0) ** 2,
}
_STANDARDIZED: dict[str, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "standard": (np.positive, np.positive),
    "root": (lambda Y: np.sign(Y) * np.sqrt(np.abs(Y)), lambda Z: np.sign(Z) * Z**2),
}
TRANSFORMS = (*_FORWARD, *_STANDARDIZED)
CLIP = 4.0  # standard deviations of the training rows beyond which a feature says no more
FEW_ROWS = 20


def standardize_groups(X: ArrayLike, groups: ArrayLike, *, of: ArrayLike | None = None) -> NDArray[np.float32]:
    """Give each feature mean 0 and standard deviation 1 within each group.

    An unsupervised correction of batch effects between sections (stain, scanner): it uses the features of a group and
    nothing else, so a test section is standardised by itself. It also removes what truly differs between groups.

    Parameters
    ----------
    X
        Features, shape ``(n, n_features)``. Rows that are not finite stay as they are and count for nothing.
    groups
        Group of each row.
    of
        Boolean, shape ``(n,)``: the rows that mean and standard deviation are of; all by default, and in a group without any.

    Returns
    -------
    Shape ``(n, n_features)``; features that are constant in a group are 0 there.
    """
    X, groups = np.asarray(X), np.asarray(groups)
    out = np.full(X.shape, np.nan, dtype=np.float32)
    finite = np.isfinite(X).all(axis=1)
    counted = finite if of is None else finite & np.asarray(of, dtype=bool)
    small = []
    for name in np.unique(groups):
        rows = np.flatnonzero((groups == name) & finite)
        if len(rows) == 0:
            continue
        own = rows[counted[rows]] if counted[rows].any() else rows
        if len(own) < FEW_ROWS:
            small.append(f"{name} ({len(own)})")
        mean, scale = _mean_scale(X[own].astype(np.float64))
        out[rows] = (X[rows].astype(np.float64) - mean) * scale
    if small:
        warn(f"groups of fewer than {FEW_ROWS} rows are standardised by themselves, which is noisy: {listing(small)}")
    return out


def fit_input(X: np.ndarray) -> Arrays:
    """Mean and scale of each feature, ``input_mean`` and ``input_scale``, and where they are cut off, ``input_clip``.

    Constant features get scale 0.

    Raises
    ------
    ValueError
        When every feature is constant.
    """
    mean, scale = _mean_scale(X.astype(np.float64))
    if not scale.any():
        msg = (
            f"all features are constant over the {X.shape[0]} training rows, so nothing can be learnt from "
            "them; check the embedding (was every patch blank, or the same?)"
        )
        raise ValueError(msg)
    return {"input_mean": mean, "input_scale": scale, "input_clip": np.array([CLIP])}


def apply_input[Array: (np.ndarray, Tensor)](X: Array, arrays: Mapping[str, Array]) -> Array:
    """Features as the model sees them, of numpy or of torch.

    In standard deviations, cut off where no training row could teach it anything.
    """
    scaled = scale_input(X, arrays)
    if "input_clip" not in arrays:  # a model of an older version
        return scaled
    return scaled.clip(-arrays["input_clip"], arrays["input_clip"])


def scale_input[Array: (np.ndarray, Tensor)](X: Array, arrays: Mapping[str, Array]) -> Array:
    """Features in standard deviations of the training rows, however far away."""
    return (X - arrays["input_mean"]) * arrays["input_scale"]


def fit_target(Y: Floats, transform: str) -> Arrays:
    """What `transform` needs to know of the training targets, ``target_mean`` and ``target_std``.

    Raises
    ------
    ValueError
        For an unknown transform, or one that negative targets do not allow.
    """
    if transform not in TRANSFORMS:
        msg = f"target_transform must be one of {', '.join(TRANSFORMS)}, not {transform!r}"
        raise ValueError(msg)
    if transform in {"log1p", "sqrt"} and (Y < 0).any():
        msg = f"target_transform={transform!r} needs targets that are not negative; {int((Y < 0).sum())} values are"
        raise ValueError(msg)
    if transform not in _STANDARDIZED:
        return {}
    Y = _STANDARDIZED[transform][0](Y)
    mean, std = Y.mean(axis=0), Y.std(axis=0)
    return {"target_mean": mean, "target_std": np.where(constant_columns(Y), 1.0, std)}


def forward_target(Y: Floats, transform: str, arrays: Mapping[str, np.ndarray]) -> Floats:
    """Targets as the model learns them."""
    if transform in _STANDARDIZED:
        return (_STANDARDIZED[transform][0](Y) - arrays["target_mean"]) / arrays["target_std"]
    return _FORWARD[transform](Y)


def inverse_target(Z: Floats, transform: str, arrays: Mapping[str, np.ndarray]) -> Floats:
    """Predictions in the units of the target."""
    if transform in _STANDARDIZED:
        return _STANDARDIZED[transform][1](Z * arrays["target_std"] + arrays["target_mean"])
    return _INVERSE[transform](Z)


def is_standardized(transform: str) -> bool:
    """Whether a transform gives each target mean 0 and standard deviation 1."""
    return transform in _STANDARDIZED


def constant_columns(Y: np.ndarray) -> Bools:
    """Columns whose values are all the same."""
    return Y.max(axis=0) == Y.min(axis=0)


def _mean_scale(X: Floats) -> tuple[Floats, Floats]:
    """Mean and one over the standard deviation, which is 0 where a column only varies by rounding."""
    mean, std = X.mean(axis=0), X.std(axis=0)
    varies = ~constant_columns(X) & (std > 1e-7 * np.abs(X).max(axis=0))
    return mean, np.divide(1.0, std, out=np.zeros_like(std), where=varies)
