"""Speed and agreement of measurements of nuclei: beside scikit-image on the same labels, and on a whole slide.

python tests/benchmarks/bench_nuclei_measures.py [--side 20000] [--nuclei 500000]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import numpy as np
import pandas as pd
import shapely
import tifffile
from anndata import AnnData
from geopandas import GeoDataFrame
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops_table
from spatialdata.models import ShapesModel, TableModel

import histocell as hc
from histocell.kernels.outlines.runs import runs_of_labels
from histocell.kernels.outlines.shapes import SHAPES, shapes_of_runs
from histocell.kernels.outlines.stains import pixel_measures

mpl.use("Agg")
PROPERTIES = {
    "area": "area",
    "perimeter": "perimeter",
    "axis_major_length": "major_axis",
    "axis_minor_length": "minor_axis",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "orientation": "orientation",
    "intensity_mean": "h_mean",
    "intensity_std": "h_sd",
}


def seconds(work, repeats: int = 3) -> float:
    """The shortest of some runs, after one that compiles."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def beside_scikit_image(side: int = 1500) -> None:
    """Time and greatest difference on the same labels and properties."""
    g = np.random.default_rng(0)
    field = gaussian_filter(g.normal(size=(side, side)), 4)
    labels = label(field > 0.7 * field.std()).astype(np.int32)
    maps = gaussian_filter(g.random((2, side, side)), (0, 1, 1)).astype(np.float32)
    n = int(labels.max())

    def ours() -> dict[str, np.ndarray]:
        runs = runs_of_labels(labels, n)
        pixels = pixel_measures(*runs, maps)
        return dict(zip(SHAPES, shapes_of_runs(*runs).T, strict=True)) | {"h_mean": pixels[:, 1], "h_sd": pixels[:, 2]}

    def theirs(names: list[str]) -> dict[str, np.ndarray]:
        return regionprops_table(labels, maps[0], properties=names)

    found, truth = ours(), theirs(list(PROPERTIES))
    names = list(PROPERTIES)
    t_ours = seconds(ours)
    t_all, t_plain = (seconds(lambda use=use: theirs(use), 1) for use in (names, [x for x in names if x != "solidity"]))
    print(f"{n} labels of {np.median(truth['area']):.0f} px, {len(names)} properties")
    print(
        f"  histocell {1e3 * t_ours:.1f} ms (texture included), scikit-image {1e3 * t_all:.0f} ms: {t_all / t_ours:.0f} times"
    )
    print(f"  scikit-image without solidity {1e3 * t_plain:.0f} ms: {t_plain / t_ours:.0f} times")
    for name, own in PROPERTIES.items():
        difference = np.abs(found[own] - truth[name])
        if name == "orientation":  # modulo half a turn; a circle has none
            difference = np.minimum(difference, np.pi - difference)
            difference = difference[truth["axis_major_length"] > truth["axis_minor_length"] + 1e-6]
        print(f"  {name:18s} differs by at most {difference.max():.1e}")


def whole_slide(side: int, n: int, folder: Path) -> None:
    """Measure and draw many nuclei on a tiled TIFF that is read from disk."""
    tile = hc.datasets.synthetic_tissue(size_px=1000)["he"].data.compute().transpose(1, 2, 0)
    image = np.tile(tile, (-(-side // 1000), -(-side // 1000), 1))[:side, :side]
    path = folder / "slide.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        settings = {"tile": (512, 512), "photometric": "rgb", "compression": "jpeg", "resolutionunit": "CENTIMETER"}
        for step in (1, 4, 16):
            per_cm = 1e4 / (0.5 * step)
            tif.write(image[::step, ::step], resolution=(per_cm, per_cm), subfiletype=int(step > 1), **settings)
    del image
    sdata = hc.io.slide(path)
    key = next(iter(sdata.images))
    g, angle = np.random.default_rng(0), np.linspace(0, 2 * np.pi, 17)[:-1]
    radius = g.uniform(5, 9, (n, 1, 1)) * (1 + 0.2 * np.sin(3 * angle)[None, :, None])
    corners = g.uniform(10, side - 10, (n, 1, 2)) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    frame = GeoDataFrame({"geometry": shapely.polygons(corners)})
    sdata.shapes["nuclei"] = ShapesModel.parse(
        frame, transformations=dict(sdata[key].attrs.get("transform") or _of(sdata[key]))
    )
    obs = pd.DataFrame(
        {"region": pd.Categorical(["nuclei"] * n), "nucleus_id": np.arange(n)}, index=np.arange(n).astype(str)
    )
    obs["type"] = pd.Categorical(g.integers(0, 6, n).astype(str))
    sdata.tables["nucleus_table"] = TableModel.parse(
        AnnData(obs=obs), region="nuclei", region_key="region", instance_key="nucleus_id"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    hc.pp.measure_nuclei(sdata)
    took = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    area = (side * 0.5e-3) ** 2
    print(
        f"{n} nuclei on {side} x {side} px ({area:.0f} mm2): measured in {took:.1f} s, {n / took:.0f} nuclei and {area / took:.2f} mm2 per s"
    )
    print(f"  greatest memory {before:.2f} GB before, {after:.2f} GB after")
    for center in (None, (side / 4, side / 4)):
        start = time.perf_counter()
        hc.pl.nuclei(sdata, "type", center_um=center).figure.savefig(folder / "nuclei.png")
        print(
            f"  drawn {'whole' if center is None else 'in a window of 300 um'} in {time.perf_counter() - start:.1f} s"
        )


def _of(element) -> dict:
    """Transformations of an image of several scales."""
    return dict(next(iter(next(iter(element.children.values())).dataset.data_vars.values())).attrs["transform"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--nuclei", type=int, default=500_000)
    options = parser.parse_args()
    beside_scikit_image()
    sys.stdout.flush()
    with TemporaryDirectory() as folder:
        whole_slide(options.side, options.nuclei, Path(folder))


if __name__ == "__main__":
    main()
