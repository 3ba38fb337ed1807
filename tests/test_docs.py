"""The blocks of code in the documentation, run as they are printed, and the names in its text.

The Python blocks of a page run in order, in one namespace and one folder, and so do lines of its shell blocks that call
histocell. A block under ``<!-- not run: reason -->`` is left out.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.io import mmwrite
from scipy.sparse import csc_matrix
from shapely.geometry import box
from typer.testing import CliRunner

import histocell as hc
from histocell.cli import app
from histocell.encoders import registry

ROOT = Path(__file__).parents[1]
# pages that a test of their own runs
ELSEWHERE = {"README.md": "test_journeys.py", "architecture.md": "test_recipes.py", "gallery.md": "pl/test_gallery.py"}
PAGES = {
    path.name: path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: [^\n]+ -->\n)?```(?P<language>python|bash)\n(?P<code>.*?)^```", re.DOTALL | re.M
)
SCRIPT = 'if __name__ == "__main__":'


class Block(NamedTuple):
    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The blocks that are to run: all of Python, and those of a shell that call histocell."""
    text = page.read_text(encoding="utf-8")
    found = [
        (match, Block(match["language"], match["code"], text[: match.start("code")].count("\n")))
        for match in BLOCK.finditer(text)
    ]
    return [
        block
        for match, block in found
        if not match["skip"] and (block.language == "python" or re.search(r"^histocell ", block.code, re.M))
    ]


def run(block: Block, page: str, namespace: dict[str, object]) -> None:
    """A block in this process, but for a script, which is a file of its own."""
    if block.language == "bash":
        for line in block.code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["histocell"]:
                arguments = [each for word in words[1:] for each in sorted(map(str, Path().glob(word))) or [word]]
                result = CliRunner().invoke(app, arguments)
                assert result.exit_code == 0, f"{page}: {line}: {result.output}"
    elif SCRIPT in block.code:
        Path("script.py").write_text(block.code, encoding="utf-8")
        done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}, line {block.line + 1}: {done.stderr}"
    else:
        exec(compile("\n" * block.line + block.code, page, "exec"), namespace)


@pytest.fixture
def _registry():
    """A page may register encoders for itself alone."""
    known = dict(registry._registry())
    yield
    registry._registry().clear()
    registry._registry().update(known)


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize("name", [name for name, path in PAGES.items() if name not in ELSEWHERE and blocks(path)])
def test_page_runs(name, tmp_path, monkeypatch, request):
    if any(word in block.code for block in blocks(PAGES[name]) for word in ("datasets.her2st(", "example_slide()")):
        request.getfixturevalue("data_dir")
    monkeypatch.chdir(tmp_path)
    FILES.get(name, lambda: None)()
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(PAGES[name]):
        run(block, name, namespace)
        plt.close("all")


def test_what_is_not_run_says_why():
    reasons = {reason for path in PAGES.values() for reason in re.findall(r"<!-- not run: (.+) -->", path.read_text())}
    assert reasons <= {"needs weights", "needs a GPU", "needs R", "needs minutes", "needs slides"}


@pytest.mark.parametrize("name", [name for name in PAGES if name != "architecture.md"])  # adds names of its own
def test_names_exist(name):
    text = PAGES[name].read_text(encoding="utf-8")
    for full in sorted(set(re.findall(r"\bhc\.([a-z_]+(?:\.\w+)*)", text))):
        reduce(getattr, full.split("."), hc)
    for script in re.findall(r"\bpython (tests/\S+\.py)", text):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = PAGES[name]
    for target in re.findall(r"\]\(([\w./-]+\.(?:md|png|ipynb))\)", page.read_text(encoding="utf-8")):
        places = (page.parent, ROOT)  # tutorials are copied beside the pages
        assert "generated" in target or any((place / target).is_file() for place in places), target


# Files that the reader of a page has.


def slides() -> None:
    """``slides/``: two slides of the same laboratory."""
    Path("slides").mkdir()
    for number in (5, 6):
        image = hc.datasets.synthetic_tissue(size_px=600, rng=number)["he"].to_numpy()
        tifffile.imwrite(
            f"slides/P{number}.tif",
            np.moveaxis(image, 0, -1),
            photometric="rgb",
            resolution=(20_000, 20_000),  # per cm: 0.5 um
            resolutionunit="CENTIMETER",
        )


def scanner() -> None:
    """``slides/`` with an SVS."""
    Path("slides").mkdir()
    shutil.copy(hc.datasets.example_slide(), "slides/a.svs")


