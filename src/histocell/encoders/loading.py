"""From a name or a module to an encoder that embeds patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from histocell._core.device import pick_device
from histocell.encoders.registry import get_spec
from histocell.encoders.spec import Encoder, EncoderSpec

if TYPE_CHECKING:
    import torch


def load(
    encoder: str | torch.nn.Module,
    *,
    weights: str | Literal["random"] | None = None,
    device: str | None = None,
    batch_size: int = 32,
    rng: int = 0,
) -> Encoder:
    """Build an encoder.

    Parameters
    ----------
    encoder
        A registered name, ``"timm/<model>"``, or a module that maps float images, shape ``(n, 3, h, w)``, normalised with
        ImageNet's mean and deviation, to embeddings, shape ``(n, dim)``.
    weights
        `None` for the pretrained weights of the library; a local checkpoint (``.safetensors``, or a ``state_dict`` that
        ``torch.load(weights_only=True)`` reads), loaded strictly; ``"random"`` for the initial weights of seed `rng`.
    device
        Torch device; by default ``hc.settings.device``, else the best there is.
    batch_size
        Patches in one forward pass.
    rng
        Seed of ``weights="random"``.
    """
    if isinstance(encoder, str):
        spec = get_spec(encoder)
        if spec.library == "builtin":
            if weights is not None:
                msg = f"the built-in encoder {spec.name!r} has no weights; leave weights= out"
                raise ValueError(msg)
            from histocell.encoders.morphology import Morphology

            return Morphology()
        module, revision = _build_timm(spec, weights, rng)
    else:
        module, revision = encoder, ""
        spec = EncoderSpec(name=type(encoder).__name__, library="module")
    from histocell.encoders.inference import PatchEncoder

    return PatchEncoder(
        module, spec, version=revision or spec.revision, device=pick_device(device), batch_size=batch_size
    )


def _build_timm(spec: EncoderSpec, weights: str | None, rng: int) -> tuple[torch.nn.Module, str]:
    import timm
    import torch

    arguments = {"num_classes": 0, **spec.arch_kwargs}
    if weights is None:
        try:
            return timm.create_model(spec.arch, pretrained=True, **arguments), spec.revision
        except Exception as error:
            msg = (
                f"the weights of {spec.name!r} could not be downloaded or read ({error}). Give a local checkpoint with "
                'weights="model.safetensors", or use the built-in encoder "morphology", which needs none'
            )
            raise OSError(msg) from error
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(rng)
            return timm.create_model(spec.arch, pretrained=False, **arguments), f"random-{rng}"
    module = timm.create_model(spec.arch, pretrained=False, **arguments)
    module.load_state_dict(_read_state(weights), strict=True)
    return module, weights.rpartition("/")[2]


def _read_state(path: str) -> dict[str, torch.Tensor]:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)
