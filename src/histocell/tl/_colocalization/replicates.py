"""Combination of sections within patients, and of patients by random effects: the patient is the replicate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from histocell.metrics import nan_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]

LEAST_WEIGHT = 0.25  # of a section with hardly three effective points
BOUND = 1 - 1e-12


@dataclass(frozen=True)
class Combined:
    """Fisher's z over patients, arrays of shape ``(k, k)``.

    Attributes
    ----------
    estimate, error
        Mean and its standard error.
    df
        Degrees of freedom of their ratio; infinite where there is one patient.
    scale
        From correlations back to R.
    n_eff
        Effective points, summed over patients, averaged over the sections of each.
    n_patients
        Patients in which the pair is defined.
    """

    estimate: Floats
    error: Floats
    df: Floats
    scale: Floats
    n_eff: Floats
    n_patients: NDArray[np.int64]

    @property
    def r(self) -> Floats:
        """The mean as R."""
        return np.tanh(self.estimate) * self.scale

    @property
    def statistic(self) -> Floats:
        """``estimate / error``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.estimate / self.error

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Confidence interval for R."""
        half = stats.t.ppf((1 + level) / 2, self.df) * self.error
        return np.tanh(self.estimate - half) * self.scale, np.tanh(self.estimate + half) * self.scale


def by_patient(
    r: Floats, scale: Floats, n_eff: Floats, patients: NDArray[np.str_] | NDArray[np.object_]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Average the sections of each patient.

    Sections of one patient are cuts of one tissue and may share what happened by chance: their mean is taken to be no
    more certain than one of them.

    Parameters
    ----------
    r, scale, n_eff
        Shape ``(sections, k, k)``, NaN where a pair is undefined.
    patients
        Patient of each section.

    Returns
    -------
    Fisher's z, its variance, scale and n_eff, shape ``(patients, k, k)``, in the order of first appearance.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        fisher = np.arctanh(np.clip(r / scale, -BOUND, BOUND))
    known = np.isfinite(fisher) & np.isfinite(n_eff)
    weight = np.where(known, np.maximum(n_eff - 3, LEAST_WEIGHT), 0)
    total, count, fisher_sum, scale_sum, n_eff_sum = (
        np.stack([np.where(known, part, 0)[patients == patient].sum(axis=0) for patient in dict.fromkeys(patients)])
        for part in (weight, 1, weight * fisher, weight * scale, n_eff)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return fisher_sum / total, count / total, scale_sum / total, n_eff_sum / count


def random_effects(estimate: Floats, variance: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean over patients, its standard error and degrees of freedom.

    DerSimonian and Laird's variance between patients, Hartung and Knapp's standard error with t of patients - 1
    degrees of freedom. One patient keeps its own variance, and infinite degrees of freedom.

    Parameters
    ----------
    estimate, variance
        Shape ``(patients, ...)``, NaN where undefined.
    """
    known = np.isfinite(estimate) & np.isfinite(variance)
    count = known.sum(axis=0)
    value = np.where(known, estimate, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(known, 1 / variance, 0)
        total = weight.sum(axis=0)
        fixed = (weight * value).sum(axis=0) / total
        excess = (weight * (value - fixed) ** 2).sum(axis=0) - (count - 1)
        between = np.maximum(0, excess / (total - (weight**2).sum(axis=0) / total))
        between = np.where(count > 1, between, 0)
        weight = np.where(known, 1 / (variance + between), 0)
        total = weight.sum(axis=0)
        mean = (weight * value).sum(axis=0) / total
        spread = (weight * (value - mean) ** 2).sum(axis=0) / (count - 1)
        error = np.sqrt(np.where(count > 1, spread, 1) / total)
    undefined = count == 0
    mean, error = np.where(undefined, np.nan, mean), np.where(undefined, np.nan, error)
    return mean, error, np.where(count > 1, count - 1.0, np.inf)


def over_patients(values: Floats, patients: NDArray[np.str_] | NDArray[np.object_]) -> Floats:
    """Mean over patients of the mean over the sections of each, shape ``(k, k)``; undefined values do not count."""
    return nan_mean(np.stack([nan_mean(values[patients == one]) for one in dict.fromkeys(patients)]))


def combine(r: Floats, scale: Floats, n_eff: Floats, patients: NDArray[np.str_] | NDArray[np.object_]) -> Combined:
    """Combine sections within patients, then patients. Parameters as in :func:`by_patient`."""
    estimate, variance, scales, points = by_patient(r, scale, n_eff, patients)
    mean, error, df = random_effects(estimate, variance)
    count = np.isfinite(estimate).sum(axis=0)
    total = np.where(count > 0, np.where(np.isfinite(estimate), points, 0).sum(axis=0), np.nan)
    return Combined(mean, error, df, nan_mean(scales), total, count)
