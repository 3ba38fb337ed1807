"""Least-squares fits of affine maps to pairs of landmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARAMETERS = {"affine": 6, "similarity": 4}
_FLAT = 1e-3  # ratio of the axes of a cloud of points; below, they lie on a line


def fit_landmarks(
    image: NDArray[np.float64], target: NDArray[np.float64], model: str, name: str
) -> tuple[NDArray[np.float64], float | None, NDArray[np.float64]]:
    """The affine map from points of an image to those of the target with the least squares of distances.

    Parameters
    ----------
    image, target
        Pairs of points (n, 2), px.
    model
        ``"affine"`` or ``"similarity"``.
    name
        What they are called in messages.

    Returns
    -------
    Matrix (3, 3); root mean square of the distances of further points that this many landmarks let expect, px of the
    target, `None` where there are no more landmarks than the model needs; distance of each landmark.
    """
    least = _PARAMETERS[model] // 2
    _check_spread(image, target, least, model, name)
    matrix = _affine(image, target) if model == "affine" else _similarity(image, target, name)
    distance = np.linalg.norm(image @ matrix[:2, :2].T + matrix[:2, 2] - target, axis=1)
    spare = 2 * len(image) - _PARAMETERS[model]
    residual = float(np.sqrt(2 * (distance**2).sum() / spare)) if spare > 0 else None
    return matrix, residual, distance


def _check_spread(image: NDArray[np.float64], target: NDArray[np.float64], least: int, model: str, name: str) -> None:
    """Enough points, at different places and, for an affine map, not on one line."""
    for what, points in {"image": image, "target": target}.items():
        n = len(np.unique(points, axis=0))
        if n < least:
            msg = f"{name}: {n} different landmarks in the {what}; a map of model {model!r} needs at least {least}"
            raise ValueError(msg)
        spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if model == "affine" and spread[1] < _FLAT * spread[0]:
            msg = f'{name}: all landmarks in the {what} lie on a line; set some beside it, or use model="similarity"'
            raise ValueError(msg)


def _affine(image: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear least squares around the means, which keeps large coordinates exact."""
    middle, aim = image.mean(axis=0), target.mean(axis=0)
    linear = np.linalg.lstsq(image - middle, target - aim, rcond=None)[0].T
    return _matrix(linear, aim - linear @ middle)


def _similarity(image: NDArray[np.float64], target: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Turn, scale and shift (Umeyama 1991); an error where mirrored landmarks would fit far better."""
    middle, aim = image.mean(axis=0), target.mean(axis=0)
    centred, aimed = image - middle, target - aim
    u, size, vt = np.linalg.svd(aimed.T @ centred)
    turned = np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0
    total = (centred**2).sum()

    def solve(sign: float) -> tuple[NDArray[np.float64], float]:
        rotation = u @ np.diag([1.0, sign]) @ vt
        linear = (size[0] + sign * size[1]) / total * rotation
        return linear, float(np.linalg.norm(aimed - centred @ linear.T))

    linear, error = solve(turned)
    if turned < 0 and len(image) > 2 and solve(1.0)[1] < 0.2 * error:
        msg = (
            f"{name}: the landmarks in the image are mirrored against those of the target, which no turn can undo; were x and y "
            'exchanged, or the slide scanned from behind? model="affine" fits a mirrored image'
        )
        raise ValueError(msg)
    return _matrix(linear, aim - linear @ middle)


def _matrix(linear: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    return matrix
