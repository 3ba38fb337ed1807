"""Embedding of one slide, in memory or into a store."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from histocell.encoders.inference.store import FeatureStore
from histocell.images.identity import image_checksum

if TYPE_CHECKING:
    import os

    import dask.array as da
    from numpy.typing import NDArray

    from histocell._core.settings import Progress
    from histocell.encoders.spec import Encoder, EncoderSpec
    from histocell.images.slide_image import SlideImage
    from histocell.images.stain.normalize import StainTransform

_DEFINING = (
    *("library", "arch", "arch_kwargs", "pooling", "patch_px", "prefix_tokens"),
    *("input_px", "mean", "std", "interpolation"),
)


def embed_slide(
    encoder: Encoder,
    image: SlideImage,
    centers: NDArray[np.float64],
    *,
    mpp: float,
    size_um: float,
    stain: StainTransform | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32] | da.Array:
    """Embed square patches of a slide.

    Parameters
    ----------
    encoder
        From :func:`histocell.encoders.load`.
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
        A folder for the features. Those of the same run that it holds already are not computed again.
    progress
        A bar that is advanced by the rows done.

    Returns
    -------
    Shape ``(n, dim)``, in the order of `centers`: an array, or with `store` a dask array over it.

    Raises
    ------
    ValueError
        When the encoder gives NaN or infinite values, patches are below one px or larger than the slide, or `store` holds
        features of other settings.
    """
    order = encoder.order(centers, mpp=mpp, size_um=size_um)
    n, window = len(centers), {"mpp": mpp, "size_um": size_um}
    if store is None:
        out = np.full((n, encoder.dim), np.nan, np.float32)
        rows = [order[start : start + encoder.chunk_rows] for start in range(0, n, encoder.chunk_rows)]
        chunks = [centers[part] for part in rows]
        with closing(encoder.embed_chunks(image, chunks, **window, stain=stain, progress=progress)) as computed:
            for part, features in zip(rows, computed, strict=True):
                out[part] = check_finite(features, encoder)
        return out
    known = FeatureStore.peek(store) or {}
    if encoder.batch_size is None:
        encoder.batch_size = known.get("batch_size")  # equal batches give equal values, to the last bit
    settings = {
        **describe(encoder),
        "size_um": float(size_um),
        "mpp": float(mpp),
        "stain": None if stain is None else f"{stain.method} {_checksum(stain.to_json().encode())}",
        "definition": definition(encoder.spec),
        "image": image_checksum(image, px=min(size_um / encoder.spec.input_px, encoder.spec.mpp) / mpp),
        "centers": _checksum(np.ascontiguousarray(centers, np.float64).tobytes()),
        "batch_size": known.get("batch_size", encoder.batch_size),
    }
    chunk_rows = known.get("chunk_rows", encoder.chunk_rows)
    with FeatureStore.open(store, shape=(n, encoder.dim), chunk_rows=chunk_rows, manifest=settings) as on_disk:
        todo = list(on_disk.todo)
        chunks = [centers[order[on_disk.rows(chunk)]] for chunk in todo]
        if progress is not None:
            progress.update(n - sum(map(len, chunks)))
        with closing(encoder.embed_chunks(image, chunks, **window, stain=stain, progress=progress)) as computed:
            for chunk, features in zip(todo, computed, strict=True):
                on_disk.write(chunk, check_finite(features, encoder))
    lazy = on_disk.lazy()
    return lazy if np.array_equal(order, np.arange(n)) else lazy[np.argsort(order)]


def describe(encoder: Encoder) -> dict[str, str | int]:
    """The settings of an encoder that its values depend on, for provenance; with base and content of an adapter."""
    about = encoder.spec.adapter
    of_adapter: dict[str, str | int] = {} if about is None else {"base": about.base, "adapter": about.digest}
    return of_adapter | {
        "encoder": encoder.name,
        "revision": encoder.version,
        "pool": encoder.pool,
        "precision": encoder.precision,
        "input_px": encoder.spec.input_px,
    }


def definition(spec: EncoderSpec) -> str:
    """A checksum of all in a spec that the values of the encoder depend on, beside its weights."""
    facts = {name: getattr(spec, name) for name in _DEFINING}
    if spec.adapter is not None:
        facts["adapter"] = spec.adapter.digest
    return _checksum(json.dumps(facts, sort_keys=True, default=_name).encode())


def _name(value: object) -> str:
    """A name for what JSON has no word for; that of a function does not depend on where it lies in memory."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', re.sub(r' at 0x[0-9a-f]+', '', repr(value)))}"


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def check_finite(features: NDArray[np.float32], encoder: Encoder) -> NDArray[np.float32]:
    """The features, if they are finite; else an error that names the encoder."""
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        msg = f"encoder {encoder.name!r} gave NaN or infinite values in {bad.sum()} of {len(features)} rows"
        if encoder.precision == "fp16":
            msg += '; fp16 overflows above 65,504: try precision="bf16" or "fp32"'
        raise ValueError(msg)
    return features
