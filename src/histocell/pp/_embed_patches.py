"""Embeddings of patches from a file, joined to rows by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import check_positive
from histocell._core.errors import listing, reading, warn
from histocell._core.settings import progress_bar
from histocell.encoders.inference.slides import check_finite
from histocell.encoders.loading import encode, resolve_encoder
from histocell.pp._embed_image import write_embedding
from histocell.tables.access import get_table

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from histocell.encoders.inference.nucleus_tokens import NucleusPooling
    from histocell.encoders.spec import Encoder

_READ = 256  # patches in memory


def embed_patches(
    data: AnnData | SpatialData,
    encoder: str | torch.nn.Module | Encoder,
    *,
    file: str | Path | None = None,
    size_um: float = 112.0,
    weights: str | None = None,
    pool: str | NucleusPooling | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    device: str | None = None,
    key_added: str | None = None,
    table_key: str | None = None,
    inplace: bool = True,
) -> NDArray[np.float32] | None:
    """Embed patches of a file, for spots without a slide.

    With a slide, :func:`histocell.pp.embed_image` is the better choice: it cuts patches of any size exactly around the
    spots.

    Parameters
    ----------
    data
        Spots, named by their barcodes.
    encoder
        As in :func:`histocell.pp.embed_image`; ``"morphology"`` needs the slide.
    file
        An HDF5 file in the layout of HEST-1k: ``img``, uint8 (n, h, w, 3), and ``barcode``. By default the file beside the
        sample that :func:`histocell.io.hest` read.
    size_um
        Edge of the patches in um; 112 in HEST-1k (224 px of 0.5 um).
    weights, pool, precision, batch_size, device
        As in :func:`histocell.pp.embed_image`.
    key_added
        Key of ``obsm``; ``X_<encoder>`` by default.
    table_key
        The table, where a SpatialData has several.
    inplace
        Whether to write the result; else it is returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the embeddings. Writes:

    ``obsm["X_<encoder>"]`` : float32, shape ``(n_obs, dim)``
        Joined by barcode; NaN in rows without a patch, with a warning that counts them.
    ``uns["histocell"]["X_<encoder>"]`` : str
        As :func:`histocell.pp.embed_image` writes it, as JSON.

    Raises
    ------
    FileNotFoundError
        When there is no such file, or none is known.
    ValueError
        When the file holds no patches, names a barcode twice, or shares no barcode with the table; when the encoder gives
        NaN.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.io.hest("hest", "TENX99")  # doctest: +SKIP
    >>> hc.pp.embed_patches(sdata, "uni")  # doctest: +SKIP
    """
    size_um = check_positive(size_um, "size_um")
    table = get_table(data, table_key)
    files = _files(table) if file is None else [(Path(file).expanduser(), np.arange(table.n_obs))]
    resolved = resolve_encoder(
        encoder, weights=weights, pool=pool, precision=precision, batch_size=batch_size, device=device
    )
    embedding = np.full((table.n_obs, resolved.dim), np.nan, dtype=np.float32)
    names, has_patch = _names(table), np.zeros(table.n_obs, dtype=bool)
    for path, rows in files:
        embedding[rows], has_patch[rows] = _embed_file(path, names[rows], resolved)
    check_finite(embedding[has_patch], resolved)
    if not has_patch.all():
        warn(f"{(~has_patch).sum()} of {len(embedding)} rows have no patch; their embedding is NaN")
    if not inplace:
        return embedding
    write_embedding(table, embedding, resolved, key=key_added, size_um=size_um, stain="none")
    return None


def _names(table: AnnData) -> pd.Index:
    """Barcodes of the rows, from the instance key where there is one: joining sections may have changed the row names."""
    attributes = table.uns.get("spatialdata_attrs")
    return pd.Index((table.obs_names if attributes is None else table.obs[attributes["instance_key"]]).astype(str))


def _files(table: AnnData) -> list[tuple[Path, NDArray[np.intp]]]:
    """The file of each sample that `histocell.io.hest` read, and its rows."""
    samples = {name: entry for name, entry in keys.read_provenance(table, "hest").items() if isinstance(entry, dict)}
    absent = [name for name, entry in samples.items() if "patches" not in entry]
    if not samples or absent:
        of = f" of {listing(absent)}" if absent else ""
        msg = (
            f"no file of patches{of} is known: give file= (HDF5 with img and barcode), or read the data with hc.io.hest"
        )
        raise FileNotFoundError(msg)
    sections = table.obs[keys.SECTION].astype(str).to_numpy()
    return [(Path(entry["patches"]), np.flatnonzero(sections == name)) for name, entry in samples.items()]


def _embed_file(path: Path, names: pd.Index, encoder: Encoder) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Embeddings of the patches of a file in the order of `names`, and which names have one."""
    import h5py

    if not names.is_unique:
        msg = f"one file of patches for rows that share names ({listing(names[names.duplicated()], 3)}): it is of one section"
        raise ValueError(msg)
    if not path.is_file():
        msg = f"file of patches {path} does not exist"
        raise FileNotFoundError(msg)
    embedding = np.full((len(names), encoder.dim), np.nan, dtype=np.float32)
    with reading(path):
        file = h5py.File(path)
    with file, progress_bar(total=len(names), desc=f"embedding with {encoder.name}") as bar:
        with reading(path):
            parts = {name: file[name] for name in file}
        if not {"img", "barcode"} <= set(parts):
            msg = f"{path} is no file of patches: expected img and barcode, it holds {listing(parts)}"
            raise ValueError(msg)
        images = parts["img"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            msg = f"{path}: img must be uint8 of shape (n, h, w, 3), it is {images.dtype} of shape {images.shape}"
            raise ValueError(msg)
        with reading(path):
            barcodes = parts["barcode"][()]
        row_of_patch = names.get_indexer(_barcodes(barcodes, path, len(images)))
        if (row_of_patch < 0).all():
            msg = f"no barcode of {path} is in the table, whose rows are {listing(names, 3)}"
            raise ValueError(msg)
        for start in range(0, len(images), _READ):
            rows = row_of_patch[start : start + _READ]
            with reading(path):
                patches = images[start : start + _READ]
            embedding[rows[rows >= 0]] = encode(encoder, patches[rows >= 0])
            bar.update(len(rows))
    return embedding, np.isin(np.arange(len(names)), row_of_patch)


def _barcodes(raw: NDArray[np.object_], path: Path, n: int) -> pd.Index:
    """Names of the patches; in HEST-1k they are bytes of shape (n, 1)."""
    names = pd.Index([name.decode() if isinstance(name, bytes) else str(name) for name in raw.reshape(-1)])
    if len(names) != n or not names.is_unique:
        msg = f"{path} has {n} patches and {len(names)} barcodes, {names.duplicated().sum()} of them repeated; one each is needed"
        raise ValueError(msg)
    return names
