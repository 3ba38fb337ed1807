from __future__ import annotations

import csv
import os
import re
import shutil
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spatialdata import SpatialData

BAD_INPUT = Path(__file__).parents[1] / "docs" / "bad_input.csv"

collect_ignore = ["benchmarks", "fuzz"]  # scripts
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


@pytest.fixture(scope="session")
def xenium_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `xenium`, not to be changed."""
    import histocell as hc

    return hc.datasets.synthetic_xenium(tmp_path_factory.mktemp("bundles") / "xenium", size_px=500, rng=0)


@pytest.fixture(scope="session")
def visium_hd_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `visium_hd`, not to be changed."""
    import histocell as hc

    return hc.datasets.synthetic_visium_hd(tmp_path_factory.mktemp("bundles") / "visium_hd", size_px=500, rng=0)


@pytest.fixture
def xenium(xenium_bundle: Path, tmp_path: Path) -> Path:
    """A synthetic Xenium bundle, 500 px of 0.5 um; changes stay in the test."""
    return Path(shutil.copytree(xenium_bundle, tmp_path / "xenium"))


@pytest.fixture
def visium_hd(visium_hd_bundle: Path, tmp_path: Path) -> Path:
    """A synthetic Visium HD bundle, 500 px of 0.5 um; changes stay in the test."""
    return Path(shutil.copytree(visium_hd_bundle, tmp_path / "visium_hd"))


def _copy(sdata: SpatialData) -> SpatialData:
    from spatialdata import SpatialData

    return SpatialData(
        images=deepcopy(dict(sdata.images)),  # transformations, too
        shapes={name: shapes.copy() for name, shapes in sdata.shapes.items()},
        tables={name: table.copy() for name, table in sdata.tables.items()},
    )


class UserSees:
    """A bad input and what the user sees, which is also its row in the table of docs/reliability.md.

    ``with user_sees("Slides", "a TIFF that ends early", OSError, match="ends early"): ...`` is `pytest.raises` or, for
    a warning, `pytest.warns`. The message must be the one that the table shows;
    ``HISTOCELL_WRITE_TABLES=1 pytest`` writes it there instead.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    @contextmanager
    def __call__(self, area: str, given: str, kind: type[Exception], *, match: str) -> Iterator[None]:
        if issubclass(kind, Warning):
            with pytest.warns(kind, match=match) as caught:
                yield
            text = next(
                str(one.message)
                for one in caught
                if issubclass(one.category, kind) and re.search(match, str(one.message))
            )
        else:
            with pytest.raises(kind, match=match) as error:
                yield
            text = str(error.value)
        self.line(area, given, f"{kind.__name__}: {text}")

    def line(self, area: str, given: str, text: str) -> None:
        """A line that the user sees on a terminal."""
        shown = " ".join(text.replace(self._folder, "<folder>").split())
        rows = {}
        if BAD_INPUT.is_file():
            with BAD_INPUT.open(encoding="utf-8", newline="") as file:
                rows = {(one, two): three for one, two, three in list(csv.reader(file))[1:]}
        if os.environ.get("HISTOCELL_WRITE_TABLES"):
            rows[area, given] = shown
            with BAD_INPUT.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["area", "given", "what the user sees"])
                writer.writerows([*key, seen] for key, seen in sorted(rows.items()))
        else:
            assert rows.get((area, given)) == shown, "docs/bad_input.csv is old: HISTOCELL_WRITE_TABLES=1 pytest"


@pytest.fixture
def user_sees(tmp_path: Path) -> UserSees:
    """Checks what a user sees on bad input; see :class:`UserSees`."""
    return UserSees(tmp_path)
