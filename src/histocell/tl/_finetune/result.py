"""Result of a training of an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from histocell.tables.expression import GenePanel


@dataclass(frozen=True)
class FinetuneResult:
    """An encoder that was tuned by expression; `histocell.tl.finetune_encoder` makes it.

    Attributes
    ----------
    folder
        Of the adapter, its heads and its checkpoints: ``hc.encoders.register_adapter(folder)`` makes an encoder of it.
    encoder
        Name of the base.
    method
        ``"seal"``, ``"recon"`` or ``"contrastive"``.
    parameters
        How many parameters of the encoder are trained, and in which layers.
    panel
        The genes.
    n_train, n_val
        Number of rows.
    train_groups, val_groups
        Their patients, else sections.
    history
        Curves by epoch: ``train_loss`` and ``val_loss``, shape ``(1, epochs)``, ``best_epoch``, and the parts of the losses.
    """

    folder: Path
    encoder: str
    method: str
    parameters: str
    panel: GenePanel
    n_train: int
    n_val: int
    train_groups: list[str]
    val_groups: list[str]
    history: dict[str, NDArray[np.float64]] = field(repr=False)

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights were kept, from 1."""
        return int(self.history["best_epoch"][0]) + 1

    @property
    def validation(self) -> dict[str, float]:
        """Scores of the validation rows after that epoch."""
        names = [name for name in self.history if name.startswith("val_")]
        return {name: float(self.history[name][0, self.best_epoch - 1]) for name in names}

    def __repr__(self) -> str:
        n_epochs = self.history["train_loss"].shape[1]
        scores = ", ".join(f"{name.removeprefix('val_')} {value:.3f}" for name, value in self.validation.items())
        return (
            f"FinetuneResult({self.encoder!r} by {self.method!r} in {str(self.folder)!r}\n"
            f"  trained: {self.parameters}\n"
            f"  {self.n_train} rows of {len(self.train_groups)} groups, {len(self.panel)} genes; "
            f"{n_epochs} epochs, the weights of epoch {self.best_epoch} are kept\n"
            f"  validation ({self.n_val} rows of {', '.join(self.val_groups[:4])}): {scores})"
        )