def abundances() -> None:
    """What deconvolution tools wrote of two sections of synthetic tissue."""
    table = hc.datasets.synthetic_tissue(2, n_patients=2, size_px=800)["table"]
    cells = table.obsm["cell_abundance"].astype(float)
    source = table[:, :0].copy()
    source.uns = {}
    for statistic, shift in (("q05", 0.0), ("means", 0.5)):
        source.obsm[f"{statistic}_cell_abundance_w_sf"] = (cells + shift).add_prefix(f"{statistic}cell_abundance_w_sf_")
    source.write_h5ad("cell2location.h5ad")
    weights = cells.div(cells.sum(axis=1) * 1.1, axis=0)
    for section in ("P1S1", "P2S1"):
        here = weights[table.obs["section"] == section]
        here = here.set_axis(here.index.str.removesuffix(f"-{section}"))
        here.to_csv(f"{section}.csv")
        if section == "P1S1":
            (here * 1.1).to_csv("W.tsv", sep="\t")


def seurat() -> None:
    """``outs/`` of Space Ranger, and what R wrote of the same spots."""
    rng = np.random.default_rng(0)
    places = [(row, column) for row in range(8) for column in range(row % 2, 16, 2)]
    spots = ["".join(rng.choice(list("ACGT"), 16)) + "-1" for _ in places]
    xy = np.array([(150 + column * 100, 150 + row * 173) for row, column in places])
    Path("outs/spatial").mkdir(parents=True)
    tissue = hc.datasets.synthetic_tissue(size_px=1800, rng=0)["he"].to_numpy()
    tifffile.imwrite("outs/he.tif", np.moveaxis(tissue, 0, -1), photometric="rgb")
    for name, step in (("hires", 2), ("lowres", 10)):
        plt.imsave(f"outs/spatial/tissue_{name}_image.png", np.moveaxis(tissue, 0, -1)[::step, ::step])
    lines = [f"{spot},1,{row},{column},{y},{x}" for spot, (row, column), (x, y) in zip(spots, places, xy, strict=True)]
    Path("outs/spatial/tissue_positions_list.csv").write_text("\n".join(lines) + "\n")
    factors = {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.1, "spot_diameter_fullres": 130.0}
    Path("outs/spatial/scalefactors_json.json").write_text(json.dumps(factors | {"fiducial_diameter_fullres": 150.0}))
    counts = csc_matrix(rng.poisson(1, (4, len(spots))).astype(np.int32))
    with h5py.File("outs/filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr", "shape"):
            group[name] = np.array(getattr(counts, name))
        group["barcodes"] = np.array(spots, dtype="S")
        features = {"id": "ENSG", "name": "G", "feature_type": "Gene Expression", "genome": "GRCh38"}
        for name, value in features.items():
            numbered = [f"{value}{i}" if len(value) < 5 else value for i in range(4)]
            group[f"features/{name}"] = np.array(numbered, dtype="S")
        group["features/_all_tag_keys"] = np.array([b"genome"])
    mmwrite("counts.mtx", counts)
    Path("spots.txt").write_text("\n".join(spots) + "\n")
    Path("genes.txt").write_text("\n".join("ABCD") + "\n")
    merged = pd.Index([f"{spot}_1" for spot in spots])
    pd.DataFrame({"orig.ident": "C2", "seurat_clusters": rng.integers(0, 3, len(spots))}, index=merged).to_csv(
        "metadata.csv"
    )
    pd.DataFrame(xy[:, ::-1], index=spots, columns=["imagerow", "imagecol"]).to_csv("positions.csv")
    weights = pd.DataFrame(rng.dirichlet(np.ones(3), len(spots)), index=spots, columns=["B.cells", "T.cells", "Tumour"])
    weights.mul(rng.uniform(0.8, 1.2, len(spots)), axis=0).to_csv("weights.csv")


def cells() -> None:
    """``cells.geojson`` of squares in px."""
    centres = np.random.default_rng(0).uniform(100, 700, (20, 2))
    squares = [box(x - 8, y - 8, x + 8, y + 8) for x, y in centres]
    Path("cells.geojson").write_text(gpd.GeoSeries(squares).to_json())


FILES = {
    "encoders.md": scanner,
    "nuclei.md": slides,
    "saving_models.md": slides,
    "abundances.md": abundances,
    "seurat.md": seurat,
    "faq.md": cells,
}
