"""One slide through an encoder, chunk by chunk, in memory or into a store that a killed run goes on with."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from histocell.encoders.inference.store import FeatureStore

if TYPE_CHECKING:
    import os

    import dask.array as da
    from numpy.typing import NDArray

    from histocell.encoders.spec import Encoder
    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.normalize import StainTransform


def embed_slide(
    encoder: Encoder,
    image: SlideImage,
    centers: NDArray[np.float64],
    *,
    mpp: float,
    size_um: float,
    stain: StainTransform | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: Any = None,
) -> NDArray[np.float32] | da.Array:
    """Embed square patches of a slide.

    Parameters
    ----------
    encoder
        What :func:`histocell.encoders.load` returns.
    image
        The slide.
    centers
        Centres of the patches, shape ``(n, 2)``, x and y in full-resolution px.
    mpp
        Micrometres per full-resolution px.
    size_um
        Edge of a patch in um.
    stain
        Stain normalisation, fitted to this slide.
    store
        A folder for the features. What it holds already of the same run is not computed again.
    progress
        A bar that is advanced by the rows done.

    Returns
    -------
    Shape ``(n, dim)``, in the order of `centers`: an array, or with `store` a dask array over it.

    Raises
    ------
    ValueError
        When the encoder gives NaN or infinite values, or `store` holds features of other settings.
    """
    order = encoder.order(centers, mpp=mpp, size_um=size_um)
    if store is None:
        out = np.empty((len(centers), encoder.dim), np.float32)
        chunks = _chunks(len(centers), encoder.chunk_rows)
        computed = encoder.embed_chunks(
            image, [centers[order[rows]] for rows in chunks], mpp=mpp, size_um=size_um, stain=stain, progress=progress
        )
        with closing(computed):
            for rows, features in zip(chunks, computed, strict=True):
                _check_finite(features, encoder)
                out[order[rows]] = features
        return out
    known = FeatureStore.peek(store) or {}
    if encoder.batch_size is None:
        encoder.batch_size = known.get("batch_size")  # equal batches give equal values, to the last bit
    chunk_rows = known.get("chunk_rows", encoder.chunk_rows)
    facts = {
        **describe(encoder),
        "size_um": float(size_um),
        "mpp": float(mpp),
        "stain": None if stain is None else f"{stain.method} {_digest(stain.to_json().encode())}",
        "image": image.fingerprint(),
        "centers": _digest(np.ascontiguousarray(centers, np.float64).tobytes()),
        "batch_size": known.get("batch_size", encoder.batch_size),
    }
    shape = (len(centers), encoder.dim)
    with FeatureStore.open(store, shape=shape, chunk_rows=chunk_rows, manifest=facts) as features_on_disk:
        todo = list(features_on_disk.todo)
        chunks = [features_on_disk.rows(chunk) for chunk in todo]
        if progress is not None:
            progress.update(len(centers) - sum(rows.stop - rows.start for rows in chunks))
        computed = encoder.embed_chunks(
            image, [centers[order[rows]] for rows in chunks], mpp=mpp, size_um=size_um, stain=stain, progress=progress
        )
        with closing(computed):
            for chunk, features in zip(todo, computed, strict=True):
                _check_finite(features, encoder)
                features_on_disk.write(chunk, features)
    lazy = features_on_disk.lazy()
    if np.array_equal(order, np.arange(len(order))):
        return lazy
    return lazy[np.argsort(order)]


def describe(encoder: Encoder) -> dict[str, Any]:
    """What the values of an encoder depend on, for provenance."""
    return {
        "encoder": encoder.name,
        "revision": encoder.version,
        "pool": encoder.pool,
        "precision": encoder.precision,
        "input_px": encoder.spec.input_px,
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _chunks(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _check_finite(features: NDArray[np.float32], encoder: Encoder) -> None:
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        msg = f"encoder {encoder.name!r} gave NaN or infinite values in {bad.sum()} of {len(features)} rows"
        if encoder.precision == "fp16":
            msg += '; fp16 overflows above 65,504: try precision="bf16" or "fp32"'
        raise ValueError(msg)
