"""Settings of a training of an image encoder by expression."""

from __future__ import annotations

from dataclasses import dataclass

from histocell.models.settings import Config, limited

METHODS = ("seal", "recon", "contrastive")
LOSSES = ("seal", "mse", "standardized_mse", "l1", "huber", "pcc", "negative_binomial", "pls")


@dataclass(frozen=True)
class FinetuneConfig(Config):
    """How an encoder is trained.

    Attributes
    ----------
    method
        ``"seal"``: contrast of image and expression, and reconstruction of expression from both; ``"recon"``:
        reconstruction from the image alone; ``"contrastive"``: contrast alone.
    loss
        Of expression that is decoded: ``"seal"``, correlation of genes and standardised squares; ``"mse"``,
        ``"standardized_mse"``, ``"l1"``, ``"huber"``; ``"pcc"``, correlation within rows; ``"negative_binomial"`` of
        counts; ``"pls"``, covariance of predicted and true genes.
    temperature
        Of the contrast.
    lr, autoencoder_lr
        Learning rate at the top of the schedule: of everything in the second stage, of the autoencoder in the first.
    head_lr
        That of decoders and autoencoder in the second stage, where it is another.
    weight_decay
        Of weight matrices.
    warmup_epochs, max_epochs
        Epochs of the first stage, the autoencoder alone, and of the second.
    batch_size
        Rows that are compared with each other in a step.
    micro_batch
        Images that pass the encoder together with memory for their gradient; the gradient does not depend on it.
    n_flows, divergence_weight
        Planar flows after the code of the autoencoder; weight of its divergence, and with it whether codes are sampled.
    augment
        Whether patches are flipped, turned and stained otherwise.
    stain_jitter
        Standard deviation of the logarithm of the factors by which the stains of a patch change.
    checkpoint_steps
        Steps between checkpoints; there is one after each epoch, too.
    """

    method: str = limited("seal", choices=METHODS)
    loss: str = limited("seal", choices=LOSSES)
    temperature: float = limited(0.05, above=0)
    lr: float = limited(1e-4, above=0)
    autoencoder_lr: float = limited(5e-4, above=0)
    head_lr: float | None = limited(None, above=0)
    weight_decay: float = limited(0.2, least=0)
    warmup_epochs: int = limited(5, least=0)
    max_epochs: int = limited(10, least=1)
    batch_size: int = limited(384, least=2)
    micro_batch: int = limited(64, least=1)
    n_flows: int = limited(0, least=0)
    divergence_weight: float = limited(0.0, least=0)
    augment: bool = True
    stain_jitter: float = limited(0.1, least=0, most=1)
    checkpoint_steps: int = limited(100, least=1)

    @property
    def contrast(self) -> bool:
        """Whether image and expression are contrasted, which needs the autoencoder."""
        return self.method != "recon"

    @property
    def reconstruct(self) -> bool:
        """Whether expression is decoded in the second stage."""
        return self.method != "contrastive"
