"""Cell composition of unseen her2st sections from their image: histocell beside squidpy's image features and scikit-learn.

    HISTOCELL_DATA_DIR=<folder with her2st/> python tests/benchmarks/bench_abundance.py [--part accuracy|speed|synthetic]

`accuracy`: models trained on some sections and tested on others, 8 major cell types, with every default and with features as they
are or standardised within each section (which uses no label), for the built-in `morphology`; beside it a plain `RidgeCV` of
scikit-learn (one penalty for all types, rows left out one by one) on the same features, as they are and standardised within sections
and clipped at 4 standard deviations, and squidpy's summary, texture and histogram features of the same patches with our ridge. Every
section whose image is in the folder and that a line does not train on is tested. CC, mean absolute error, coverage of the 90 %
interval, median novelty.
`speed`: spots per second of both embeddings, in turn, in one process: from the files on disk, decoding of the JPEG included, and of
images that were decoded before. `synthetic`: unseen patients of synthetic tissue, of cohorts of eight.
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
from histocell.models.scaling import standardize_groups

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

COHORTS = (0, 1, 2)  # seeds of the synthetic cohorts
TRAINING_PATIENTS = (1, 3, 6)  # of eight
PENALTIES = 10.0 ** np.arange(-2, 7, 0.5)
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
        known, new = (table[table.obs["section"].isin(names)].copy() for names in (train, tested))
        lines = {"train": "+".join(train), "test": "+".join(tested)}
        rows.append(compared(known, new, models).assign(**lines))
        if "X_squidpy" in table.obsm:
            scores = scored(known, new, "X_squidpy", ["ridge"], "section")
            rows.append(scores.assign(features="X_squidpy, section", **lines))
    return pd.concat(rows, ignore_index=True)


def synthetic(models: list[str]) -> pd.DataFrame:
    rows = []
    for seed in COHORTS:
        sdata = prepared(hc.datasets.synthetic_tissue(16, n_patients=8, size_px=900, spot_pitch_um=50, rng=seed))
        hc.pp.embed_image(sdata, "morphology")
        table = sdata["table"]
        patients = np.random.default_rng(seed).permutation(table.obs["patient"].cat.categories)
        for n_patients in TRAINING_PATIENTS:
            seen = table.obs["patient"].isin(patients[:n_patients])
            scores = compared(table[seen].copy(), table[~seen].copy(), models)
            rows.append(scores.assign(train=f"{n_patients} patients", test="the others", cohort=seed))
    every = pd.concat(rows, ignore_index=True)
    keys = ["train", "test", "features", "model", "cell_type", "metric"]
    return every.groupby(keys, sort=False, observed=True)["value"].mean().reset_index()


def compared(known: AnnData, new: AnnData, models: list[str]) -> pd.DataFrame:
    """Our models on each choice of features, the default first, and scikit-learn's ridge."""
    parts = [
        scored(known, new, "X_morphology", models, how).assign(features=f"X_morphology, {name}")
        for name, how in (("default", "auto"), ("raw", None), ("section", "section"))
    ]
    return pd.concat([*parts, plain_ridge(known, new)], ignore_index=True)


def scored(known: AnnData, new: AnnData, features: str, models: list[str], standardize_by: str | None) -> pd.DataFrame:
    """The scores over all groups of models that are fitted on one table and predict another, and their novelty there."""
    parts = []
    for model in models:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            hc.tl.fit_abundance(known, features, model=model, standardize_by=standardize_by)
            hc.tl.predict_abundance(new, model=known, baselines=False)
            scores = hc.tl.evaluate_abundance(new, n_bootstrap=0, group_key="patient", inplace=False)
        novelty = {"metric": "novelty", "value": new.obs["predicted_abundance_novelty"].median(), "cell_type": "mean"}
        scores = pd.concat([scores[scores["group"] == "all"], pd.DataFrame([novelty])]).assign(model=model)
        parts.append(scores)
    return pd.concat(parts)


def plain_ridge(known: AnnData, new: AnnData) -> pd.DataFrame:
    """What few lines of scikit-learn reach: one penalty for all types, rows left out one by one."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    rows = []
    for name in ("raw", "section, clipped"):
        views = [table.obsm["X_morphology"].astype(np.float64) for table in (known, new)]
        if name != "raw":
            views = [standardize_groups(X, table.obs["section"]) for X, table in zip(views, (known, new), strict=True)]
        scaler = StandardScaler().fit(views[0])
        X, X_new = (scaler.transform(view) for view in views)
        if name != "raw":
            X_new = np.clip(X_new, -4, 4)
        Y, truth = (table.obsm["cell_abundance"].to_numpy() for table in (known, new))
        fitted, there = (np.isfinite(a).all(1) & np.isfinite(b).all(1) for a, b in ((X, Y), (X_new, truth)))
        predicted = RidgeCV(PENALTIES).fit(X[fitted], Y[fitted]).predict(X_new[there])
        patients = new.obs["patient"].to_numpy()[there]
        groups = [patients == patient for patient in np.unique(patients)]
        cc = np.nanmean([np.nanmean(hc.metrics.pearson(truth[there][g], predicted[g])) for g in groups])
        l1 = np.mean([np.abs(truth[there][g] - predicted[g]).mean() for g in groups])
        rows += [(f"X_morphology, {name}", "cc", cc), (f"X_morphology, {name}", "l1", l1)]
    return pd.DataFrame(rows, columns=["features", "metric", "value"]).assign(model="RidgeCV", cell_type="mean")


def show(scores: pd.DataFrame) -> str:
    shown = ["cc", "l1", "coverage", "novelty"]
    mean = scores[(scores["cell_type"] == "mean") & scores["metric"].isin(shown)]
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
        print("\nSynthetic tissue, unseen patients of cohorts of eight, mean over patients and cohorts:")
        print(show(results[-1]))
    if arguments.csv and results:
        pd.concat(results).to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
