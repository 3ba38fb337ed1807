"""The patches that an embedding was computed from, to tell whether a table still has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histocell._core import keys
from histocell._core.errors import listing, warn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

RECORD = "patches"


def patches_record(table: AnnData) -> dict[str, int | str]:
    """Number of the patches of a table, and a sum over them that does not depend on their order."""
    windows = np.ascontiguousarray(table.obsm[keys.PATCHES], dtype=np.int64).view(np.uint64)
    mixed = np.zeros(len(windows), dtype=np.uint64)
    for column in windows.T:  # a step of splitmix64 for each corner
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(31)
    return {"n": len(windows), "sum": f"{int(mixed.sum(dtype=np.uint64)):016x}"}


def warn_of_other_patches(table: AnnData, embeddings: Iterable[str]) -> None:
    """Warn of embeddings of other patches than those of the table.

    Patches of another size are no mistake: an embedding for each of several sizes is common. Nor is it known of a part
    of the rows whether it has changed.
    """
    if keys.PATCHES not in table.obsm:
        return
    size_um = keys.read_provenance(table, keys.PATCHES).get("size_um")
    stale, now = [], patches_record(table)
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
