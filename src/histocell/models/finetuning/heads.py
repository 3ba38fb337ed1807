"""Heads that are trained beside the encoder, an autoencoder of expression and a decoder of images, and their losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from histocell.models.expression.autoencoder import ExpressionAutoencoder, ImageDecoder
from histocell.models.expression.losses import RECONSTRUCTIONS, symmetric_info_nce

if TYPE_CHECKING:
    from torch import Tensor

    from histocell.models.finetuning.settings import FinetuneConfig

    type Losses = dict[str, Tensor]

HEADS = "heads.safetensors"


class Heads(nn.Module):
    """The autoencoder and the decoder that a method needs.

    Parameters
    ----------
    dim
        Width of the image embedding.
    mean, std
        Of each gene over the training rows.
    config
        Settings.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, mean: Tensor, std: Tensor, config: FinetuneConfig) -> None:
        super().__init__()
        self.config = config
        self.reconstruction = RECONSTRUCTIONS[config.loss]
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        sample = config.divergence_weight > 0
        self.autoencoder = None
        if config.contrast:
            self.autoencoder = ExpressionAutoencoder(len(mean), dim, n_flows=config.n_flows, sample=sample, mean=mean)
        self.decoder = ImageDecoder(dim, len(mean), mean=mean) if config.reconstruct else None

    def autoencoder_losses(self, expression: Tensor) -> Losses:
        """Losses of the autoencoder alone."""
        if self.autoencoder is None:
            msg = "this method has no autoencoder"
            raise ValueError(msg)
        coded = self.autoencoder(expression)
        losses = {"genes": self.reconstruction(coded.expression, expression, self.std)}
        if self.config.divergence_weight:
            losses["divergence"] = self.config.divergence_weight * coded.divergence
        return losses

    def losses(self, image: Tensor, expression: Tensor) -> Losses:
        """Losses of a batch of image embeddings, shape ``(n, dim)``, and expression, shape ``(n, genes)``."""
        losses = {}
        if self.autoencoder is not None:
            coded = self.autoencoder(expression)
            losses["contrast"] = symmetric_info_nce(image, coded.code, temperature=self.config.temperature)
            if self.config.reconstruct:
                losses["genes"] = self.reconstruction(coded.expression, expression, self.std)
            if self.config.divergence_weight:
                losses["divergence"] = self.config.divergence_weight * coded.divergence
        if self.decoder is not None:
            losses["image"] = self.reconstruction(self.decoder(image), expression, self.std)
        return losses

    @torch.no_grad()
    def retrieval_ranks(self, image: Tensor, expression: Tensor) -> Tensor:
        """How many rows are nearer to the expression of each row than its own image, shape ``(n,)``."""
        if self.autoencoder is None:
            return image.new_zeros(0)
        codes = functional.normalize(self.autoencoder.encode(expression), dim=1)
        cosines = codes @ functional.normalize(image, dim=1).T
        return (cosines > cosines.diagonal()[:, None]).sum(dim=1)


def load_heads(folder: str | Path) -> Heads:
    """The heads of a tuned encoder, ready for inference.

    ``heads.decoder`` predicts expression from embeddings, in the scale and order of the gene panel in ``histocell.json``;
    ``heads.autoencoder.encode`` brings expression to the place of its images, for retrieval by cosine similarity.

    Parameters
    ----------
    folder
        Of `histocell.tl.finetune_encoder`.

    Raises
    ------
    FileNotFoundError
        When the folder has no heads.
    ValueError
        When the file does not say what it holds, or its tensors are others.
    """
    from safetensors import safe_open

    from histocell.models.finetuning.settings import FinetuneConfig
    from histocell.models.settings import make_config

    path = Path(folder) / HEADS
    if not path.is_file():
        msg = f"no {HEADS} in {folder}: hc.tl.finetune_encoder writes it"
        raise FileNotFoundError(msg)
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get("histocell", "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if not {"dim", "config"} <= facts.keys():
        msg = f"{path} does not say what heads it holds; it was not written by hc.tl.finetune_encoder, or was changed"
        raise ValueError(msg)
    config = make_config(FinetuneConfig, facts["config"], HEADS)
    heads = Heads(facts["dim"], tensors["mean"], tensors["std"], config)
    try:
        heads.load_state_dict(tensors)
    except RuntimeError as error:
        msg = f"the tensors of {path} are not those of its settings: {error}"
        raise ValueError(msg) from error
    return heads.eval()


def save_heads(path: Path, heads: Heads, *, dim: int) -> None:
    """Write the heads with what is needed to build them."""
    from dataclasses import asdict

    from safetensors.torch import save_file

    from histocell._core.outputs import replacing

    tensors = {name: value.detach().cpu().contiguous() for name, value in heads.state_dict().items()}
    facts = json.dumps({"dim": dim, "config": asdict(heads.config)})
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"histocell": facts})
