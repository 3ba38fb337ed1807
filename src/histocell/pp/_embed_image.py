"""Patch embeddings into ``obsm``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import geometry, keys
from histocell._core.errors import warn
from histocell._core.settings import progress_bar
from histocell.encoders.inference.slides import describe, embed_slide
from histocell.encoders.loading import load
from histocell.tables.access import get_obsm, get_table
from histocell.tables.regions import record_mpp
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    import dask.array as da
    import torch
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.encoders.inference.nucleus_tokens import NucleusPooling
    from histocell.encoders.spec import Encoder
    from histocell.images.stain.normalize import Method, StainNormalizer


def embed_image(
    data: AnnData | SpatialData,
    encoder: str | torch.nn.Module | Encoder = "morphology",
    *,
    weights: str | PathLike[str] | None = None,
    pool: str | NucleusPooling | None = None,
    stain: Method | StainNormalizer | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    device: str | Sequence[str] | None = None,
    store: str | PathLike[str] | None = None,
    lazy: bool = False,
    key_added: str | None = None,
    image: Any = None,
    image_key: str | Mapping[str, str] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> NDArray[np.float32] | da.Array | None:
    """Embed the patch under each row.

    Patches are read in threads, travel as bytes, and are resized and normalised on the device, while the next ones are
    read; memory holds a few batches, however large the slide is.

    Parameters
    ----------
    data
        Reads ``obsm["patches"]`` of :func:`histocell.pp.patches` and the images. Rows of several sections find their own.
    encoder
        ``"morphology"`` (built in), another registered name (:func:`histocell.encoders.list_encoders`),
        ``"timm/<model>"``, ``"lazyslide:<model>"``, a torch module that maps normalised images to embeddings, or what
        :func:`histocell.encoders.load` returned.
    weights
        A local checkpoint or folder, or ``"random"`` for untrained weights; by default the published ones.
    pool
        The definition of the embedding; by default that of the authors of the encoder. ``"cls"``, ``"mean"``,
        ``"cls_mean"`` for transformers; ``"nucleus"`` or a :class:`histocell.encoders.NucleusPooling` for the tokens
        nearest to the centre of each row.
    stain
        ``"macenko"``, ``"reinhard"`` or ``"vahadane"`` for stain normalisation, fitted to the tissue of each slide, or a
        :class:`histocell.encoders.StainNormalizer` with a target of your own.
    precision
        ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"``: what the encoder is usually run with
        (:func:`histocell.encoders.list_encoders`), where that is a half precision bf16 on processors that have
        instructions for it (AMX, AVX512-bf16) and fp32 on others; fp32 for modules of yours.
    batch_size
        Patches in one forward pass; found by itself. It is halved when memory does not suffice.
    device
        Torch device, or several to share the work; the best there is by default.
    store
        A folder that takes up the features while they are computed, one zarr array for each image. A run that was killed
        goes on where it was when it is started again, with the same result as if it had not been killed.
    lazy
        With `store`: keep the embedding as a dask array over the store, for slides whose features exceed the memory.
    key_added
        Key of ``obsm``; ``X_<encoder>`` by default.
    image, image_key, library_key, table_key
        As in :func:`histocell.pp.patches`.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the embeddings. Writes:

    ``obsm["X_<encoder>"]`` : float32, shape ``(n_obs, dim)``
        NaN in rows whose centre lies outside of the image.
    ``uns["histocell"]["X_<encoder>"]`` : str
        Encoder, revision, licence, definition, precision, size and resolution of the patches, stain normalisation, as JSON.

    Raises
    ------
    KeyError
        Without ``obsm["patches"]``, or for an unknown encoder.
    OSError
        When weights can neither be found nor downloaded, the slide is damaged, or the disk of `store` is full.
    ValueError
        When the encoder gives NaN, cannot pool as asked, or `store` holds features of other settings.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> sdata["table"].obsm["X_morphology"].dtype
    dtype('float32')
    """
    if lazy and store is None:
        msg = "lazy=True keeps the features on disk and needs a folder for them: store="
        raise ValueError(msg)
    table = get_table(data, table_key)
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."), dtype=np.float64)
    if table.n_obs == 0:
        msg = "the table has no rows, so there is nothing to embed"
        raise ValueError(msg)
    found = Sections(data, table_key=table_key, library_key=library_key).regions(image=image, image_key=image_key)
    mpp = record_mpp(table, found)
    built = loaded_encoder(
        encoder, weights=weights, pool=pool, precision=precision, batch_size=batch_size, device=device
    )
    centers = np.column_stack([windows[:, [1, 3]].mean(axis=1), windows[:, [0, 2]].mean(axis=1)])
    size_um = _patch_size(table, windows, mpp)
    normalizer = _normalizer(stain)
    rows: list[NDArray[np.intp]] = []
    parts: list[Any] = []
    stains: dict[str, Any] = {}
    with progress_bar(total=table.n_obs, desc=f"embedding with {built.name}", unit="patch") as bar:
        for region in found:
            picture: Any = region.image
            # a window in whole px may be centred on the very border
            limit = np.nextafter(picture.shape[::-1], 0)
            places = centers[region.rows]
            places = np.where(np.abs(places - np.clip(places, 0, limit)) <= 0.5, np.clip(places, 0, limit), places)
            inside = geometry.check_inside(places, picture.shape, region.name)
            if not inside.any():
                continue
            rows.append(region.rows[inside])
            transform = None if normalizer is None else normalizer.fit(picture, mpp=picture.mpp)
            if transform is not None:
                stains[region.name] = transform.describe()
            folder = None if store is None else Path(store) / keys.safe_key(region.name)
            parts.append(
                embed_slide(
                    built,
                    picture,
                    centers[rows[-1]],
                    mpp=picture.mpp,
                    size_um=size_um,
                    stain=transform,
                    store=folder,
                    progress=bar,
                )
            )
    out = _in_table_order(rows, parts, table.n_obs, built.dim, lazy=lazy)
    _check_embedding(out, table.n_obs - sum(map(len, rows)), built.name)
    if not inplace:
        return out
    write_embedding(
        table,
        out,
        built,
        key=key_added,
        size_um=size_um,
        stain="none" if normalizer is None else asdict(normalizer),
        stain_fits=stains or None,
    )
    return None


def write_embedding(
    table: AnnData, features: Any, encoder: Encoder, *, key: str | None, size_um: float, stain: Any, **facts: Any
) -> None:
    """An embedding into ``obsm``, and how it came about."""
    key = key or f"X_{keys.safe_key(encoder.name)}"
    table.obsm[key] = features
    keys.write_provenance(
        table,
        key,
        **describe(encoder),
        license=encoder.spec.license,
        size_um=round(size_um, 3),
        mpp=encoder.spec.mpp if encoder.spec.library == "builtin" else round(size_um / encoder.spec.input_px, 6),
        stain=stain,
        dim=encoder.dim,
        feature_names=list(getattr(encoder, "feature_names", [])) or None,
        **facts,
    )


def loaded_encoder(encoder: Any, **options: Any) -> Encoder:
    """A loaded encoder as it is; anything else is loaded."""
    if not hasattr(encoder, "embed_chunks"):
        return load(encoder, **options)
    given = [name for name, value in options.items() if value not in (None, "auto")]
    if given:
        msg = f"{encoder.name!r} is loaded already: give {', '.join(given)} to hc.encoders.load"
        raise ValueError(msg)
    return encoder


def _normalizer(stain: Method | StainNormalizer | None) -> StainNormalizer | None:
    if not isinstance(stain, str):
        return stain
    from histocell.images.stain.normalize import StainNormalizer

    return StainNormalizer(stain)


def _patch_size(table: AnnData, windows: NDArray[np.float64], mpp: NDArray[np.float64]) -> float:
    """Edge of the patches in um: as recorded, else from the windows themselves."""
    recorded = keys.read_provenance(table, keys.PATCHES).get("size_um")
    return float(recorded) if recorded else float(np.median((windows[:, 2] - windows[:, 0]) * mpp))


def _in_table_order(rows: list[NDArray[np.intp]], parts: list[Any], n: int, dim: int, *, lazy: bool) -> Any:
    """The features of all regions in the rows of the table, NaN in the others."""
    if not lazy:
        out = np.full((n, dim), np.nan, dtype=np.float32)
        for place, features in zip(rows, parts, strict=True):
            out[place] = np.asarray(features)
        return out
    import dask.array as da

    place = np.concatenate([np.empty(0, np.intp), *rows])
    if len(parts) == 1 and np.array_equal(place, np.arange(n)):
        return parts[0]
    source = np.full(n, len(place))
    source[place] = np.arange(len(place))
    return da.concatenate([*parts, da.full((1, dim), np.nan, dtype=np.float32)])[source]


def _check_embedding(out: Any, n_missing: int, name: str) -> None:
    if n_missing:
        warn(f"{n_missing} of {len(out)} rows lie outside of their image; their embedding is NaN")
    sample = np.asarray(out[: min(len(out), 4096)])
    sample = sample[np.isfinite(sample).all(axis=1)]
    if len(sample) > 1 and not np.ptp(sample, axis=0).any():
        warn(f"all {len(sample)} embeddings of {name!r} are identical: is the image blank?")
