"""Benchmarks of cell types: what genes and image add to each other, cost at 460,000 cells, real nuclei, calibration.

    python tests/benchmarks/bench_cells.py --part modalities calibration cost memory nuclei

``nuclei`` needs HISTOCELL_DATA_DIR with the folder ``nucls_tiles``. Each part prints both sides of its comparison.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import histocell as hc
from histocell.kernels.nuclei import measure, surround

TYPES = ("tumour round", "tumour spindle", "T cell", "B cell", "plasma", "fibroblast")
SHAPES = (0, 1, 2, 2, 2, 1)  # T, B and plasma cells look alike, and so do spindle tumour cells and fibroblasts
STATES = (0, 0, 1, 2, 3, 4)  # tumour cells express the same
N_GENES, N_IMAGE = 64, 96


def section(n_cells: int = 50_000, *, side_um: float = 5000.0, seed: int = 0) -> ad.AnnData:
    """A section whose features are simulated: some types differ only in shape, others only in genes.

    Types follow smooth fields, and so does an effect of the stain on the image features, so that neighbours are alike.
    """
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, side_um, (n_cells, 2))

    def fields(count: int, scale_um: float) -> np.ndarray:
        waves = rng.normal(size=(12, 2, count)) / scale_um
        return np.cos(np.einsum("nd,wdk->nwk", xy, waves) + rng.uniform(0, 6.28, (12, count))).sum(1) / np.sqrt(6)

    logits = 1.5 * fields(len(TYPES), 400.0) + rng.gumbel(size=(n_cells, len(TYPES)))
    labels = logits.argmax(1)
    shape, state = np.array(SHAPES)[labels], np.array(STATES)[labels]
    image = rng.normal(size=(3, N_IMAGE))[shape] * 0.45 + rng.normal(size=(n_cells, N_IMAGE))
    image += fields(4, 300.0) @ rng.normal(size=(4, N_IMAGE)) * 0.5
    genes = rng.normal(size=(5, N_GENES))[state] * 0.45 + rng.normal(size=(n_cells, N_GENES))
    obs = pd.DataFrame({"cell_type": np.array(TYPES)[labels], "mpp": 1.0, "section": "S1"})
    table = ad.AnnData(obs=obs.set_index(pd.Index([f"cell{i}" for i in range(n_cells)])))
    table.obsm["spatial"] = xy
    table.obsm["patches"] = np.rint(np.hstack([xy[:, ::-1] - 16, xy[:, ::-1] + 16])).astype(np.int32)
    table.obsm["X_genes"], table.obsm["X_image"] = genes.astype(np.float32), image.astype(np.float32)
    return table


def modalities(n_cells: int, epochs: int) -> ad.AnnData:
    """Macro-F1 of genes, image and both on blocks of tissue that were held out."""
    table = section(n_cells)
    hc.pp.split(table, block_um=500, rng=0)
    print(table.obs["split"].value_counts().to_dict())
    runs = {"genes": ("X_genes", None), "image": (None, "X_image"), "both": ("X_genes", "X_image")}
    for name, (genes, image) in runs.items():
        start = time.perf_counter()
        hc.tl.fit_cell_types(table, genes, image, config={"max_epochs": epochs})
        fitted = time.perf_counter() - start
        hc.tl.predict_cell_types(table)
        scores = hc.tl.evaluate_cell_types(table, inplace=False)
        show(scores, f"{name:6} fit {fitted:.0f} s, all {time.perf_counter() - start:.0f} s")
    return table


def calibration(table: ad.AnnData) -> None:
    """Calibration before and after, of genes and image and of either alone, and what abstaining on the least certain tenth does."""
    model = hc.models.load(table, model_key="cell_type_model")
    test = (table.obs["split"] == "test").to_numpy()
    truth = np.stack([table.obs["cell_type"].to_numpy() == name for name in model.targets], 1).astype(float)[test]
    X = np.hstack([table.obsm["X_genes"], table.obsm["X_image"]])[test]
    hidden = {"both": slice(0, 0), "genes": slice(N_GENES, None), "image": slice(0, N_GENES)}
    print("expected calibration error on held-out blocks, of the model of genes and image")
    for name, each in {"cell_transformer": model, "logistic": model.baselines["logistic"]}.items():
        fitted = each.weights["calibration"].copy()
        ways = {"none": fitted * 0 + [1, 0, 0], "that of both": np.tile(fitted[0], (3, 1)), "its own": fitted}
        for number, (kind, columns) in enumerate(hidden.items()):
            part, errors = X.copy(), []
            part[:, columns] = np.nan
            for way, value in ways.items():
                each.weights["calibration"] = value
                errors.append(f"{way} {hc.metrics.calibration_error(truth, each.predict(part))[0]:.4f}")
            print(
                f"   {name:17} {kind:6} {', '.join(errors)} (temperature, weights back, blend {fitted[number].round(2)})"
            )
    for share in (0.0, 0.1):
        hc.tl.predict_cell_types(table, abstain=share)
        show(hc.tl.evaluate_cell_types(table, inplace=False), f"unsure {share:.0%}")


def cost(share: float) -> None:
    """Time of one epoch of the dual transformer at 460,000 cells x (512 + 1536), from a share of them, and of the rest of a fit.

    An epoch is what a fit of two takes longer than a fit of one. The rest are the scales, the logistic regression (on 50,000 cells at
    most) and the calibration, so it grows less than with the cells. CPU seconds leave out what other programs take.
    """
    n_cells, n_genes, n_image = int(460_000 * share), 512, 1536
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_cells, n_genes + n_image), dtype=np.float32)
    Y = np.eye(6)[rng.integers(6, size=n_cells)]
    held = np.arange(n_cells) % 10 == 0

    def fit(preset: str, epochs: int, n: int) -> np.ndarray:
        model = hc.models.CellTransformer(preset, gene_columns=n_genes, max_epochs=epochs)
        start = np.array([time.process_time(), time.perf_counter()])
        model.fit(X[:n], Y[:n], validation=held[:n], rng=0)
        return np.array([time.process_time(), time.perf_counter()]) - start

    fit("robust", 1, 600)  # what is imported then is not timed
    print(f"{n_cells} cells, inputs {X.nbytes / 1e6:.0f} MB")
    for preset in ("robust", "paper"):
        before, one, two = peak_mb(), fit(preset, 1, n_cells), fit(preset, 2, n_cells)
        (epoch, wall), rest = two - one, 2 * one - two
        print(
            f"{preset}: an epoch {epoch:.1f} CPU seconds ({wall:.1f} s), of 460,000 cells {epoch / share / 60:.1f} CPU minutes; the rest of "
            f"the fit {rest[0]:.1f} CPU seconds ({rest[1]:.1f} s); peak {before:.0f} -> {peak_mb():.0f} MB"
        )


def memory() -> None:
    """Peak memory of a fit of 2,000 of 460,000 cells x (512 + 1536): what is held of the features of all of them."""
    n_cells, rng = 460_000, np.random.default_rng(0)
    labels = np.resize(np.array(TYPES), n_cells)
    table = ad.AnnData(obs=pd.DataFrame({"cell_type": labels, "mpp": 1.0}, index=np.arange(n_cells).astype(str)))
    table.obsm["spatial"] = rng.uniform(0, 10_000, (n_cells, 2))
    table.obs["split"] = np.where(np.arange(n_cells) < 2000, "train", "test")
    for key, width in (("X_genes", 512), ("X_image", 1536)):
        table.obsm[key] = np.resize(rng.standard_normal((2000, width), dtype=np.float32), (n_cells, width))
    size, before = sum(table.obsm[key].nbytes for key in ("X_genes", "X_image")) / 1e6, peak_mb()
    hc.tl.fit_cell_types(table, "X_genes", "X_image", model="majority")
    print(
        f"{n_cells} cells, features {size:.0f} MB, peak before the fit {before:.0f} MB, of the fit {peak_mb():.0f} MB"
    )


def nuclei(folder: Path, epochs: int) -> None:
    """Types of real nuclei, each tile held out in turn, from measurements of the nuclei and `morphology` at them."""
    table = nuclei_table(folder)
    print(table.obs["cell_type"].value_counts().to_dict(), "in", table.obs["tile"].nunique(), "tiles")
    for features in (["X_nucleus"], ["X_morphology"], ["X_nucleus", "X_morphology"]):
        parts = []
        for tile in table.obs["tile"].unique():
            table.obs["split"] = np.where(table.obs["tile"] == tile, "test", "train")
            hc.tl.fit_cell_types(
                table, None, features, group_key="tile", config={"max_epochs": epochs, "batch_size": 64}
            )
            hc.tl.predict_cell_types(table)
            parts.append(held_out(table, table.obs["tile"] == tile))
        pooled = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        truth, tiles = pooled.pop("truth"), pooled.pop("tile")
        for model, probability in pooled.items():
            value = np.nanmean(hc.metrics.f1(truth, probability))
            draws = hc.metrics.bootstrap_classes("f1", truth, probability, blocks=tiles)
            low, high = hc.metrics.percentile_interval(np.nanmean(draws, axis=1))
            print(
                f"{'+'.join(features):25} {model:17} macro-F1 {value:.3f} ({low:.3f} to {high:.3f} over {len(set(tiles))} tiles)"
            )


def held_out(table: ad.AnnData, rows: pd.Series) -> dict[str, np.ndarray]:
    """Truth and probabilities of some rows, by model; types without training cells get none."""
    names = sorted(table.obs["cell_type"].unique())
    out = {"tile": table.obs["tile"][rows].to_numpy()}
    out["truth"] = np.stack([table.obs["cell_type"][rows] == name for name in names], 1).astype(float)
    for model in ("", "_majority", "_knn", "_logistic"):
        frame = table.obsm[f"predicted_cell_type{model}_probability"][rows.to_numpy()]
        out[model.removeprefix("_") or "cell_transformer"] = frame.reindex(columns=names, fill_value=0.0).to_numpy()
    return out


def nuclei_table(folder: Path) -> ad.AnnData:
    """The annotated nuclei of all tiles, measured and embedded."""
    from PIL import Image

    labels, parts, mpp = pd.read_csv(folder / "nuclei.csv"), [], 0.2
    for tile, rows in labels.groupby("tile"):
        rows = rows[rows["label"].isin(["sTIL", "nonTIL_stromal", "tumor_any"])]
        image = np.asarray(Image.open(folder / f"{tile}.png").convert("RGB"))
        measured = measured_nuclei(image, np.asarray(Image.open(folder / f"{tile}_inst.png")).astype(np.int32), mpp)
        rows = rows[rows["instance"].isin(measured.index)]
        obs = pd.DataFrame({"cell_type": rows["label"].to_numpy(), "tile": str(tile), "section": str(tile), "mpp": mpp})
        part = ad.AnnData(obs=obs.set_index(tile + "_" + rows["instance"].astype(str)))
        part.obsm["spatial"] = rows[["x", "y"]].to_numpy(dtype=float)
        part.obsm["X_nucleus"] = measured.loc[rows["instance"]].to_numpy(dtype=np.float32)
        hc.pp.patches(part, size_um=16, image=image, mpp=mpp)
        hc.pp.embed_image(part, "morphology", image=image)
        parts.append(part)
    return ad.concat(parts, uns_merge="same")


def measured_nuclei(image: np.ndarray, labels: np.ndarray, mpp: float) -> pd.DataFrame:
    """Shape and stain of each nucleus and of what is around it, by the number of the nucleus."""
    from skimage.color import rgb2hed

    maps = np.ascontiguousarray(rgb2hed(image).transpose(2, 0, 1)[:2], dtype=np.float32)
    rows = measure(labels, int(labels.max()), maps)
    around = surround(labels, maps, rows[:, :2], round(5 / mpp))
    columns = np.column_stack([np.log(np.maximum(rows[:, 2], 1) * mpp**2), rows[:, 3:8], around])
    return pd.DataFrame(columns, index=np.arange(1, len(rows) + 1))[rows[:, 2] > 0]


def show(scores: pd.DataFrame, title: str) -> None:
    """The scores of all types together, model beside baselines."""
    print(title)
    table = scores[
        (scores["cell_type"] == "mean") & scores["metric"].isin(["f1", "accuracy", "calibration_error", "called"])
    ]
    for (model, metric), row in table.set_index(["model", "metric"]).iterrows():
        print(
            f"   {model:17} {metric:18} {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f}, {row['interval']})"
        )


def peak_mb() -> float:
    """Most memory that the process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=["modalities", "calibration", "cost", "memory", "nuclei"])
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.05)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    if {"modalities", "calibration"} & set(given.part):
        table = modalities(given.cells, given.epochs)
        if "calibration" in given.part:
            calibration(table)
    if "cost" in given.part:
        cost(given.share)
    if "memory" in given.part:
        memory()
    if "nuclei" in given.part:
        nuclei(Path(os.environ["HISTOCELL_DATA_DIR"]) / "nucls_tiles", 3 * given.epochs)


if __name__ == "__main__":
    main()
