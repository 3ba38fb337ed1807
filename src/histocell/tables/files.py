"""The image files of an AnnData: given, remembered, or named by Space Ranger."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from histocell._core import keys
from histocell._core.errors import MissingKeyError, listing
from histocell.tables.access import coordinates
from histocell.tables.regions import Located, by_name, entry_of
from histocell.tables.windows import RECORD, patches_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell.images.slide_image import ImageSource
    from histocell.tables.regions import Region

WHOLE_TABLE = "the table"  # the name of all rows, where they are one region
_FILES = "images"  # provenance of the paths


def check_images(image: object, groups: Mapping[str, NDArray[np.intp]], table: AnnData) -> None:
    """Refuse one image for several libraries, and images by library where nothing says which rows are of which."""
    if image is not None and not by_name(image) and len(groups) > 1:
        msg = f"one image for {len(groups)} libraries ({listing(groups)}); give a mapping from library to image"
        raise ValueError(msg)
    if by_name(image) and WHOLE_TABLE in groups and WHOLE_TABLE not in image:
        fits = [name for name in table.obs if set(table.obs[name].astype(str)) == {str(library) for library in image}]
        example = f'library_key="{fits[0]}"' if fits else "library_key=, the column of obs that says so"
        msg = f"image holds {listing(image)}, and nothing says which rows lie on which: give {example}"
        raise MissingKeyError(msg)


def image_files(
    table: AnnData,
    groups: Mapping[str, NDArray[np.intp]],
    image: ImageSource | Mapping[str, ImageSource] | None,
    *,
    need_image: bool,
) -> list[Located]:
    """The groups of rows of an AnnData with the images that were given or are known from files."""
    xy = coordinates(table)
    check_images(image, groups, table)
    located, libraries = [], _libraries(table, groups)
    for name, rows in groups.items():
        source = (
            _known_file(table, name, libraries)
            if image is None
            else cast("ImageSource", entry_of(image, name, "image"))
        )
        if source is None and need_image:
            msg = (
                f'no image for {name}: give image= (a path or an array), or set uns["spatial"][library]["metadata"]'
                '["source_image_path"], or build a SpatialData with hc.io.from_anndata(adata, image=..., mpp=...)'
            )
            raise ValueError(msg)
        located.append(Located(name, rows, xy[rows], source))
    return located


def _known_file(table: AnnData, name: str, libraries: Mapping[str, Any]) -> str | None:
    """The image file that was used before, or that ``uns["spatial"]`` (Space Ranger, scanpy) points to."""
    facts = keys.read_provenance(table, _FILES)
    used = facts.get("files", facts)
    known = used.get(name)
    if known is None and keys.PATCHES in table.obsm and facts.get(RECORD) == patches_record(table):
        known = used.get(WHOLE_TABLE)  # whatever sections are called now; not in a table that was joined with another
    source = (libraries.get(name) or {}).get("metadata", {}).get("source_image_path")
    return next((str(path) for path in (known, source) if path and Path(str(path)).exists()), None)


def _libraries(table: AnnData, groups: Iterable[str]) -> Mapping[str, Any]:
    """Entries of ``uns["spatial"]`` by group; the only one is that of all groups, unless it has the name of one."""
    libraries = table.uns.get("spatial", {})
    if len(libraries) == 1 and not set(libraries) & set(groups):
        return dict.fromkeys(groups, next(iter(libraries.values())))
    return libraries


def remember_files(
    table: AnnData, image: ImageSource | Mapping[str, ImageSource], regions: Sequence[Region], sections: Sequence[str]
) -> None:
    """Keep the paths of images given as files, so that later steps find them.

    Parameters
    ----------
    sections
        Names of the sections, which all lie on the image where it is one.
    """
    if by_name(image):
        sources = {region.name: entry_of(image, region.name, "image") for region in regions}
    else:
        sources = dict.fromkeys([*sections, WHOLE_TABLE], image)
    paths = {name: str(Path(path).resolve()) for name, path in sources.items() if isinstance(path, str | PathLike)}
    if paths:
        keys.write_provenance(table, _FILES, files=paths, **{RECORD: patches_record(table)})


def copy_files(source: AnnData, target: AnnData) -> None:
    """Let a table with patches on the same images as those of `source` find their files, too."""
    files = keys.read_provenance(source, _FILES).get("files")
    if files:
        keys.write_provenance(target, _FILES, files=files, **{RECORD: patches_record(target)})
