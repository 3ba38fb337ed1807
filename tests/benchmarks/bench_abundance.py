"""Cell composition of unseen her2st sections from their image: histocell beside squidpy's image features.

    HISTOCELL_DATA_DIR=<folder with her2st/> python tests/benchmarks/bench_abundance.py [--part accuracy|speed|synthetic]

`accuracy`: models trained on some sections and tested on others, 8 major cell types, embeddings standardised within each section
(which uses no label), for the built-in `morphology` and for squidpy's summary, texture and histogram features of the same patches
with the same ridge. Every section whose image is in the folder and that a line does not train on is tested.
`speed`: spots per second of both embeddings, in turn, in one process: from the files on disk, decoding of the JPEG included, and of
images that were decoded before. `synthetic`: an unseen patient of synthetic tissue.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import histocell as hc

if TYPE_CHECKING:
    from spatialdata import SpatialData

SQUIDPY_FEATURES = ("summary", "texture", "histogram")
LINES = (  # training sections, tested sections; None stands for every other section of patient C in the folder
    (["C2", "C3"], ["C4"]),
    (["C2", "C3", "C4"], ["B4"]),
    (["B4"], ["C2", "C3", "C4"]),
    (["C2", "C3", "C4"], None),
    (["B4"], None),
)


def sections_with_image() -> list[str]:
    folder = Path(os.environ.get("HISTOCELL_DATA_DIR", hc.settings.data_dir)) / "her2st"
    return sorted(path.parent.name for path in folder.glob("*/he.jpg"))


def machine() -> str:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{os.cpu_count()} cores of {models[0] if models else platform.processor() or platform.machine()}"


def squidpy_features(section: SpatialData, n_jobs: int) -> tuple[np.ndarray, float, float]:
    """squidpy's features of the patches of one section, the seconds they took, and those of decoding the image."""
    import squidpy as sq

    table = section["table"]
    windows = table.obsm["patches"]
    start = time.perf_counter()
    image = np.moveaxis(section["he"].to_numpy(), 0, -1)
    decoding = time.perf_counter() - start
    spots = table.copy()
    edge = float(np.median(windows[:, 2] - windows[:, 0]))
    spots.uns["spatial"] = {"he": {"scalefactors": {"spot_diameter_fullres": edge}}}
    container = sq.im.ImageContainer(image, layer="image", library_id="he")
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sq.im.calculate_image_features(
            spots,
            container,
            layer="image",
            library_id="he",
            features=list(SQUIDPY_FEATURES),
            n_jobs=n_jobs,
            show_progress_bar=False,
        )
    return spots.obsm["img_features"].to_numpy(dtype=np.float32), time.perf_counter() - start, decoding


def seconds_to_embed(section: SpatialData) -> float:
    start = time.perf_counter()
    hc.pp.embed_image(section, "morphology")
    return time.perf_counter() - start


def embedded(names: list[str], *, squidpy: bool, n_jobs: int) -> tuple[SpatialData, pd.DataFrame]:
    """Sections with both embeddings, and the speed of each."""
    import spatialdata as sd

    hc.pp.embed_image(prepared(hc.datasets.synthetic_tissue(size_px=600)))  # compiles, and decodes none of the sections
    if squidpy:  # its processes start and import before the clock does
        squidpy_features(prepared(hc.datasets.synthetic_tissue(size_px=600)), n_jobs)
    parts, rows = {}, []
    for name in names:
        row: dict[str, object] = {
            "section": name,
            "morphology, files": seconds_to_embed(prepared(hc.datasets.her2st(name))),
        }
        section = prepared(hc.datasets.her2st(name))
        section["he"].data[:, :1, :1].compute()  # decodes the whole JPEG
        row["morphology, decoded"] = seconds_to_embed(section)
        if squidpy:
            fresh = prepared(hc.datasets.her2st(name))
            section["table"].obsm["X_squidpy"], seconds, decoding = squidpy_features(fresh, n_jobs)
            row |= {"squidpy, files": decoding + seconds, "squidpy, decoded": seconds}
        rows.append(row | {"spots": section["table"].n_obs})
        parts[name] = section
    seconds = pd.DataFrame(rows).set_index("section")
    seconds.loc["all"] = seconds.sum()
    spots = seconds.pop("spots")
    speed = seconds.rdiv(spots, axis=0)
    for what in ("files", "decoded") if squidpy else ():
        speed[f"ratio, {what}"] = speed[f"morphology, {what}"] / speed[f"squidpy, {what}"]
    speed.insert(0, "spots", spots)
    return sd.concatenate(parts, concatenate_tables=True), speed


