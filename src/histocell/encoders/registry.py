"""Registry of encoders: specs by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocell._core.errors import MissingKeyError, listing
from histocell.encoders.spec import EncoderSpec

if TYPE_CHECKING:
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

    Examples
    --------
    >>> import histocell as hc
    >>> spec = hc.encoders.EncoderSpec(name="our-vit", library="timm", arch="vit_base_patch16_224")
    >>> hc.encoders.register(spec)  # doctest: +SKIP
    >>> hc.encoders.load("our-vit", weights="model.safetensors")  # doctest: +SKIP
    """
    if spec.name in _registry() and not overwrite:
        msg = f"encoder {spec.name!r} is registered already; pass overwrite=True to replace it"
        raise ValueError(msg)
    _registry()[spec.name] = spec


def register_adapter(folder: str | Path, *, name: str | None = None, overwrite: bool = False) -> str:
    """Make an encoder with an adapter known by its name.

    Loading it takes the weights of the base, checks that they are those that the adapter was trained on, and adds its
    updates to them. Features record base, adapter and the checksum of its content.

    Parameters
    ----------
    folder
        Folder of a tuned encoder.
    name
        Name of the encoder; by default the one that the adapter was saved under.
    overwrite
        Whether another encoder of that name may be replaced; else `ValueError`.

    Returns
    -------
    The name, for :func:`histocell.pp.embed_image`, :func:`histocell.encoders.load` and all others that take one;
    ``obsm["X_<name>"]`` holds the embeddings.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        When the folder is not whole, or another encoder has the name.

    Examples
    --------
    >>> import histocell as hc
    >>> name = hc.encoders.register_adapter("runs/uni-breast")  # doctest: +SKIP
    >>> hc.pp.embed_image(sdata, name)  # doctest: +SKIP
    >>> hc.encoders.load(name, weights="uni/pytorch_model.bin")  # doctest: +SKIP
    """
    from histocell.encoders.adapters.files import read_adapter
    from histocell.encoders.adapters.tuned import adapter_spec

    spec = adapter_spec(read_adapter(folder), name)
    there = _registry().get(spec.name)
    # trained again into the same folder: features that exist know the checksum of the one before
    is_again = there is not None and _folder(there) == _folder(spec)
    register(spec, overwrite=overwrite or is_again)
    return spec.name


def _folder(spec: EncoderSpec) -> str | None:
    return None if spec.adapter is None else spec.adapter.folder


def get_spec(name: str) -> EncoderSpec:
    """The spec of an encoder.

    Parameters
    ----------
    name
        A registered name (also with capitals or underscores), ``"timm/<model>"`` for any model of timm,
        ``"lazyslide:<key>"`` for a model of lazyslide-models, or the folder of an adapter, which is then registered.

    Raises
    ------
    KeyError
        When the name is none of these; the message lists the registered ones.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.encoders.get_spec("uni2").hub_id
    'MahmoodLab/UNI2-h'
    """
    from histocell.encoders.catalog import ALIASES

    if not isinstance(name, str):
        msg = f"an encoder is named by a string such as 'uni', not by {name!r}; hc.encoders.list_encoders() lists them"
        raise TypeError(msg)
    if name in _registry():
        return _registry()[name]
    if name.startswith("timm/"):
        return _timm_spec(name)
    if name.startswith("lazyslide:"):
        from histocell.encoders.networks.lazyslide import lazyslide_spec

        return lazyslide_spec(name.removeprefix("lazyslide:"))
    if "/" in name or "\\" in name or Path(name).is_dir():
        return _adapter_spec(name)
    canonical = name.lower().replace("_", "-")
    canonical = ALIASES.get(canonical, canonical)
    if canonical in _registry():
        return _registry()[canonical]
    near = difflib.get_close_matches(canonical, [*_registry(), *ALIASES], 3)
    msg = (
        f"encoder {name!r} is not known"
        + (f"; did you mean {listing(near)}?" if near else ".")
        + f' Registered: {listing(_registry(), 40)}. Any model of timm works as "timm/<model>", any of lazyslide-models as '
        '"lazyslide:<key>", a tuned encoder by the folder of its adapter'
    )
    raise MissingKeyError(msg)


def _adapter_spec(folder: str) -> EncoderSpec:
    from histocell.encoders.adapters.files import is_adapter

    if not is_adapter(folder):
        msg = f"{folder!r} is neither an encoder's name nor the folder of an adapter, which holds histocell.json"
        raise MissingKeyError(msg)
    return _registry()[register_adapter(folder)]


def _timm_spec(name: str) -> EncoderSpec:
    import timm

    model = name.removeprefix("timm/")
    config = timm.get_pretrained_cfg(model, allow_unregistered=False) if timm.is_model(model) else None
    if config is None:
        near = timm.list_models(f"*{model.partition('.')[0]}*")[:8]
        msg = f"timm has no model {model!r}; similar: {listing(near)}"
        raise MissingKeyError(msg)
    facts: dict[str, Any] = {"input_px": config.input_size[-1], "mean": tuple(config.mean), "std": tuple(config.std)}
    return EncoderSpec(
        name=model,
        library="timm",
        arch=model,
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        precision="bf16",
        revision=config.tag or "",
        license=config.license or "",
        summary="a model of timm",
        **facts,
    )


_COLUMNS = (
    "summary",
    "dim",
    "pooling",
    "input_px",
    "mpp",
    "grid",
    "params",
    "precision",
    "license",
    "commercial",
    "gated",
    "hub_id",
    "revision",
    "citation",
)


def list_encoders() -> pd.DataFrame:
    """The registered encoders, one row each, indexed by name.

    Columns: a summary, width and definition of the embedding, edge of the input in px and its um per px, rows and columns
    of tokens, millions of parameters, usual precision on a GPU, licence, whether commercial use is allowed, whether access
    must be asked for, repository, revision, publication.

    Examples
    --------
    >>> import histocell as hc
    >>> hc.encoders.list_encoders().loc["uni", "citation"]
    'Chen et al. 2024, Nat Med, doi:10.1038/s41591-024-02857-3'
    """
    import pandas as pd

    rows = {spec.name: {column: getattr(spec, column) for column in _COLUMNS} for spec in _registry().values()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS))
    return table.astype({"dim": "Int64", "commercial": "boolean", "gated": "boolean"}).rename_axis("name")
