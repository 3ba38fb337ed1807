"""The methods of deconvolution behind one interface: from counts and a reference to abundances with their noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from histocell._core.arguments import check_count, check_positive
from histocell._core.errors import listing, warn
from histocell.models.deconvolution.mixtures import fit_mixtures, shares, similar_pairs
from histocell.pp._deconvolve import cell2location
from histocell.pp._deconvolve.inputs import STRICT, WIDE, Cells, expressed
from histocell.tables.units import CELLS, PROPORTION

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from histocell._core.types import JSON, Floats

NNLS, CELL2LOCATION = "nnls", "cell2location"
_DEFAULTS: dict[str, float] = {
    "n_cells_per_spot": 30,
    "detection_alpha": 20,
    "epochs": 30_000,
    "reference_epochs": 250,
}
_SIMILAR = 0.99


class Settings(NamedTuple):
    """What a method was told; `None` where it was not."""

    method: str
    n_cells_per_spot: float | None
    detection_alpha: float | None
    epochs: int | None
    reference_epochs: int | None
    batch_size: int | None
    reference_batch_key: str | None

    def check(self) -> JSON:
        """The settings of cell2location, in full; an error for what the method does not know."""
        if self.method not in {NNLS, CELL2LOCATION}:
            msg = f'method must be "{NNLS}" or "{CELL2LOCATION}", not {self.method!r}'
            raise ValueError(msg)
        given = {name: value for name, value in self._asdict().items() if name != "method" and value is not None}
        if self.method == NNLS and (unknown := sorted(given.keys() - {"n_cells_per_spot"})):
            msg = f'{listing(unknown)}: of method="{CELL2LOCATION}" only; "{NNLS}" has nothing to set but n_cells_per_spot'
            raise TypeError(msg)
        for name in ("n_cells_per_spot", "detection_alpha"):
            if name in given:
                check_positive(given[name], name)
        for name in ("epochs", "reference_epochs", "batch_size"):
            if name in given:
                check_count(given[name], name, least=1)
        return given if self.method == NNLS else _DEFAULTS | given


class Result(NamedTuple):
    """Abundances of spots by types, their noise and what that is, their unit, and facts for the provenance."""

    abundance: Floats
    noise: Floats
    noise_is: str
    unit: str
    facts: JSON


def signatures_of(
    cells: Cells, settings: Settings, batches: pd.Series | None, *, seed: int, device: str | None
) -> tuple[pd.DataFrame, JSON]:
    """Signatures (genes, types) of the cells by the method's own rule, and facts about them."""
    limits = STRICT if settings.method == NNLS else WIDE
    keep = expressed(cells.counts, limits)
    counts, genes = cells.counts[:, keep], cells.genes[keep]
    facts: JSON = {"cells": cells.labels.value_counts().sort_index().to_dict()}
    if settings.method == CELL2LOCATION:
        epochs = int(settings.check()["reference_epochs"])
        frame, loss = cell2location.fit_signatures(
            counts, cells.labels, genes, batches=batches, epochs=epochs, seed=seed, device=device
        )
        return frame, facts | {"reference_epochs": epochs, "reference_loss": cell2location.thinned(loss)}
    types = sorted(cells.labels.unique())
    means = [np.asarray(counts[(cells.labels == name).to_numpy()].mean(axis=0)).ravel() for name in types]
    return pd.DataFrame(np.asarray(means).T, index=genes, columns=types), facts


def check_types(signatures: pd.DataFrame) -> None:
    """Refuse types without counts on the genes that are used; warn of types that no gene tells apart."""
    if len(empty := signatures.columns[signatures.sum() == 0]):
        msg = f"cell types without counts on the {len(signatures)} genes that are used: {listing(empty)}; leave them out of the reference"
        raise ValueError(msg)
    pairs = similar_pairs(signatures.to_numpy().T, _SIMILAR)
    if pairs:
        said = listing([" and ".join(str(signatures.columns[k]) for k in pair) for pair in pairs], 5)
        warn(
            f"cell types of nearly one signature, whose shares cannot be told apart: {said}; merge them in the reference"
        )


def nnls(counts: csr_matrix, signatures: pd.DataFrame, sections: np.ndarray, settings: Settings) -> Result:
    """Our own: section by section."""
    n_cells = settings.n_cells_per_spot
    abundance = np.full((counts.shape[0], signatures.shape[1]), np.nan)
    noise = np.full_like(abundance, np.nan)
    facts: JSON = {}
    means = np.ascontiguousarray(signatures.to_numpy().T)
    for name in dict.fromkeys(sections):
        rows = np.flatnonzero(sections == name)
        part = counts[rows]
        seen = np.asarray(part.sum(axis=0)).ravel() > 0
        found = fit_mixtures(part[:, seen], means[:, seen])
        logs = np.log(found.platform)
        facts[str(name)] = {"spots": len(rows), "genes": int(seen.sum()), "platform_sd": round(float(logs.std()), 3)}
        if n_cells is None:
            abundance[rows], noise[rows] = shares(found.weights, found.covariance)
        else:
            scale = n_cells / found.weights.sum(axis=1).mean()
            abundance[rows] = found.weights * scale
            noise[rows] = np.sqrt(np.maximum(np.einsum("nkk->nk", found.covariance), 0)) * scale
    return Result(abundance, noise, "standard error", PROPORTION if n_cells is None else CELLS, {"fits": facts})


def run_cell2location(
    counts: csr_matrix,
    signatures: pd.DataFrame,
    sections: np.ndarray,
    settings: Settings,
    *,
    seed: int,
    device: str | None,
) -> Result:
    """The package, on all sections together, each a batch of its model."""
    values: dict[str, Any] = settings.check()
    found = cell2location.fit_cells(
        counts,
        signatures,
        sections,
        n_cells_per_spot=float(values["n_cells_per_spot"]),
        detection_alpha=float(values["detection_alpha"]),
        epochs=int(values["epochs"]),
        batch_size=settings.batch_size,
        seed=seed,
        device=device,
    )
    converged = cell2location.warn_unless_converged(found.loss)
    facts = {name: values[name] for name in ("n_cells_per_spot", "detection_alpha", "epochs")}
    facts |= {"statistic": "q05", "converged": converged, "loss": cell2location.thinned(found.loss)}
    return Result(found.low, found.high - found.low, "q95 - q05", CELLS, facts)