def prepared(sdata: SpatialData) -> SpatialData:
    hc.pp.patches(sdata, size_um=112)
    return sdata


def accuracy(sdata: SpatialData, models: list[str]) -> pd.DataFrame:
    table = sdata["table"]
    present = list(dict.fromkeys(table.obs["section"]))
    rows = []
    for train, test in LINES:
        tested = [s for s in present if s.startswith("C") and s not in {"C2", "C3", "C4"}] if test is None else test
        if not tested or not set(train) <= set(present):
            continue
        for key, names in (("X_morphology", models), ("X_squidpy", ["ridge"])):
            if key not in table.obsm:
                continue
            scores = hc.bench.cross_dataset(
                table[table.obs["section"].isin(train)].copy(),
                table[table.obs["section"].isin(tested)].copy(),
                [key],
                models=names,
                standardize_by="section",
                n_bootstrap=0,
                rng=0,
            )
            rows.append(scores.assign(features=key, train="+".join(train), test="+".join(tested)))
    return pd.concat(rows, ignore_index=True)


def synthetic(models: list[str]) -> pd.DataFrame:
    sdata = prepared(hc.datasets.synthetic_tissue(4, n_patients=4, rng=0))
    hc.pp.embed_image(sdata, "morphology")
    table = sdata["table"]
    unseen = table.obs["patient"] == table.obs["patient"].cat.categories[-1]
    return hc.bench.cross_dataset(
        table[~unseen].copy(),
        table[unseen].copy(),
        ["X_morphology"],
        models=models,
        standardize_by="section",
        n_bootstrap=0,
        rng=0,
    ).assign(features="X_morphology", train="three patients", test="the fourth")


def show(scores: pd.DataFrame) -> str:
    mean = scores[(scores["cell_type"] == "mean") & scores["metric"].isin(["cc", "l1"])]
    order = ["train", "test", "features", "model"]
    mean = mean.drop_duplicates([*order, "metric"]).set_index([*order, "metric"])["value"]
    return mean.unstack("metric", sort=False).round(3).to_string()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["all", "accuracy", "speed", "synthetic"], default="all")
    parser.add_argument("--models", nargs="+", default=["mean", "ridge", "mlp"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of squidpy")
    parser.add_argument("--no-squidpy", action="store_true")
    parser.add_argument("--csv", type=Path, help="write every score here")
    arguments = parser.parse_args()
    results = []
    if arguments.part in {"all", "accuracy", "speed"}:
        names = sections_with_image()
        sdata, speed = embedded(names, squidpy=not arguments.no_squidpy, n_jobs=arguments.jobs)
        print(f"Spots per second on {machine()}, compiled before; from files on disk, and of decoded images:")
        print(speed.round(1).to_string())
        if arguments.part != "speed":
            results.append(accuracy(sdata, arguments.models))
            print("\nher2st, 8 major types, CC pooled over the tested spots (mean over types) and mean absolute error:")
            print(show(results[-1]))
    if arguments.part in {"all", "synthetic"}:
        results.append(synthetic(arguments.models))
        print("\nSynthetic tissue, an unseen patient:")
        print(show(results[-1]))
    if arguments.csv and results:
        pd.concat(results).to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
