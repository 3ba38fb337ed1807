from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from PIL import Image
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.axes import Axes

BASELINE = Path(__file__).parent / "baseline"
TYPES = ["Tumour", "T-cells CD4+", "α_β", "Endothelial Lymphatic LYVE1"]
MPP, PITCH = 2.0, 50


@pytest.fixture(autouse=True)
def _no_figure_leak() -> Iterator[None]:
    """No plot leaves a figure open that the test did not ask for; tests close their own here."""
    assert plt.get_fignums() == []
    before = plt.rcParams.copy()
    yield
    plt.close("all")
    assert plt.rcParams == before, "a plot changed the global style"


@pytest.fixture
def picture() -> np.ndarray:
    """A pink image with dark discs that grow to the right, 400 px wide and 350 high."""
    y, x = np.mgrid[:350, :400]
    discs = np.hypot((x % 25) - 12, (y % 25) - 12) < 3 + x / 60
    return np.where(discs[..., None], (90, 50, 140), (235, 190, 215)).astype(np.uint8)


@pytest.fixture
def spots() -> AnnData:
    """The 42 spots of one section."""
    return _spots("S1")


@pytest.fixture
def two_sections() -> AnnData:
    """Two sections in one AnnData, the first for training, the second for testing."""
    both = concat([_spots("S1"), _spots("S2", rng=1)], keys=["S1", "S2"], index_unique="-")
    both.obs["split"] = both.obs["section"].map({"S1": "train", "S2": "test"}).astype("category")
    return both


@pytest.fixture
def sdata(spots: AnnData, picture: np.ndarray) -> SpatialData:
    """The spots on the image, as circles of 80 um."""
    to_um = {"global": Identity(), "um": Scale([MPP, MPP], axes=("x", "y"))}
    spots.obs["region"], spots.obs["spot_id"] = pd.Categorical(["spots"] * spots.n_obs), np.arange(spots.n_obs)
    return SpatialData(
        images={"he": Image2DModel.parse(picture.transpose(2, 0, 1), dims=("c", "y", "x"), transformations=to_um)},
        shapes={"spots": ShapesModel.parse(spots.obsm["spatial"], geometry=0, radius=20.0, transformations=to_um)},
        tables={"table": TableModel.parse(spots, region="spots", region_key="region", instance_key="spot_id")},
    )


def _spots(section: str, rng: int = 0) -> AnnData:
    """Spots in 7 columns and 6 rows; what is predicted is the truth with some noise."""
    g = np.random.default_rng(rng)
    x, y = (values.ravel() for values in np.meshgrid(np.arange(7), np.arange(6)))
    truth = np.column_stack([x / 6, (y == 2) * 0.2, np.exp(-x - y) / 50, 1 + x + y]).astype(float)
    names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    adata = AnnData(obs=pd.DataFrame({"section": section, "mpp": MPP}, index=names))
    adata.obsm["spatial"] = np.column_stack([x, y]) * float(PITCH) + 48.0
    adata.obsm["cell_abundance"] = pd.DataFrame(truth, index=names, columns=TYPES)
    noisy = np.maximum(truth + g.normal(0, 0.4, truth.shape) * truth.std(axis=0), 0)
    adata.obsm["predicted_abundance"] = pd.DataFrame(noisy.astype(np.float32), index=names, columns=TYPES)
    corner = adata.obsm["spatial"][:, ::-1].astype(np.int32) - 20
    adata.obsm["patches"] = np.hstack([corner, corner + 40])
    return adata


@pytest.fixture
def user_axes() -> Callable[[str], tuple[Axes, list[Axes]]]:
    """Axes as a user brings them, and their neighbours: one of 2 x 2, or alone in 3 x 3 inches."""

    def make(kind: str) -> tuple[Axes, list[Axes]]:
        if kind == "2 x 2":
            first, *others = plt.subplots(2, 2, figsize=(10, 8))[1].flat
            for ax in others:
                ax.set_ylabel("of the user")
            return first, others
        figure = plt.figure(figsize=(3, 3), layout="constrained" if kind == "constrained" else None)
        return figure.add_subplot(), []

    return make


@pytest.fixture
def assert_inside() -> Callable[[Axes, list[Axes]], None]:
    """All that is drawn at axes lies in the figure, and on no other axes."""

    def check(ax: Axes, others: list[Axes]) -> None:
        ax.figure.canvas.draw()
        box = ax.get_tightbbox()
        assert (box.min >= -1).all()
        assert (box.max <= ax.figure.bbox.max + 1).all()
        for other in others:
            assert not other.get_tightbbox().overlaps(box)

    return check


@pytest.fixture
def assert_apart() -> Callable[[list[Text]], None]:
    """No two texts lie on each other."""

    def check(texts: list[Text]) -> None:
        boxes = [Text.get_window_extent(text) for text in texts if text.get_text()]  # without the line of an annotation
        for index, box in enumerate(boxes):
            for other in boxes[:index]:
                both = box.intersection(box, other)
                assert both is None or both.width < 1 or both.height < 0.25 * min(box.height, other.height)

    return check


@pytest.fixture
def looks_like(tmp_path: Path) -> Callable[[Axes, str], None]:
    """Compare a figure with its baseline; HISTOCELL_WRITE_BASELINES=1 writes a new one to be looked at."""

    def check(ax: Axes, name: str) -> None:
        expected, actual = BASELINE / f"{name}.png", tmp_path / f"{name}.png"
        ax.figure.savefig(actual, dpi=80, metadata={"Software": None})
        if os.environ.get("HISTOCELL_WRITE_BASELINES"):
            Image.open(actual).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(expected, optimize=True)
        assert expected.is_file(), f"no baseline {expected.name}"
        assert expected.stat().st_size < 60_000
        difference = compare_images(str(expected), str(actual), tol=15)
        assert difference is None, difference

    return check
