"""Patch embeddings into ``obsm``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.settings import progress_bar
from histocell.encoders.inference.slides import describe, embed_slide
from histocell.encoders.loading import resolve_encoder
from histocell.tables.access import is_spatialdata
from histocell.tables.regions import Region, record_mpp
from histocell.tables.sections import Sections
from histocell.tables.slides import stain_of
from histocell.tables.windows import RECORD, check_patches, patch_size_um, patch_windows, patches_record, rows_inside

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
    from histocell.images.slide_image import ImageSource, SlideImage
    from histocell.images.stain.normalize import Method, StainNormalizer

    type Features = NDArray[np.float32] | da.Array


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
    image: ImageSource | Mapping[str, ImageSource] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> NDArray[np.float32] | da.Array | None:
    """Embed the patch under each row.

    Patches are read in threads, travel as bytes, and are resized and normalised on the device while the next ones are
    read. Memory holds a few batches, however large the slide is.

    Parameters
    ----------
    data
        Reads ``obsm["patches"]`` of :func:`histocell.pp.patches` and the images, each section its own.
    encoder
        ``"morphology"`` (built in), another registered name (:func:`histocell.encoders.list_encoders`),
        ``"timm/<model>"``, ``"lazyslide:<model>"``, a torch module that maps normalised images to embeddings, or an
        encoder from :func:`histocell.encoders.load`.
    weights
        A local checkpoint or folder, or ``"random"`` for untrained weights; by default the published ones.
    pool
        Definition of the embedding; by default that of the authors of the encoder. ``"cls"``, ``"mean"``,
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
        Patches in one forward pass; found automatically by default. It is halved when memory does not suffice.
    device
        Torch device, or several that share the work; by default the best there is.
    store
        A folder into which the features are written while they are computed, one zarr array for each image. A run that was
        killed and is started again resumes from it, with the same result as if it had not been killed. Another slide or
        encoder is an error: patches, encoder, weights, settings and image must be those of the run before. An image file
        is compared by its whole content, wherever it lies; an image in arrays by all pixels of the levels that the
        encoder needs, which are read once for it; a torch module by its tensors, its code and its attributes.
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
        When weights can be neither found nor downloaded, the slide is damaged, or the disk of `store` is full.
    ValueError
        When the encoder gives NaN, cannot pool as asked, `store` holds features of other settings, or images are normalised
        already that `stain` would normalise.

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
    sections = Sections(data, table_key=table_key, library_key=library_key)
    table = sections.table
    windows = patch_windows(table)
    regions = sections.regions(image=image, image_key=image_key)
    check_patches(table, regions)
    mpp = record_mpp(table, regions)
    size_um = patch_size_um(table, windows, mpp)
    resolved = resolve_encoder(
        encoder, weights=weights, pool=pool, precision=precision, batch_size=batch_size, device=device
    )
    normalizer = as_normalizer(stain)
    colours = _normalization(data, regions, normalizer)
    centers = (windows[:, [1, 0]] + windows[:, [3, 2]]) / 2  # x, y
    parts: list[tuple[NDArray[np.intp], Features]] = []
    fits: dict[str, dict[str, object]] = {}
    with progress_bar(total=len(windows), desc=f"embedding with {resolved.name}", unit="patch") as bar:
        for region, folder in zip(regions, _folders(store, regions), strict=True):
            rows = rows_inside(region, centers)
            if not len(rows):
                continue
            slide, slide_mpp = cast("SlideImage", region.image), float(mpp[rows[0]])
            transform = None if normalizer is None else normalizer.fit(slide, mpp=slide_mpp)
            if transform is not None:
                fits[region.name] = transform.describe()
            window = {"mpp": slide_mpp, "size_um": size_um}
            features = embed_slide(
                resolved, slide, centers[rows], **window, stain=transform, store=folder, progress=bar
            )
            parts.append((rows, features))
    embedding = _in_table_order(parts, len(windows), resolved.dim, lazy=lazy)
    _warn_of_suspicious(embedding, len(windows) - sum(len(rows) for rows, _ in parts), resolved.name)
    if not inplace:
        return embedding
    facts: dict[str, object] = {"stain": colours or "none", "stain_fits": fits or None}
    facts[RECORD] = patches_record(table)
    write_embedding(table, embedding, resolved, key=key_added, size_um=size_um, **facts)
    return None


