"""What bench_embedding.py embeds: slides of any size that repeat a piece of real tissue, and an encoder that is nearly free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
import torch
from anndata import AnnData
from torch import nn

import histocell as hc
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE, PERIOD, MPP = 256, 2048, 0.5  # px of a JPEG tile, px after which the tissue repeats, um per px
TILE_PX = 224  # of a patch


def tissue(edge: int = PERIOD) -> NDArray[np.uint8]:
    """A square of H&E at 0.5 um/px: of CMU-1 (Aperio, OpenSlide's test data), else synthetic."""
    real = Path(os.environ.get("HISTOCELL_DATA_DIR", "")) / "slides" / "CMU-1-Small-Region.svs"
    if real.exists():
        return open_image(real).read(400, 100, 400 + edge, 100 + edge)
    section = hc.datasets.synthetic_tissue(size_px=edge)
    return np.ascontiguousarray(np.moveaxis(section["he"].to_numpy(), 0, -1))


def write_slide(path: Path, size_px: int, *, mpp: float = MPP) -> Path:
    """A pyramid of `size_px` x `size_px`, levels halved down to 1024 px.

    The encoded tiles of one period lie in the file once and all others point to them: a reader decodes them
    anew, and 10^10 pixels need a few MB of disk.
    """
    picture, edge, levels = tissue(), size_px, []
    while True:
        levels.append((edge, _encoded(picture)))
        if edge <= 1024:
            break
        edge = -(-edge // 2)
        if len(picture) == TILE:
            picture = np.tile(picture, (2, 2, 1))
        picture = picture.reshape(len(picture) // 2, 2, -1, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, (edge, _) in enumerate(levels):
            per_side = -(-edge // TILE)
            writer.write(
                (b"" for _ in range(per_side**2)),
                shape=(edge, edge, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 2),
                subfiletype=int(number > 0),
                resolution=(1e4 / (mpp * size_px / edge),) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    for page, (edge, encoded) in enumerate(levels):
        _point(path, page, -(-edge // TILE), encoded)
    return path


def _encoded(picture: NDArray[np.uint8]) -> list[list[bytes]]:
    starts = range(0, len(picture), TILE)
    return [
        [imagecodecs.jpeg_encode(picture[y : y + TILE, x : x + TILE], level=80, subsampling="420") for x in starts]
        for y in starts
    ]


def _point(path: Path, page: int, per_side: int, encoded: list[list[bytes]]) -> None:
    """Append the tiles of one period and let every tile of the level point to its one."""
    streams = [stream for row in encoded for stream in row]
    with path.open("ab") as file:
        offsets = file.tell() + np.cumsum([0, *map(len, streams)])[:-1]
        file.write(b"".join(streams))
    place = np.arange(per_side) % len(encoded)
    which = (place[:, None] * len(encoded) + place).ravel()
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages[page].tags
        tags["TileOffsets"].overwrite(offsets[which].tolist())
        tags["TileByteCounts"].overwrite(np.array([len(stream) for stream in streams])[which].tolist())


def grid(size_px: int, tile_px: int, count: int | None = None) -> NDArray[np.int64]:
    """Top left corners (x, y) of the tiles that fill a slide, row by row; the first `count` of them."""
    starts = np.arange(0, size_px - tile_px + 1, tile_px)
    y, x = np.meshgrid(starts, starts, indexing="ij")
    return np.column_stack([x.ravel(), y.ravel()])[:count]


def table(path: Path, corners: NDArray[np.int64], tile_px: int = TILE_PX) -> AnnData:
    """Tiles as rows."""
    adata = AnnData(obs=pd.DataFrame(index=[f"tile_{number}" for number in range(len(corners))]))
    adata.obsm["spatial"] = corners + tile_px / 2
    hc.pp.patches(adata, size_um=tile_px * MPP, image=path)
    return adata


class MeanOfPixels(nn.Module):
    """Mean of each channel; with `width`, that many fixed mixtures of the three. `log` gets the means of every image."""

    def __init__(self, width: int | None = None, log: Path | None = None) -> None:
        super().__init__()
        mixture = None if width is None else torch.randn(3, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("mixture", mixture)
        self.log = log

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean(dim=(2, 3))
        if self.log is not None and len(images) > 1:  # one image: the engine asks for the width
            with self.log.open("ab") as file:
                file.write(means.numpy().tobytes())
        return means if self.mixture is None else means @ self.mixture
