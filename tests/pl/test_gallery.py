"""The pictures of docs/gallery.md, compared with those that lie there."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import histocell as hc

DOCS = Path(__file__).parents[2] / "docs"
spec = importlib.util.spec_from_file_location("draw_gallery", DOCS / "draw_gallery.py")
draw_gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw_gallery)
PICTURES = [picture for _, picture in draw_gallery.blocks((DOCS / "gallery.md").read_text(encoding="utf-8")) if picture]
TOLERANCE = 40.0  # of 255; text drawn by another version of FreeType changes less, a scalebar that is lost changes more


def difference(first: Path, second: Path) -> float:
    """Largest difference of the mean brightness in squares of 8 px; all of it where the sizes differ by over 2 %."""
    images = [Image.open(path).convert("L") for path in (first, second)]
    sizes = np.array([image.size for image in images])
    if np.abs(sizes[0] / sizes[1] - 1).max() > 0.02:
        return 255.0
    small = [np.asarray(image.resize(tuple(sizes[0] // 8), Image.Resampling.BOX), dtype=float) for image in images]
    return float(np.abs(small[0] - small[1]).max())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with the pictures as they are drawn now; those of the example slide need the folder with real data."""
    folder = tmp_path_factory.mktemp("docs")
    backend = plt.get_backend()
    draw_gallery.draw(folder, example_slide="HISTOCELL_DATA_DIR" in os.environ)
    plt.switch_backend(backend)
    if os.environ.get("HISTOCELL_WRITE_BASELINES"):
        shutil.copytree(folder / "gallery", DOCS / "gallery", dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize("picture", PICTURES)
def test_looks_as_in_the_docs(drawn, picture):
    if not (drawn / picture).is_file():
        pytest.skip("needs the example slide")
    assert difference(DOCS / picture, drawn / picture) < TOLERANCE, (
        "python docs/draw_gallery.py draws it anew: look at it"
    )


def test_every_plot_is_there_and_small():
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert [name for name in hc.pl.__all__ if f"hc.pl.{name}(" not in page] == []
    assert sorted(PICTURES) == sorted(f"gallery/{path.name}" for path in (DOCS / "gallery").iterdir())
    assert [path.name for path in (DOCS / "gallery").iterdir() if path.stat().st_size > draw_gallery.MAX_BYTES] == []


def test_the_comparison_sees_a_lost_scalebar_and_no_other_hinting(sdata, tmp_path):
    def save(name):
        ax = hc.pl.abundance(sdata, "Tumour")[0, 0]
        if name == "lost":
            ax.figure.draw_without_rendering()
            ax.figure.set_layout_engine("none")  # nothing else moves
            ax.artists[0].set_visible(False)
        ax.figure.savefig(tmp_path / f"{name}.png", dpi=100)
        return tmp_path / f"{name}.png"

    whole = save("whole")
    with mpl.rc_context({"text.hinting": "none", "text.hinting_factor": 1}):
        assert difference(whole, save("unhinted")) < 0.75 * TOLERANCE
    assert difference(whole, save("lost")) > 1.25 * TOLERANCE
