"""Registration of an image: from matrices, key points and landmarks to one affine map."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from spatialdata.transformations import Affine, BaseTransformation

from histocell._core.arguments import check_positive
from histocell._core.errors import listing, reading, warn
from histocell._core.settings import logger
from histocell.io._cells.landmarks import fit_landmarks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type AlignmentSource = str | PathLike[str] | NDArray[np.floating] | pd.DataFrame | BaseTransformation
type Model = Literal["affine", "similarity"]

_IMAGE, _TARGET = ["image_x", "image_y"], ["target_x", "target_y"]
# What Xenium Explorer calls the columns of its key points: the image is the one that was moved.
_EXPLORER = {"alignmentX": "image_x", "alignmentY": "image_y", "fixedX": "target_x", "fixedY": "target_y"}
_LARGE_UM = 10.0  # about one cell


@dataclass(frozen=True)
class Alignment:
    """An affine map from px of an image to those that cells are given in, and how well it is known.

    Attributes
    ----------
    matrix
        (3, 3).
    source
        The file, or what else it was made of.
    residual_um
        Root mean square distance of landmarks after the fit, `None` where there are none to spare.
    n_landmarks
        Number of landmarks, 0 where the map was given as it is.
    """

    matrix: NDArray[np.float64]
    source: str
    residual_um: float | None = None
    n_landmarks: int = 0

    @property
    def scale(self) -> float:
        """Edge of a px of the image in px of the target."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:2, :2]))))


def alignment(source: AlignmentSource, *, model: Model = "affine", target_mpp: float | None = None) -> Affine:
    """Read or fit the registration of an H&E image.

    Parameters
    ----------
    source
        One of

        * a CSV file with a 3 x 3 matrix and no header, as ``*_imagealignment.csv`` of Xenium: from px of the image to px of
          the target, which is Xenium's morphology image;
        * a CSV file or data frame of landmarks, one pair per row, in columns ``fixedX``, ``fixedY``, ``alignmentX``,
          ``alignmentY`` (key points of Xenium Explorer) or ``image_x``, ``image_y``, ``target_x``, ``target_y``;
        * the ZIP file that Xenium Explorer exports;
        * an array (3, 3), or a transformation of SpatialData, from px of the image to px of the target.
    model
        What is fitted to landmarks: ``"affine"`` (at least 3) or ``"similarity"``: turn, shift and one scale (at least 2).
    target_mpp
        um per px of the target, for the residual in um: 0.2125 for Xenium.

    Returns
    -------
    Affine transformation from px (x, y) of the image to px of the target, for `histocell.io.xenium` or
    ``spatialdata.transformations.set_transformation``. The residual of landmarks is logged.

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        If it is no such table, the map cannot be inverted, or landmarks are too few or lie on a line.

    Warns
    -----
    UserWarning
        If landmarks are off by more than 10 um, or as few as the model needs, so that nothing tells how well it fits.

    References
    ----------
    Similarity: S. Umeyama, IEEE Trans Pattern Anal Mach Intell 13 (1991) 376.

    Examples
    --------
    >>> import histocell as hc
    >>> import pandas as pd
    >>> points = pd.DataFrame({"image_x": [0.0, 100.0, 0.0, 100.0], "image_y": [0.0, 0.0, 100.0, 100.0]})
    >>> points["target_x"], points["target_y"] = 2 * points["image_x"] + 5, 2 * points["image_y"]
    >>> hc.io.alignment(points, model="similarity").matrix.round(6).tolist()
    [[2.0, 0.0, 5.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """
    found = read_alignment(source, model=model, target_mpp=target_mpp)
    return Affine(found.matrix, input_axes=("x", "y"), output_axes=("x", "y"))


def read_alignment(source: AlignmentSource, *, model: Model = "affine", target_mpp: float | None = None) -> Alignment:
    """What `alignment` returns, with the residual."""
    if model not in {"affine", "similarity"}:
        msg = f'model must be "affine" or "similarity", not {model!r}'
        raise ValueError(msg)
    if isinstance(source, BaseTransformation):
        matrix, name = source.to_affine_matrix(("x", "y"), ("x", "y")), type(source).__name__
        return Alignment(_checked(matrix, name), name)
    content: NDArray[np.floating] | pd.DataFrame
    if isinstance(source, str | PathLike):
        path = Path(source).expanduser()
        content, name = _read_file(path), str(path)
    else:
        content, name = source, "the data frame" if isinstance(source, pd.DataFrame) else "the array"
    if isinstance(content, pd.DataFrame):
        return _fit(content, name, model, None if target_mpp is None else check_positive(target_mpp, "target_mpp"))
    return Alignment(_checked(np.asarray(content), name), name)


