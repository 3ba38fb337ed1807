"""Polygons of a GeoJSON file, all at once."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from histocell._core.errors import listing, reading

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

type Ring = list[list[float]]
type JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Features:
    """Polygons and what the file says of them.

    Attributes
    ----------
    polygons
        One for each polygon, and for each part of a multipolygon, in the order of the file; `None` where a ring has fewer
        than three points.
    feature
        Position of the feature of each.
    objects
        The features without their geometry.
    skipped
        Number of geometries that are no polygons, by type.
    """

    polygons: NDArray[np.object_]
    feature: NDArray[np.intp]
    objects: list[JsonObject]
    skipped: Counter[str]

    @property
    def properties(self) -> list[JsonObject]:
        """Properties of each feature."""
        return [each.get("properties") or {} for each in self.objects]


def read_features(path: Path) -> Features:
    """Read a GeoJSON file, plain, gzipped or alone in a ZIP file.

    Raises
    ------
    OSError
        If the file is missing, damaged or no JSON.
    ValueError
        If it is no GeoJSON, or coordinates are no numbers.
    """
    with reading(path):
        content = json.loads(_text(path))
    objects = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(objects, list) or not all(isinstance(each, dict) and "geometry" in each for each in objects):
        found = f"keys {listing(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        msg = f"{path} is no GeoJSON: expected a FeatureCollection, or a list of features with a geometry; it holds {found}"
        raise ValueError(msg)
    rings: list[Ring] = []
    ring_of: list[int] = []
    feature_of: list[int] = []
    skipped = Counter[str]()
    for number, each in enumerate(objects):
        try:
            parts = _parts(each.pop("geometry"), skipped)
        except (AttributeError, KeyError, TypeError) as error:
            msg = f"{path}: the geometry of feature {number} is no GeoJSON: {type(error).__name__}: {error}"
            raise ValueError(msg) from error
        for part in parts:
            rings += part
            ring_of += [len(feature_of)] * len(part)
            feature_of.append(number)
    try:
        length = np.fromiter(map(len, rings), dtype=np.intp, count=len(rings))
    except TypeError as error:
        msg = f"{path}: a ring of a polygon must be a list of vertices ({error})"
        raise ValueError(msg) from error
    polygons = _polygons(rings, length, np.array(ring_of, dtype=np.intp), len(feature_of), path)
    return Features(polygons, np.array(feature_of, dtype=np.intp), objects, skipped)


def _text(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(("json", "geojson"))]
            if len(names) != 1:
                msg = f"{path}: holds {listing(archive.namelist())}; expected one GeoJSON file"
                raise OSError(msg)
            return archive.read(names[0])
    return data


def _parts(geometry: JsonObject | None, skipped: Counter[str]) -> list[list[Ring]]:
    """The polygons of a geometry, each a list of rings, the outer one first."""
    kind = "none" if geometry is None else geometry.get("type")
    if geometry is not None and kind == "Polygon":
        return [geometry["coordinates"]] if geometry["coordinates"] else []
    if geometry is not None and kind == "MultiPolygon":
        return [part for part in geometry["coordinates"] if part]
    if geometry is not None and kind == "GeometryCollection":
        return [part for each in geometry["geometries"] for part in _parts(each, skipped)]
    skipped[str(kind)] += 1
    return []


def _polygons(
    rings: list[Ring], length: NDArray[np.intp], owner: NDArray[np.intp], n: int, path: Path
) -> NDArray[np.object_]:
    """Polygons out of their rings."""
    polygons = np.full(n, None, dtype=object)
    if not rings:
        return polygons
    xy = _coordinates(rings, int(length.sum()), path)
    if not np.isfinite(xy).all():
        msg = f"{path}: {int((~np.isfinite(xy)).any(axis=1).sum())} vertices are no finite numbers"
        raise ValueError(msg)
    start = np.cumsum(length) - length
    closed = (length > 1) & (xy[np.minimum(start, len(xy) - 1)] == xy[start + length - 1]).all(axis=1)
    whole = length - closed >= 3
    is_outer = np.diff(owner, prepend=-1) > 0
    whole &= whole[np.flatnonzero(is_outer)][np.cumsum(is_outer) - 1]  # holes of what is no polygon go with it
    if not whole.any():
        return polygons
    kept = np.repeat(whole, length)
    number = np.repeat(np.arange(whole.sum()), length[whole])
    found, of = np.unique(owner[whole], return_inverse=True)
    polygons[found] = shapely.polygons(shapely.linearrings(xy[kept], indices=number), indices=of)
    return polygons


def _coordinates(rings: list[Ring], n: int, path: Path) -> NDArray[np.float64]:
    """Vertices (n, 2) of all rings; a third coordinate is left out."""
    try:
        values = np.fromiter(chain.from_iterable(chain.from_iterable(rings)), dtype=np.float64)
        if len(values) not in {2 * n, 3 * n} or len(values) % max(n, 1):
            values = np.array([point[:2] for ring in rings for point in ring], dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"{path}: vertices must be pairs of numbers ({error})"
        raise ValueError(msg) from error
    return values.reshape(n, -1)[:, :2]
