"""The encoders that are known by name."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from histocell._core.errors import listing
from histocell.encoders.spec import EncoderSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

_REGISTRY: dict[str, EncoderSpec] = {}


def _registry() -> dict[str, EncoderSpec]:
    if not _REGISTRY:
        from histocell.encoders.catalog import CATALOG

        _REGISTRY.update({spec.name: spec for spec in CATALOG})
    return _REGISTRY


def register(spec: EncoderSpec, *, overwrite: bool = False) -> None:
    """Make an encoder known under ``spec.name``.

    Parameters
    ----------
    spec
        The encoder.
    overwrite
        Whether a known encoder of that name may be replaced; else `ValueError`.
    """
    if spec.name in _registry() and not overwrite:
        msg = f"encoder {spec.name!r} is registered already; pass overwrite=True to replace it"
        raise ValueError(msg)
    _registry()[spec.name] = spec


def get_spec(name: str) -> EncoderSpec:
    """What is known of an encoder.

    Parameters
    ----------
    name
        A registered name, or ``"timm/<model>"`` for any model of timm.

    Raises
    ------
    KeyError
        When the name is neither; the message lists the registered ones.
    """
    if name in _registry():
        return _registry()[name]
    if name.startswith("timm/"):
        return _timm_spec(name)
    msg = f'encoder {name!r} is not known; registered: {listing(_registry())}. Any timm model works as "timm/<model>"'
    raise KeyError(msg)


def _timm_spec(name: str) -> EncoderSpec:
    import timm

    model = name.removeprefix("timm/")
    config = timm.get_pretrained_cfg(model, allow_unregistered=False) if timm.is_model(model) else None
    if config is None:
        near = timm.list_models(f"*{model.partition('.')[0]}*")[:8]
        msg = f"timm has no model {model!r}; similar: {listing(near)}"
        raise KeyError(msg)
    return EncoderSpec(
        name=model,
        library="timm",
        arch=model,
        input_px=int(config.input_size[-1]),
        mean=_three(config.mean),
        std=_three(config.std),
        revision=config.tag or "",
        license=config.license or "",
        summary="a model of timm",
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def list_encoders() -> pd.DataFrame:
    """The registered encoders, one row each, indexed by name."""
    import pandas as pd

    rows = [asdict(replace(spec, arch_kwargs={})) for spec in _registry().values()]
    return pd.DataFrame(rows).set_index("name").drop(columns="arch_kwargs")
