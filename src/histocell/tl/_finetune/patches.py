"""Patches of the rows of a cohort, of the size of an encoder's input: in memory, or in a file where they are many."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from histocell._core.settings import progress_bar
from histocell.encoders.inference.batches import read_batches
from histocell.encoders.inference.preprocessing import Preprocessing
from histocell.images.patch_source import PatchSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histocell.encoders.spec import EncoderSpec
    from histocell.images.slide_image import SlideImage
    from histocell.tl._finetune.rows import Member

_IN_MEMORY = 4 * 2**30  # bytes
_BATCH = 64
_CHECKED = 256  # patches that tell one cohort from another


def read_patches(members: Sequence[Member], spec: EncoderSpec, file: Path) -> NDArray[np.uint8]:
    """The patches of all rows that are used, member by member, shape ``(n, edge, edge, 3)``.

    They are read once, since slides are slow to read in random order.

    Parameters
    ----------
    members
        Tables of the cohort.
    spec
        Size and interpolation of the input.
    file
        Where they are kept if there are more than 4 GiB of them.
    """
    n, edge = sum(int(member.used.sum()) for member in members), spec.input_px
    shape = (n, edge, edge, 3)
    if np.prod(shape) <= _IN_MEMORY:
        out: NDArray[np.uint8] = np.empty(shape, dtype=np.uint8)
    else:
        out = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    prepare = Preprocessing(spec, torch.device("cpu"), torch.float32)
    start = 0
    with progress_bar(total=n, desc="reading patches", unit="patch") as bar:
        for member in members:
            place = np.full(len(member.parts), -1)
            place[member.used] = start + np.arange(member.used.sum())
            start += int(member.used.sum())
            for region in member.regions:
                rows = region.rows[member.used[region.rows]]
                if not len(rows):
                    continue
                size_px = member.size_um / float(member.mpp[rows[0]])
                source = PatchSource(cast("SlideImage", region.image), size_px=size_px, input_px=edge)
                parts = [rows[first : first + _BATCH] for first in range(0, len(rows), _BATCH)]
                for part, batch in zip(parts, read_batches(source, [member.centers[p] for p in parts]), strict=True):
                    out[place[part]] = prepare.resize(batch).permute(0, 2, 3, 1).numpy()
                    bar.update(len(part))
    return out


def patches_digest(patches: NDArray[np.uint8]) -> str:
    """A checksum of some patches."""
    digest = hashlib.sha256(str(patches.shape).encode())
    for row in np.unique(np.linspace(0, len(patches) - 1, min(_CHECKED, len(patches))).astype(int)):
        digest.update(np.ascontiguousarray(patches[row]).tobytes())
    return digest.hexdigest()[:16]
