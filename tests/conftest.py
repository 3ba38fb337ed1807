from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import pytest

if TYPE_CHECKING:
    from spatialdata import SpatialData

collect_ignore = ["benchmarks"]  # scripts
mpl.use("Agg")
os.environ["HISTOCELL_PROGRESS"] = "0"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data: the folder that HISTOCELL_DATA_DIR names."""
    path = os.environ.get("HISTOCELL_DATA_DIR")
    if not path or not Path(path).is_dir():
        pytest.skip("HISTOCELL_DATA_DIR does not name a folder with the real data")
    return Path(path).resolve()


@pytest.fixture(scope="session")
def parity_dir(data_dir: Path) -> Path:
    """Outputs of the original implementations, beside the real data."""
    path = data_dir.parent / "parity"
    if not path.is_dir():
        pytest.skip("no parity fixtures beside HISTOCELL_DATA_DIR")
    return path


@pytest.fixture(scope="session")
def _tissue() -> SpatialData:
    import histocell as hc

    return hc.datasets.synthetic_tissue(size_px=700, spot_pitch_um=50, spot_diameter_um=50, rng=0)


@pytest.fixture(scope="session")
def _cohort() -> SpatialData:
    import histocell as hc

    sdata = hc.datasets.synthetic_tissue(4, n_patients=4, size_px=700, spot_pitch_um=50, spot_diameter_um=50, rng=1)
    hc.pp.patches(sdata)
    hc.pp.embed_image(sdata, "morphology")
    return sdata


@pytest.fixture
def tissue(_tissue: SpatialData) -> SpatialData:
    """One small synthetic section; changes stay in the test."""
    return _copy(_tissue)


@pytest.fixture
def cohort(_cohort: SpatialData) -> SpatialData:
    """Four small synthetic sections of four patients, embedded with `morphology`; changes stay in the test."""
    return _copy(_cohort)


def _copy(sdata: SpatialData) -> SpatialData:
    from spatialdata import SpatialData

    return SpatialData(
        images=dict(sdata.images),
        shapes={name: shapes.copy() for name, shapes in sdata.shapes.items()},
        tables={name: table.copy() for name, table in sdata.tables.items()},
    )
