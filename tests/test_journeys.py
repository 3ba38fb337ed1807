"""The journeys of the README: its blocks of Python as they are printed, and what they leave."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from spatialdata import read_zarr

import histocell as hc

README = Path(__file__).parents[1] / "README.md"
NOTES = (  # what the blocks say of their data, which is right
    "all training rows come from one patient",
    "the training rows are one group",
    ".*lie outside of what the model has seen",
    r"of \d+ outlines in 'nuclei': \d+ share more than",
)


def run(code: str, folder: Path, data_dir: Path) -> None:
    """Code in a process of its own; a warning of histocell that is not expected is an error."""
    setup = "import warnings, matplotlib\nmatplotlib.use('Agg')\nwarnings.simplefilter('error', UserWarning)\n"
    setup += "".join(f"warnings.filterwarnings('ignore', {note!r})\n" for note in NOTES)
    setup += f"import histocell as hc\nfrom pathlib import Path\nhc.settings.data_dir = Path({str(data_dir)!r})\n"
    done = subprocess.run([sys.executable, "-c", setup + code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def journey(tmp_path_factory, data_dir) -> Path:
    """A folder in which the blocks of the README were run, one after the other, each in a process of its own."""
    folder = tmp_path_factory.mktemp("journey")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        run(block, folder, data_dir)
    return folder


def test_the_readme_runs_as_it_is_printed(journey):
    files = {"abundance-model", "features", "slide.zarr", "embedded", "outs", "nuclei", "nuclei.geojson", "run.html"}
    assert {path.name for path in journey.iterdir()} - {".histocell"} == files
    assert (journey / "abundance-model" / "model.safetensors").exists()


def test_a_slide_predicted_by_a_saved_model_is_written_read_and_drawn(journey, data_dir):
    slide = read_zarr(journey / "slide.zarr")
    table = slide["tile_table"]
    assert set(table.obs["section"]) == {"CMU-1-Small-Region"}
    predicted = hc.get.abundance(slide)
    assert np.isfinite(predicted.to_numpy()).all()
    assert predicted.shape[1] == 8
    with pytest.warns(UserWarning, match=r"lie outside of what the model has seen: CMU-1-Small-Region"):
        again = hc.tl.predict_abundance(slide, model=journey / "abundance-model", inplace=False)["predicted_abundance"]
    np.testing.assert_array_equal(again, predicted)
    axes = hc.pl.abundance(slide, list(predicted)[:2], show=False)
    assert np.size(axes) == 2


def test_a_cohort_is_predicted_by_a_saved_model(journey):
    (path,) = (journey / "embedded").glob("*.zarr")
    slide = read_zarr(path)
    with pytest.warns(UserWarning, match="lie outside of what the model has seen"):
        hc.tl.predict_abundance(slide, model=journey / "abundance-model")
    expected = hc.get.abundance(read_zarr(journey / "slide.zarr"))
    np.testing.assert_allclose(hc.get.abundance(slide), expected, rtol=1e-4, atol=1e-4)
