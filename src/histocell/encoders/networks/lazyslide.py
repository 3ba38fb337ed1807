"""Encoders of the package lazyslide-models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from histocell._core.errors import MissingKeyError, import_optional, listing
from histocell.encoders.networks.backbone import Backbone
from histocell.encoders.networks.weights import state_digest
from histocell.encoders.spec import EncoderSpec

if TYPE_CHECKING:
    from pathlib import Path


class LazySlideNetwork(nn.Module):
    """A model of lazyslide-models as a module that maps normalised images to embeddings.

    Parameters
    ----------
    model
        With ``encode_image``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model.model  # registered, so that it moves with the module
        self._model = [model]  # not registered: it is no module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings, shape ``(n, dim)``."""
        return torch.as_tensor(self._model[0].encode_image(images))


def load_lazyslide(spec: EncoderSpec, weights: str | Path | None) -> tuple[Backbone, EncoderSpec, str]:
    """Build a model of lazyslide-models; its package finds the weights.

    Parameters
    ----------
    spec
        With the key of the model as `arch`.
    weights
        A file, for models that take one.
    """
    models = import_optional("lazyslide_models", "wsi")
    if weights == "random":
        msg = f"{spec.name!r} comes with its weights; weights='random' is for encoders that histocell builds itself"
        raise ValueError(msg)
    model = models.MODEL_REGISTRY[spec.arch](**({} if weights is None else {"model_path": str(weights)}))
    if not hasattr(model, "encode_image"):
        msg = f"{spec.arch!r} of lazyslide-models does not embed images"
        raise ValueError(msg)
    spec = replace(spec, **_preprocessing(model, spec.arch))
    version = f"lazyslide-models {models.__version__}"
    network = LazySlideNetwork(model)
    return Backbone(network), spec, version if weights is None else f"{version} {state_digest(network)}"


def lazyslide_spec(key: str) -> EncoderSpec:
    """What lazyslide-models knows of a model.

    Parameters
    ----------
    key
        Its name there.
    """
    registry = import_optional("lazyslide_models", "wsi").MODEL_REGISTRY
    if key not in registry:
        near = [name for name in registry if key.partition("-")[0] in name] or list(registry)
        msg = f"lazyslide-models has no model {key!r}; it has {listing(near)}"
        raise MissingKeyError(msg)
    card = registry[key]
    licence = getattr(card, "license", None)
    return EncoderSpec(
        name=f"lazyslide-{key}",
        library="lazyslide",
        arch=key,
        dim=getattr(card, "encode_dim", None),
        license=licence if isinstance(licence, str) else ", ".join(licence or ()),
        commercial=getattr(card, "commercial", None),
        gated=getattr(card, "is_gated", None),
        citation=getattr(card, "paper_url", None) or "",
        summary=getattr(card, "description", None) or "",
    )


def _preprocessing(model: Any, key: str) -> dict[str, Any]:
    """Size, interpolation and normalisation of the transform that a model asks for."""
    transform = model.get_transform()
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    if "Normalize" not in steps or not {"Resize", "CenterCrop"} & set(steps):
        msg = (
            f"the preprocessing of {key!r} in lazyslide-models is not a resize and a normalisation; use another encoder"
        )
        raise ValueError(msg)
    size = (steps.get("CenterCrop") or steps["Resize"]).size
    resize = getattr(steps.get("Resize"), "interpolation", None)
    return {
        "input_px": int(size if isinstance(size, int) else size[0]),
        "mean": tuple(float(value) for value in steps["Normalize"].mean),
        "std": tuple(float(value) for value in steps["Normalize"].std),
        "interpolation": getattr(resize, "value", "bilinear"),
    }
