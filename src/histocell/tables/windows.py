"""Patches of a table: whether they lie on an image, and whether they are those that an embedding was computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from histocell._core import geometry, keys
from histocell._core.errors import listing, warn
from histocell.tables.access import get_obsm
from histocell.tables.regions import recorded_mpp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from numpy.typing import NDArray

    from histocell.images.slide_image import SlideImage
    from histocell.tables.regions import Region

RECORD = "patches"
_SAME_MPP = 0.01
_ONE_SIZE = 1.1  # greatest by least patch; less is due to whole px


def patches_record(table: AnnData) -> dict[str, int | str]:
    """Number of the patches of a table, and a sum over them that does not depend on their order."""
    windows = np.ascontiguousarray(table.obsm[keys.PATCHES], dtype=np.int64).view(np.uint64)
    mixed = np.zeros(len(windows), dtype=np.uint64)
    for column in windows.T:  # a step of splitmix64 for each corner
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(31)
    return {"n": len(windows), "sum": f"{int(mixed.sum(dtype=np.uint64)):016x}"}


def check_patches(table: AnnData, regions: Iterable[Region]) -> None:
    """Refuse patches that were laid on another image than that of their region.

    Raises
    ------
    ValueError
        When the image has another resolution, or shapes have most of their centres outside of their patches.
    """
    windows = np.asarray(table.obsm[keys.PATCHES], dtype=np.float64)
    for region in regions:
        laid_mpp = recorded_mpp(table, region.rows) or region.mpp
        same = region.mpp is None or laid_mpp is None or abs(region.mpp / laid_mpp - 1) < _SAME_MPP
        if region.key is not None and same:
            (low, high), yx = np.split(windows[region.rows], 2, axis=1), region.centers[:, ::-1]
            same = bool(((yx >= low - 1) & (yx <= high + 1)).all(axis=1).mean() > 0.5)
        if not same:
            name = region.name if region.key is None else repr(region.key)
            msg = (
                f'obsm["{keys.PATCHES}"] does not lie on image {name}: it was laid on an image of another resolution or '
                "place. Choose that one with image_key=, or run hc.pp.patches(data) again"
            )
            raise ValueError(msg)


def warn_of_other_patches(table: AnnData, embeddings: Iterable[str]) -> None:
    """Warn of embeddings of other patches than those of the table, and of those that may be of patches of several sizes.

    Patches of another size are no mistake: an embedding for each of several sizes is common. Nor is it known of a part
    of the rows whether it has changed.
    """
    if keys.PATCHES not in table.obsm:
        return
    size_um = keys.read_provenance(table, keys.PATCHES).get("size_um")
    stale, now = [], patches_record(table)
    windows = np.asarray(table.obsm[keys.PATCHES])
    edges = (windows[:, 2] - windows[:, 0]) * np.asarray(table.obs.get(keys.MPP, 1.0), dtype=np.float64)
    unknown = [f'obsm["{key}"]' for key in embeddings if not keys.read_provenance(table, key)]
    if unknown and len(edges) and edges.max() > _ONE_SIZE * edges.min():
        warn(
            f'obsm["{keys.PATCHES}"] holds patches of {edges.min():.3g} to {edges.max():.3g} um, and nothing says of which '
            f"{listing(unknown)} is; run hc.pp.patches and hc.pp.embed_image on all sections together"
        )
    for key in embeddings:
        facts = keys.read_provenance(table, key)
        before = facts.get(RECORD)
        same_size = size_um is not None and facts.get("size_um") == round(size_um, 3)
        if before and same_size and before["n"] == now["n"] and before["sum"] != now["sum"]:
            stale.append(f'obsm["{key}"]')
    if stale:
        warn(
            f'{listing(stale)} was computed before obsm["{keys.PATCHES}"] changed, so it shows other tissue; '
            "run hc.pp.embed_image again"
        )


def patch_windows(table: AnnData) -> NDArray[np.float64]:
    """Patches of the rows, shape ``(n, 4)``: y0, x0, y1, x1."""
    windows = np.asarray(get_obsm(table, keys.PATCHES, "Run hc.pp.patches(data) first."), dtype=np.float64)
    if not len(windows):
        msg = "the table has no rows, so there is nothing to embed"
        raise ValueError(msg)
    return windows


def patch_size_um(table: AnnData, windows: NDArray[np.float64], mpp: NDArray[np.float64]) -> float:
    """Edge of the patches in um: as recorded, else a whole number that the windows round, else what they are.

    Raises
    ------
    ValueError
        When they are of several sizes.
    """
    recorded = keys.read_provenance(table, keys.PATCHES).get("size_um")
    sizes = (windows[:, 2] - windows[:, 0]) * mpp
    size_um = float(recorded or np.median(sizes))
    if recorded is None and (np.abs(sizes - round(size_um)) <= 0.51 * mpp).all():  # windows are of whole px
        size_um = float(round(size_um))
    differ = np.abs(sizes - size_um) > 1.01 * mpp
    if differ.any():
        msg = (
            f'obsm["{keys.PATCHES}"] holds patches of {listing(dict.fromkeys(f"{size:.4g}" for size in sizes), 4)} um, and an '
            "embedding is of one size: lay them again with hc.pp.patches(data, size_um=...)"
        )
        raise ValueError(msg)
    return size_um


def rows_inside(region: Region, centers: NDArray[np.float64]) -> NDArray[np.intp]:
    """The rows of a region whose patches are centred on its image."""
    shape = cast("SlideImage", region.image).shape
    xy = centers[region.rows]
    # a window in whole px may be centred on the very border
    clipped = np.clip(xy, 0, np.nextafter(shape[::-1], 0))
    xy = np.where(np.abs(xy - clipped) <= 0.5, clipped, xy)
    return region.rows[geometry.check_inside(xy, shape, region.name)]