def write_embedding(
    table: AnnData, embedding: Features, encoder: Encoder, *, key: str | None, size_um: float, **facts: object
) -> None:
    """Write an embedding into ``obsm``, with its provenance."""
    key = key or f"X_{keys.safe_key(encoder.name)}"
    table.obsm[key] = embedding
    adapter = encoder.spec.adapter
    keys.write_provenance(
        table,
        key,
        **describe(encoder),
        library=encoder.spec.library,
        license=encoder.spec.license,
        size_um=round(size_um, 3),
        field_um=round(encoder.spec.field_of_view(size_um), 3),
        mpp=encoder.spec.mpp if encoder.spec.library == "builtin" else round(size_um / encoder.spec.input_px, 6),
        dim=encoder.dim,
        feature_names=list(getattr(encoder, "feature_names", [])) or None,
        trained_on=None if adapter is None else list(adapter.groups) or None,
        **facts,
    )


def _folders(store: str | PathLike[str] | None, regions: list[Region]) -> list[Path | None]:
    """A folder of a store for each region."""
    if store is None:
        return [None] * len(regions)
    return [Path(store) / key for key in keys.safe_keys(region.name for region in regions)]


def as_normalizer(stain: Method | StainNormalizer | None) -> StainNormalizer | None:
    """A stain normalizer from the name of its method."""
    if not isinstance(stain, str):
        return stain
    from histocell.images.stain.normalize import StainNormalizer

    return StainNormalizer(stain)


def _normalization(
    data: AnnData | SpatialData, regions: list[Region], normalizer: StainNormalizer | None
) -> dict[str, object] | None:
    """How the colours that an encoder sees are normalised, on the way or in the image itself; `None` where they are not.

    Raises
    ------
    ValueError
        When they would be normalised twice, or on some slides only.
    """
    images = {region.key: stain_of(data, region.key) for region in regions} if is_spatialdata(data) else {}
    done = {key: stain for key, stain in images.items() if stain is not None}
    if not done:
        return None if normalizer is None else asdict(normalizer)
    first, *others = images.values()
    if normalizer is not None or any(stain != first for stain in others):
        what = "normalised already" if normalizer is not None else "normalised, others are not, or in another way"
        msg = f"{listing(map(repr, done))} are {what}: choose slides as they were scanned with image_key=, and stain= for all"
        raise ValueError(msg)
    return first


def _in_table_order(parts: list[tuple[NDArray[np.intp], Features]], n: int, dim: int, *, lazy: bool) -> Features:
    """The features of all regions in the rows of the table, NaN in the others."""
    if not lazy:
        embedding = np.full((n, dim), np.nan, dtype=np.float32)
        for rows, features in parts:
            embedding[rows] = np.asarray(features)
        return embedding
    import dask.array as da

    order = np.concatenate([np.empty(0, np.intp), *(rows for rows, _ in parts)])
    if len(parts) == 1 and np.array_equal(order, np.arange(n)):
        return parts[0][1]
    source = np.full(n, len(order))
    source[order] = np.arange(len(order))
    return da.concatenate([*(features for _, features in parts), da.full((1, dim), np.nan, dtype=np.float32)])[source]


def _warn_of_suspicious(embedding: Features, n_missing: int, name: str) -> None:
    if n_missing:
        warn(f"{n_missing} of {len(embedding)} rows lie outside of their image; their embedding is NaN")
    sample = np.asarray(embedding[: min(len(embedding), 4096)])
    sample = sample[np.isfinite(sample).all(axis=1)]
    if len(sample) > 1 and not np.ptp(sample, axis=0).any():
        warn(f"all {len(sample)} embeddings of {name!r} are identical: is the image blank?")
