"""Files that bundles share: counts in the HDF5 format of 10x, H&E as OME-TIFF, and the folder that they go into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import tifffile
from scipy.sparse import csc_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from scipy.sparse import spmatrix

_CONTROLS = ("NegControlProbe_00001", "NegControlProbe_00002")


def new_folder(path: str | PathLike[str]) -> Path:
    """Create the folder of a bundle; an error where something is there already."""
    folder = Path(path).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} exists and is not an empty folder; choose another one, or move it away"
        raise FileExistsError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_counts(
    path: Path, barcodes: Sequence[str], genes: Sequence[str], counts: np.ndarray | spmatrix, *, controls: bool = False
) -> None:
    """Write counts (barcodes, genes) as a feature-barcode matrix of version 3; `controls` adds empty negative controls."""
    names = [*genes, *(_CONTROLS if controls else ())]
    kinds = ["Gene Expression"] * len(genes) + ["Negative Control Probe"] * (len(names) - len(genes))
    matrix = csc_matrix(counts.T if isinstance(counts, np.ndarray) else counts.transpose().tocsc(), dtype=np.int32)
    with h5py.File(path, "w") as file:
        file.attrs["chemistry_description"] = "synthetic"
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"], group["indices"] = matrix.data, matrix.indices.astype(np.int64)
        group["indptr"] = matrix.indptr.astype(np.int64)
        group["shape"] = np.array([len(names), len(barcodes)], dtype=np.int32)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(len(names))], dtype="S")
        features["name"] = np.array(names, dtype="S")
        features["feature_type"] = np.array(kinds, dtype="S")
        features["genome"] = np.array(["GRCh38"] * len(names), dtype="S")
        features["_all_tag_keys"] = np.array([b"genome"])


def write_he(path: Path, image: np.ndarray, mpp: float) -> None:
    """Write an H&E image (h, w, 3), uint8, as OME-TIFF that states its resolution."""
    size = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(
        path,
        image,
        ome=True,
        photometric="rgb",
        tile=(256, 256),
        compression="zlib",
        metadata={"axes": "YXS", **size},
    )
