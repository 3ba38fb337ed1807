"""cell2location, the package: reference signatures and numbers of cells, seeded, with progress, and a look at convergence."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pandas as pd

from histocell._core.device import pick_device
from histocell._core.errors import import_optional, warn
from histocell._core.settings import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    import torch
    from scipy.sparse import csr_matrix

    from histocell._core.types import Floats

EXTRA = "deconvolution"
_REFERENCE_BATCH = 2500  # cells of a step, what the package takes
_TAIL = 0.1  # share of the epochs whose loss is compared with that of as many before
_LEAST_TAIL = 10  # epochs whose losses have a median worth comparing
_SETTLED = 0.01  # most of the loss's whole fall that may happen in the tail of a converged run


class _Trained(Protocol):
    """A model of the package: it trains, and keeps the loss of each epoch."""

    history: Mapping[str, pd.DataFrame]

    def train(self, **settings: object) -> object: ...


class Posterior(NamedTuple):
    """Numbers of cells (spots, types): the 5 % and 95 % quantiles; the loss of each epoch."""

    low: Floats
    high: Floats
    loss: Floats


def fit_signatures(
    counts: csr_matrix,
    labels: pd.Series,
    genes: pd.Index,
    *,
    batches: pd.Series | None,
    epochs: int,
    seed: int,
    device: str | None,
) -> tuple[pd.DataFrame, Floats]:
    """Mean counts per cell, genes by types, of cell2location's regression model; the loss of each epoch."""
    from anndata import AnnData

    models = _models()
    obs = pd.DataFrame({"label": pd.Categorical(labels.to_numpy())}, index=labels.index)
    if batches is not None:
        obs["batch"] = pd.Categorical(batches.to_numpy())
    cells = AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))
    with _apart(seed, chosen := _device(device)):
        models.RegressionModel.setup_anndata(cells, labels_key="label", batch_key=None if batches is None else "batch")
        model = models.RegressionModel(cells)
        loss = _train(model, epochs, chosen, "Reference signatures", batch_size=min(_REFERENCE_BATCH, len(obs)))
        found = model.posterior_quantile(q=0.5, **_accelerator(chosen))
    means = np.asarray(found["per_cluster_mu_fg"], dtype=np.float64) * float(np.mean(found["detection_mean_y_e"]))
    return pd.DataFrame(means.T, index=genes, columns=[str(name) for name in model.factor_names_]), loss


def fit_cells(
    counts: csr_matrix,
    signatures: pd.DataFrame,
    sections: np.ndarray,
    *,
    n_cells_per_spot: float,
    detection_alpha: float,
    epochs: int,
    batch_size: int | None,
    seed: int,
    device: str | None,
) -> Posterior:
    """Numbers of cells of each type in each spot; sections are batches of one model."""
    from anndata import AnnData

    models = _models()
    obs = pd.DataFrame({"section": pd.Categorical(sections)}, index=[str(row) for row in range(counts.shape[0])])
    spots = AnnData(counts, obs=obs, var=pd.DataFrame(index=signatures.index))
    with _apart(seed, chosen := _device(device)):
        models.Cell2location.setup_anndata(spots, batch_key="section")
        model = models.Cell2location(
            spots, signatures, N_cells_per_location=n_cells_per_spot, detection_alpha=detection_alpha
        )
        loss = _train(model, epochs, chosen, "cell2location", batch_size=batch_size)
        low, high = (
            np.asarray(model.posterior_quantile(q=q, **_accelerator(chosen))["w_sf"], dtype=np.float64)
            for q in (0.05, 0.95)
        )
    return Posterior(low, high, loss)


def remaining_fall(loss: Floats) -> float:
    """The share of the loss's whole fall that happened in the last tenth of the epochs; NaN for fewer than 100 epochs.

    The loss is drawn anew in each epoch: medians of fewer than ten say little.
    """
    tail = int(len(loss) * _TAIL)
    if tail < _LEAST_TAIL:
        return float("nan")
    before, last = np.median(loss[-2 * tail : -tail]), np.median(loss[-tail:])
    fall = loss[0] - last
    return float((before - last) / fall) if fall > 0 else float("nan")


def thinned(loss: Floats, n: int = 100) -> list[float]:
    """At most `n` means of consecutive epochs, for the provenance."""
    return [round(float(part.mean()), 1) for part in np.array_split(loss, min(n, len(loss)))]


def warn_unless_converged(loss: Floats) -> bool:
    """Whether the loss has settled; warns where it has not."""
    still = remaining_fall(loss)
    if still <= _SETTLED:
        return True
    seen = f"{100 * still:.2g} % of the fall of its loss happened in the last tenth of them"
    if np.isnan(still):
        seen = "they are too few to tell, or the loss did not fall"
    warn(
        f"cell2location has not converged in {len(loss)} epochs: {seen} (at most {100 * _SETTLED:g} % when it has settled). "
        f"Give more, epochs={5 * len(loss)}"
    )
    return False


def _models() -> ModuleType:
    with warnings.catch_warnings():  # of the packages that it imports
        warnings.simplefilter("ignore")
        models: ModuleType = import_optional("cell2location.models", EXTRA)
        return models


def _device(device: str | None) -> torch.device:
    chosen = pick_device(device)
    if chosen.type == "mps":  # lacks operations that the model needs
        return pick_device("cpu")
    return chosen


def _accelerator(device: torch.device) -> dict[str, str | int]:
    if device.type == "cpu":
        return {"accelerator": "cpu"}
    return {"accelerator": "gpu", "device": device.index or 0}


@contextmanager
def _apart(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers, Pyro's parameters and the logs of scvi-tools and lightning stay as they were for the caller."""
    import pyro

    from histocell.models.training import seeded

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "scvi", "cell2location")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings(), pyro.get_param_store().scope(), seeded(seed, device):
        warnings.simplefilter("ignore")  # of data loaders without workers, of deprecated calls among the packages
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


def _train(model: _Trained, epochs: int, device: torch.device, desc: str, *, batch_size: int | None) -> Floats:
    """Train, with our progress bar in place of lightning's; the loss of each epoch."""
    from lightning.pytorch.callbacks import LambdaCallback

    with progress_bar(total=epochs, desc=desc, unit="epoch") as bar:
        model.train(
            max_epochs=epochs,
            batch_size=batch_size,
            callbacks=[LambdaCallback(on_train_epoch_end=lambda *_: bar.update())],
            enable_progress_bar=False,
            **_accelerator(device),
        )
    history = model.history["elbo_train"]
    return np.asarray(history, dtype=np.float64).ravel()
