"""Moving nuclei or cells onto their H&E image by the small residual that a check finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from histocell._core import keys
from histocell._core.arguments import as_names
from histocell._core.errors import MissingKeyError, listing, warn
from histocell._core.settings import logger
from histocell.images.transformations import affine_matrix, matrix_to_image, transform_points, transformations
from histocell.pp._alignment.check import Settings, write
from histocell.pp._alignment.result import says
from histocell.tables.access import is_spatialdata
from histocell.tables.placed_nuclei import place_nuclei, regions_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Floats
    from histocell.images.slide_image import ImageSource
    from histocell.nuclei.alignment.check import Check
    from histocell.tables.access import Data
    from histocell.tables.placed_nuclei import PlacedNuclei

MOST_TURN, MOST_SCALE = 10.0, 0.1  # degrees, share: more is no residual
SAME_PX = 0.01  # coordinates of a table that are those of the shapes
MEASURED = ("nucle", "cell", "transcript")  # names of elements that come with the nuclei, not from the image
DO = {
    "swapped": 'exchange x and y where they were read: table.obsm["spatial"] = table.obsm["spatial"][:, ::-1]',
    "mirrored": "mirror the coordinates where they were read, or the image; matrix of the check says how",
    "rotated": "turn the coordinates where they were read, or the image; matrix of the check says how",
    "wrong pixel size": (
        "multiply the coordinates by the factor where they were read, or give the transformation that belongs to this image (of a "
        "Xenium the inverse of its alignment file)"
    ),
    "unrelated": "look at hc.pl.alignment(data): is this the image of these nuclei?",
}


def refine_alignment(
    data: Data,
    *,
    kind: Literal["translation", "similarity"] = "translation",
    shapes_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    image: ImageSource | Mapping[str, ImageSource] | None = None,
    mpp: float | Mapping[str, float] | None = None,
    library_key: str | None = None,
    radius_um: float | None = None,
    max_shift_um: float = 200.0,
    tolerance_um: float | None = None,
    rng: SeedLike | RNGLike | None = 0,
    also: str | Sequence[str] = (),
    key_added: str = keys.ALIGNMENT,
    inplace: bool = True,
) -> dict[str, Floats] | None:
    """Move nuclei or cells onto their H&E image, where they are off by little.

    Checks as :func:`histocell.pp.check_alignment` does, moves by what is left, and checks again: what does not fit then is not
    moved at all. It moves all sections or none. What was done is logged and recorded.

    Parameters
    ----------
    data
        As in :func:`histocell.pp.check_alignment`.
    kind
        ``"translation"`` moves; ``"similarity"`` also turns by up to 10 degrees and scales by up to 10 %.
    shapes_key, image_key, table_key, image, mpp, library_key, radius_um, max_shift_um, tolerance_um, rng
        As in :func:`histocell.pp.check_alignment`.
    also
        Other elements of a SpatialData that move with the nuclei, such as cells and transcripts of the same machine.
    key_added
        Name of the result of the second check in ``uns``.
    inplace
        Whether to move; else the matrices are returned.

    Returns
    -------
    `None`, or with ``inplace=False`` the matrix (3, 3) of each section, (x, y) in px before to px after. Writes:

    ``shapes``
        Their transformation to each coordinate system that they share with the image, and that of what `also` names;
        geometries stay as they are. On disk, ``sdata.write_transformations()`` writes it.
    ``obsm["spatial"]`` : float64
        In tables of these shapes, or of the AnnData, where it is in px of the image or in um of it; else it is left, with a warning.
    ``uns["alignment"]`` : dict
        The second check.
    ``uns["histocell"]["spatial"]`` : str
        ``refined``: the matrices by section, as JSON, the last one at the end.

    Raises
    ------
    ValueError
        When the verdict on a section is something that no small move repairs, or what is left needs another `kind`: the message says
        what to do. When the nuclei do not fit after the move.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=800)
    >>> adata = sdata["cell_table"]
    >>> image = sdata["he"].data
    >>> adata.obsm["spatial"] += [24.0, -10.0]  # px of 0.5 um
    >>> matrix = hc.pp.refine_alignment(adata, image=image, inplace=False)["P1S1"]
    >>> matrix[:2, 2].round().tolist()
    [-24.0, 10.0]
    """
    if kind not in {"translation", "similarity"}:
        msg = f"kind must be 'translation' or 'similarity', not {kind!r}"
        raise ValueError(msg)
    table, placed = place_nuclei(
        data,
        "refine_alignment",
        shapes_key=shapes_key,
        image=image,
        image_key=image_key,
        mpp=mpp,
        library_key=library_key,
        table_key=table_key,
    )
    settings = Settings(radius_um, max_shift_um, tolerance_um, rng)
    _, before = settings.run(placed)
    matrices = [_matrix(each, check, kind) for each, check in zip(placed, before, strict=True)]
    moved = [each.moved(matrix) for each, matrix in zip(placed, matrices, strict=True)]
    result, after = settings.run(moved)
    if bad := [says(each, check) for each, check in zip(moved, after, strict=True) if check.verdict != "fits"]:
        msg = f"the nuclei do not fit after a {kind}, so nothing was moved: {listing(bad, 3)}"
        raise ValueError(msg)
    named = {each.section: matrix for each, matrix in zip(placed, matrices, strict=True)}
    if not inplace:
        return named
    if is_spatialdata(data):
        for name in as_names(also):
            _check_element(data, name, placed)
    for each, matrix, check in zip(placed, matrices, before, strict=True):
        logger.info("moved %s by %s: it was %s", each.section, np.round(matrix, 5).tolist(), says(each, check))
        _move(data, table, each, matrix, as_names(also))
    if table is not None:
        write(table, result, key_added)
    names = {each.shapes for each in placed if each.shapes is not None} | set(as_names(also))
    _record(_tables(data, names, table), named)
    return None


def _move(data: Data, table: AnnData | None, placed: PlacedNuclei, matrix: Floats, also: list[str]) -> None:
    """The nuclei of a section, and what belongs to them, moved by a matrix in px."""
    if is_spatialdata(data) and placed.shapes is not None:
        moved = list(dict.fromkeys([placed.shapes, *also]))
        for name in moved:
            _move_element(data, name, placed, matrix)
        _warn_of_others(data, placed, moved)
    elif table is not None and placed.rows is not None:
        _move_rows(table, placed.rows, placed.xy_px, matrix, placed.mpp)


def _record(tables: list[AnnData], matrices: dict[str, Floats]) -> None:
    """The move in the provenance of the coordinates; a warning where patches were laid before."""
    for table in tables:
        record = keys.read_provenance(table, keys.SPATIAL)
        refined = [*record.pop("refined", []), {name: matrix.tolist() for name, matrix in matrices.items()}]
        record.pop("histocell", None)
        keys.write_provenance(table, keys.SPATIAL, **record, refined=refined)
        if keys.PATCHES in table.obsm:
            warn(f'obsm["{keys.PATCHES}"] lies where the nuclei were; run hc.pp.patches(data) again')


def _matrix(placed: PlacedNuclei, check: Check, kind: str) -> Floats:
    """The move of a section in px, or the error that says why there is none."""
    if check.residual is None:
        msg = f"{placed.section} cannot be refined: {says(placed, check)}. First {DO['unrelated']}"
        raise ValueError(msg)
    linear = check.matrix[:2, :2]
    turn = np.degrees(np.arctan2(linear[1, 0], linear[0, 0]))
    if np.linalg.det(linear) < 0 or abs(turn) > MOST_TURN or abs(check.factor - 1) > MOST_SCALE:
        msg = f"{placed.section} cannot be refined: {says(placed, check)}. First {DO[check.verdict]}"
        raise ValueError(msg)
    if kind == "similarity":
        return check.matrix
    if check.verdict not in {"fits", "shifted"}:
        msg = (
            f'a shift does not repair {placed.section}: {says(placed, check)}. kind="similarity" turns and scales, too'
        )
        raise ValueError(msg)
    matrix = np.eye(3)
    matrix[:2, 2] = check.residual.offset_um / placed.mpp
    return matrix


def _check_element(sdata: SpatialData, name: str, placed: list[PlacedNuclei]) -> None:
    """Refuse, before anything is moved, an element that cannot be moved with the nuclei."""
    if name not in sdata:
        msg = (
            f"element {name!r} of also= not found; available: {listing([*sdata.shapes, *sdata.points, *sdata.labels])}"
        )
        raise MissingKeyError(msg)
    systems = set(transformations(sdata[name]))
    if len(placed) > 1 or not systems & set(transformations(sdata.images[placed[0].image_key])):
        msg = f"element {name!r} of also= shares no coordinate system with the one image of these nuclei, so it cannot move with them"
        raise ValueError(msg)


def _move_element(sdata: SpatialData, name: str, placed: PlacedNuclei, matrix: Floats) -> None:
    """An element, and the coordinates in the tables that annotate it, moved by a matrix in px of the image of the nuclei."""
    from spatialdata.transformations import Affine, set_transformation

    element, image = sdata[name], sdata.images[placed.image_key]
    to_image = matrix_to_image(element, image)
    for table in [] if to_image is None else _tables(sdata, {name}, None):
        attrs = table.uns["spatialdata_attrs"]
        rows = np.flatnonzero(table.obs[attrs["region_key"]].astype(str).to_numpy() == name)
        centroids = element.geometry.centroid.loc[table.obs[attrs["instance_key"]].to_numpy()[rows]]
        xy = transform_points(np.column_stack([centroids.x, centroids.y]), np.asarray(to_image))
        _move_rows(table, rows, xy, matrix, placed.mpp)
    new = dict(transformations(element))
    for system in set(new) & set(transformations(image)):
        to_system = affine_matrix(image, system)
        whole = to_system @ matrix @ np.linalg.inv(to_system) @ affine_matrix(element, system)
        new[system] = Affine(whole, input_axes=("x", "y"), output_axes=("x", "y"))
    set_transformation(element, new, set_all=True)
    if left := sorted(set(new) - set(transformations(image))):
        warn(f"{name!r} is not moved in {listing(left)}, which image {placed.image_key!r} is not in")


def _warn_of_others(sdata: SpatialData, placed: PlacedNuclei, moved: list[str]) -> None:
    """Warn of cells and transcripts in the coordinate systems of the image that stay where they were."""
    systems = set(transformations(sdata.images[placed.image_key]))
    others = [
        name
        for name, element in {**sdata.shapes, **sdata.points}.items()
        if name not in moved and name.startswith(MEASURED) and systems & set(transformations(element))
    ]
    if others:
        warn(f"{listing(map(repr, others))} were not moved with {placed.shapes!r}; also= names what belongs together")


def _move_rows(table: AnnData, rows: np.ndarray, xy_px: Floats, matrix: Floats, mpp: float) -> None:
    """``obsm["spatial"]`` of some rows, in the px or in the um of their image."""
    if keys.SPATIAL not in table.obsm:
        return
    spatial = np.array(table.obsm[keys.SPATIAL], dtype=np.float64)
    for unit in (1.0, mpp):
        if np.allclose(spatial[rows, :2], xy_px * unit, rtol=0, atol=SAME_PX * unit):
            spatial[rows, :2] = transform_points(spatial[rows, :2] / unit, matrix) * unit
            table.obsm[keys.SPATIAL] = spatial
            return
        if np.allclose(spatial[rows, :2], transform_points(xy_px, matrix) * unit, rtol=0, atol=SAME_PX * unit):
            return  # they are there already
    warn(
        f'obsm["{keys.SPATIAL}"] is neither in px nor in um of the image, so it was left as it is; the shapes were moved, and '
        "what reads these finds the new places"
    )


def _tables(data: Data, names: set[str], table: AnnData | None) -> list[AnnData]:
    """The table that was asked for, and those that annotate elements of these names."""
    found = [] if table is None else [table]
    if is_spatialdata(data):
        for each in data.tables.values():
            if names & set(regions_of(each)) and all(each is not other for other in found):
                found.append(each)
    return found