def _read_file(path: Path) -> NDArray[np.float64] | pd.DataFrame:
    """A matrix or a table of landmarks."""
    with reading(path):
        data = path.read_bytes()
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = {Path(name).name: name for name in archive.namelist()}
                member = next((members[name] for name in ("matrix.csv", "keypoints.csv") if name in members), None)
                data = b"" if member is None else archive.read(member)
            if member is None:
                msg = f"{path}: holds {listing(members)}; expected matrix.csv or keypoints.csv of Xenium Explorer"
                raise OSError(msg)
    lines = [line for line in data.decode("utf-8-sig", errors="replace").splitlines() if line.strip(", \t")]
    if not lines:
        msg = f"{path} is empty; expected a 3 x 3 matrix, or landmarks"
        raise ValueError(msg)
    separator = next((mark for mark in (",", ";", "\t") if mark in lines[0]), None)  # None: any white space
    rows = [[cell.strip() for cell in line.split(separator)] for line in lines]
    if _is_number(rows[0][0]):
        try:
            return np.array(rows, dtype=np.float64)
        except ValueError as error:
            msg = f"{path} is no matrix of numbers ({error}); expected 3 lines of 3 numbers"
            raise ValueError(msg) from error
    width = len(rows[0])
    return pd.DataFrame([row[:width] for row in rows[1:]], columns=rows[0])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _checked(matrix: NDArray[np.generic], name: str) -> NDArray[np.float64]:
    """A matrix that is affine and can be inverted."""
    if matrix.shape != (3, 3):
        msg = f"the alignment by {name} has shape {matrix.shape}; expected a 3 x 3 matrix"
        raise ValueError(msg)
    values = matrix.astype(np.float64)
    if not np.isfinite(values).all() or abs(values[2, 2]) < 1e-12:
        msg = f"the alignment by {name} holds values that are no numbers, or 0 in its last place: {values.tolist()}"
        raise ValueError(msg)
    affine = values / values[2, 2]
    if np.abs(affine[2, :2]).max() > 1e-9:
        hint = ". It looks transposed" if np.abs(affine[:2, 2]).max() < 1e-9 else ", so it is no affine map"
        msg = f"the last line of the alignment by {name} must be 0, 0, 1, not {affine[2].tolist()}{hint}"
        raise ValueError(msg)
    if np.linalg.cond(affine[:2, :2]) > 1e6:
        msg = f"the alignment by {name} cannot be inverted, it maps an area to a line: {affine[:2].tolist()}"
        raise ValueError(msg)
    return affine


def _fit(table: pd.DataFrame, name: str, model: Model, target_mpp: float | None) -> Alignment:
    """The map that landmarks ask for."""
    columns = table.rename(columns=_EXPLORER)
    missing = [column for column in (*_IMAGE, *_TARGET) if column not in columns]
    if missing:
        msg = (
            f"the landmarks of {name} lack {listing(missing)}; columns: {listing(table.columns)}. Expected {listing(_EXPLORER)} "
            f"(key points of Xenium Explorer) or {listing([*_IMAGE, *_TARGET])}"
        )
        raise ValueError(msg)
    values = columns[[*_IMAGE, *_TARGET]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        msg = f"{wrong.sum()} of {len(values)} landmarks of {name} hold values that are no numbers, the first in row {int(wrong.argmax())}"
        raise ValueError(msg)
    matrix, residual, distance = fit_landmarks(values[:, :2], values[:, 2:], model, name)
    unit, scale = ("px", 1.0) if target_mpp is None else ("um", target_mpp)
    if residual is None:
        warn(
            f"{name}: {len(values)} landmarks are as many as a map of model {model!r} needs, so nothing tells how well it fits; "
            "add some"
        )
        return Alignment(_checked(matrix, name), name, None, len(values))
    logger.info("%s: %d landmarks, %s, residual %.3g %s", name, len(values), model, residual * scale, unit)
    if target_mpp is not None and residual * scale > _LARGE_UM:
        worst = int(distance.argmax())
        warn(
            f"{name}: landmarks lie {residual * scale:.3g} um from where the map has them (root mean square), more than a cell; the "
            f"worst is in row {worst} ({distance[worst] * scale:.3g} um)"
        )
    return Alignment(_checked(matrix, name), name, None if target_mpp is None else residual * scale, len(values))
