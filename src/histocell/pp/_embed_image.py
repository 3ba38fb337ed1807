"""Patch embeddings into ``obsm``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histocell._core import geometry, keys
from histocell._core.access import get_obsm, get_table
from histocell._core.errors import warn
from histocell._core.regions import record_mpp, regions
from histocell._core.settings import progress_bar
from histocell.encoders.loading import load

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData


def embed_image(
    data: AnnData | SpatialData,
    encoder: str | torch.nn.Module = "morphology",
    *,
    weights: str | None = None,
    batch_size: int = 32,
    device: str | None = None,
    key_added: str | None = None,
    image: Any = None,
    image_key: str | Mapping[str, str] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> NDArray[np.float32] | None:
    """Embed the patch under each row.

    Parameters
    ----------
    data
        Reads ``obsm["patches"]`` of :func:`histocell.pp.patches` and the images. Rows of several sections find their own.
    encoder
        ``"morphology"`` (built in), another registered name (:func:`histocell.encoders.list_encoders`),
        ``"timm/<model>"``, or a torch module that maps normalised images to embeddings.
    weights
        A local checkpoint, or ``"random"`` for untrained weights; by default the published ones.
    batch_size
        Patches in one forward pass of a torch model.
    device
        Torch device; the best there is by default.
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
        Encoder, revision, licence, size and resolution of the patches, as JSON.

    Raises
    ------
    KeyError
        Without ``obsm["patches"]``, or for an unknown encoder.
    OSError
        When pretrained weights can neither be found nor downloaded.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> sdata["table"].obsm["X_morphology"].dtype
    dtype('float32')
    """
    table = get_table(data, table_key)
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."), dtype=np.float64)
    found = regions(data, table_key=table_key, image=image, image_key=image_key, library_key=library_key)
    mpp = record_mpp(table, found)
    built = load(encoder, weights=weights, device=device, batch_size=batch_size)
    centers = np.column_stack([windows[:, [1, 3]].mean(axis=1), windows[:, [0, 2]].mean(axis=1)])
    size_um = _patch_size(table, windows, mpp)
    out = np.full((table.n_obs, built.dim), np.nan, dtype=np.float32)
    missing = np.zeros(table.n_obs, dtype=bool)
    with progress_bar(total=table.n_obs, desc=f"embedding with {built.name}", unit="patch") as bar:
        for region in found:
            picture: Any = region.image
            inside = geometry.check_inside(centers[region.rows], picture.shape, region.name)
            rows = region.rows[inside]
            missing[region.rows[~inside]] = True
            if len(rows):
                out[rows] = built.embed(picture, centers[rows], mpp=picture.mpp, size_um=size_um, progress=bar)
    _check_embedding(out, missing, built.name)
    if not inplace:
        return out
    key = key_added or f"X_{keys.safe_key(built.name)}"
    table.obsm[key] = out
    keys.write_provenance(
        table,
        key,
        encoder=built.name,
        revision=built.version,
        license=built.spec.license,
        size_um=round(size_um, 3),
        mpp=built.spec.mpp,
        stain="none",
        dim=built.dim,
        feature_names=list(getattr(built, "feature_names", [])) or None,
    )
    return None


def _patch_size(table: AnnData, windows: NDArray[np.float64], mpp: NDArray[np.float64]) -> float:
    """Edge of the patches in um: as recorded, else from the windows themselves."""
    recorded = keys.read_provenance(table, keys.PATCHES).get("size_um")
    return float(recorded) if recorded else float(np.median((windows[:, 2] - windows[:, 0]) * mpp))


def _check_embedding(out: NDArray[np.float32], missing: NDArray[np.bool_], name: str) -> None:
    if missing.any():
        warn(f"{missing.sum()} of {len(out)} rows lie outside of their image; their embedding is NaN")
    rest = out[~missing]
    if not np.isfinite(rest).all():
        msg = f"encoder {name!r} gave NaN or infinite values in {(~np.isfinite(rest)).any(axis=1).sum()} rows"
        raise ValueError(msg)
    if len(rest) > 1 and not np.ptp(rest, axis=0).any():
        warn(f"all {len(rest)} embeddings of {name!r} are identical: is the image blank?")
