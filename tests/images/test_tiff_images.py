"""TIFFs of several images: which of them is the slide."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)


def picture(height: int, width: int, value: int) -> np.ndarray:
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[: height // 2, : width // 2] //= 2
    return pixels


def assert_reads(path: Path, pixels: np.ndarray) -> None:
    image = open_image(path)
    assert image.shape == pixels.shape[:2]
    np.testing.assert_array_equal(image.read(0, 0, *image.shape), pixels)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("options", [{}, {"tile": (128, 128)}, {"planarconfig": "separate"}])
def test_the_largest_image(tmp_path: Path, order: tuple[int, ...], options: dict) -> None:
    """The first page won, whatever its size."""
    pictures = [picture(200, 160, 60), picture(300, 400, 120), picture(90, 500, 180)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number in order:
            stored = pictures[number]
            if "planarconfig" in options:
                stored = np.ascontiguousarray(np.moveaxis(stored, -1, 0))
            file.write(stored, photometric="rgb", metadata=None, **options)
    assert_reads(tmp_path / "a.tif", pictures[1])


@pytest.mark.parametrize("axes", ["YXS", "CYX"])
def test_the_largest_image_of_an_ome_tiff(tmp_path: Path, axes: str) -> None:
    pictures = [picture(100, 160, 60), picture(300, 400, 120), picture(100, 100, 180)]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for number, pixels in enumerate(pictures):
            stored = pixels if axes == "YXS" else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
            metadata = {"axes": axes, "PhysicalSizeX": 0.25 + number / 4, "PhysicalSizeY": 0.25 + number / 4}
            file.write(stored, photometric="rgb" if axes == "YXS" else "minisblack", metadata=metadata)
    assert_reads(tmp_path / "a.ome.tif", pictures[1])
    assert open_image(tmp_path / "a.ome.tif").mpp == pytest.approx(0.5)  # of the second image


def test_label_and_macro_are_no_slide(tmp_path: Path) -> None:
    """Those of a small scan are larger than the scan."""
    slide, macro, label = picture(256, 256, 200), picture(300, 900, 90), picture(400, 400, 40)
    text = "Aperio Image Library v11.2.1\r\n256x256 [0,0 256x256] (256x256) JPEG/RGB Q=30|AppMag = 20|MPP = 0.499"
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(slide, photometric="rgb", tile=(256, 256), description=text, metadata=None)
        file.write(label, photometric="rgb", subfiletype=1, description="Aperio\r\nlabel 400x400", metadata=None)
        file.write(macro, photometric="rgb", subfiletype=9, description="Aperio\r\nmacro 900x300", metadata=None)
    assert_reads(tmp_path / "a.svs", slide)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for name, pixels in (("label image", label), ("macro image", macro), ("slide", slide)):
            file.write(pixels, photometric="rgb", metadata={"axes": "YXS", "Name": name})
    assert_reads(tmp_path / "a.ome.tif", slide)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(macro, photometric="rgb", subfiletype=1, metadata=None)
        file.write(slide, photometric="rgb", metadata=None)
    assert_reads(tmp_path / "a.tif", slide)


def test_several_images_of_one_size_are_said(tmp_path: Path, user_sees) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for value in (60, 120):
            file.write(picture(100, 160, value), photometric="rgb", metadata={"axes": "YXS"})
    with user_sees("Slides", "an OME-TIFF of two images of one size", UserWarning, match=r"a\.ome\.tif holds several"):
        image = open_image(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(image.read(0, 0, 100, 160), picture(100, 160, 60))


def test_stacks_are_refused(tmp_path: Path, user_sees) -> None:
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for value in (60, 120, 180):
            file.write(picture(100, 160, value), photometric="rgb", metadata=None, contiguous=False)
    with user_sees(
        "Slides", "a TIFF of several pages of one size", ValueError, match=r"pages\.tif.*stack of images \(3"
    ):
        open_image(tmp_path / "pages.tif")
    stack = RNG.integers(0, 255, (3, 60, 50), dtype=np.uint8)
    for axes in ("ZYX", "TYX", "QYX"):
        tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata={"axes": axes})
        with pytest.raises(ValueError, match=rf"stack of images \(3 along {axes[0]}\)"):
            open_image(tmp_path / "a.tif")
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.stack([np.moveaxis(stack, 0, -1)] * 2), photometric="rgb", metadata={"axes": "ZYXS"}
    )
    with pytest.raises(ValueError, match="2 along Z"):
        open_image(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("axes", ["SYX", "CYX", "ZCYX", "TYXS"])
def test_axes_of_one_picture(tmp_path: Path, axes: str) -> None:
    pixels = picture(90, 120, 150)
    stored = np.ascontiguousarray(np.moveaxis(pixels, -1, 0)) if axes.endswith("YX") else pixels
    options = {"photometric": "minisblack"} if "C" in axes else {"photometric": "rgb"}
    if axes == "SYX":
        options["planarconfig"] = "separate"
    stored = stored[None] if len(axes) == 4 else stored
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.tif", "a.ome.tif"):
            tifffile.imwrite(tmp_path / name, stored, metadata={"axes": axes}, **options)
            assert_reads(tmp_path / name, pixels)


def test_an_ome_tiff_whose_planes_lie_in_another_file(tmp_path: Path, user_sees) -> None:
    """They were read as black."""
    stack = np.ascontiguousarray(np.moveaxis(picture(64, 64, 150), -1, 0))
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        xml = file.ome_metadata
    uuid = '<UUID FileName="b.ome.tif">urn:uuid:00000000-0000-0000-0000-000000000000</UUID>'
    planes = "".join(
        f'<TiffData IFD="{ifd}" FirstC="{ifd}" PlaneCount="1">{uuid if ifd == 2 else ""}</TiffData>' for ifd in range(3)
    )
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    xml = xml[:start] + planes + xml[end:]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(stack[0], photometric="minisblack", description=xml, metadata=None)
        file.write(stack[1], photometric="minisblack", metadata=None)
    with user_sees("Slides", "an OME-TIFF with a plane in a file that is not there", OSError, match="planes"):
        open_image(tmp_path / "a.ome.tif")
