"""Expression of unseen her2st sections from morphology, nuclei and a vision transformer of random weights: models beside scikit-learn."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import histocell as hc
from histocell.tables.expression import choose_panel, read_expression

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from spatialdata import SpatialData

PENALTIES = 10.0 ** np.arange(-2, 7, 0.5)
N_GENES = (50, 250)
MODELS = ("ridge", "mlp", "component_ridge")
OTHERS = ("hest", "st_net", "bleep", "similarity", "seal_decoder")
FEATURES = ("X_morphology", "X_nuclei", "X_random-vit")
LINES = {  # training sections, then tested ones; None: every other section of patient C in the folder
    "C, section out": [(["C3", "C4"], ["C2"]), (["C2", "C4"], ["C3"]), (["C2", "C3"], ["C4"])],
    "C2-C4 -> B4": [(["C2", "C3", "C4"], ["B4"])],
    "B4 -> C2-C4": [(["B4"], ["C2", "C3", "C4"])],
    "C2-C4 -> other C": [(["C2", "C3", "C4"], None)],
    "B4 -> other C": [(["B4"], None)],
}
N_BOOTSTRAP = 200


def sections(features: tuple[str, ...] = FEATURES, models: tuple[str, ...] = MODELS) -> pd.DataFrame:
    """One row for each line, number of genes, features and model: PCC per gene and section, and its interval over spots."""
    table = _tables(features)
    present = list(dict.fromkeys(table.obs["section"]))
    rows = []
    for line, folds in LINES.items():
        folds = [
            (train, [s for s in present if s[0] == "C" and s not in {"C2", "C3", "C4"}] if test is None else test)
            for train, test in folds
        ]
        if not all(test and set(train) | set(test) <= set(present) for train, test in folds):
            continue
        for n_genes in N_GENES:
            for key in features:
                for model in ("RidgeCV", *models):
                    parts = [part for fold in folds for part in _predicted(table, *fold, key, n_genes, model)]
                    value, low, high = _score(parts)
                    row = {"line": line, "genes": n_genes, "features": key, "model": model}
                    rows.append(row | {"pcc": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def show(scores: pd.DataFrame) -> str:
    """A table with one column for each line and number of genes."""
    cell = scores.apply(lambda row: f"{row['pcc']:.3f} ({row['low']:.3f}-{row['high']:.3f})", axis=1)
    columns = ["line", "genes"]
    wide = scores.assign(cell=cell).set_index(["features", "model", *columns])["cell"].unstack(columns, sort=False)
    return wide.to_string()


def _tables(features: tuple[str, ...]) -> AnnData:
    """All sections with an image in the folder, embedded, below each other; genes that one lacks have no counts there."""
    import anndata as ad

    folder = Path(os.environ.get("HISTOCELL_DATA_DIR", hc.settings.data_dir)) / "her2st"
    parts = []
    for path in sorted(folder.glob("*/he.jpg")):
        sdata = hc.datasets.her2st(path.parent.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            hc.pp.patches(sdata, size_um=112)
            _embed(sdata, features)
        parts.append(sdata["table"])
    return ad.concat(parts, join="outer", fill_value=0, index_unique="-")


def _embed(sdata: SpatialData, features: tuple[str, ...]) -> None:
    if "X_morphology" in features:
        hc.pp.embed_image(sdata, "morphology")
    if "X_nuclei" in features:
        hc.pp.segment_nuclei(sdata)
        hc.pp.measure_nuclei(sdata)
        hc.pp.aggregate_nuclei(sdata, within="patches", table_key="table")
    if "X_random-vit" in features:
        spec = hc.encoders.EncoderSpec(
            name="random-vit",
            library="timm",
            arch="vit_tiny_patch16_224",
            hub_id="none/none",
            pooling="cls",
            dim=192,
            license="Apache-2.0",
            commercial=True,
            summary="ViT-Ti/16 of random weights",
        )
        if "random-vit" not in hc.encoders.list_encoders().index:
            hc.encoders.register(spec)
        hc.pp.embed_image(sdata, hc.encoders.load("random-vit", weights="random"))


def _predicted(
    table: AnnData, train: list[str], test: list[str], key: str, n_genes: int, model: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction of each tested section."""
    some = table[table.obs["section"].isin([*train, *test])].copy()
    some.obs["split"] = np.where(some.obs["section"].isin(train), "train", "test")
    known = (some.obs["split"] == "train").to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if model == "RidgeCV":
            panel = choose_panel(some, known, genes=n_genes, flavor="variance")
            predicted = _ridge_cv(some, known, key, read_expression(some, panel))
        else:
            hc.tl.fit_expression(some, key, genes=n_genes, model=model)
            hc.tl.predict_expression(some, baselines=False)
            fitted = hc.models.load(some, model_key="expression_model")
            panel = choose_panel(some, known, genes=fitted.facts["panel"]["genes"])
            predicted = some.obsm["predicted_expression"].to_numpy()
        truth = read_expression(some, panel)
    for name in test:
        rows = (some.obs["section"] == name).to_numpy()
        yield truth[rows], predicted[rows]


def _ridge_cv(table: AnnData, known: np.ndarray, key: str, Y: np.ndarray) -> np.ndarray:
    """What few lines of scikit-learn reach: one penalty for all genes, rows left out one by one."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X = np.asarray(table.obsm[key], dtype=np.float64)
    fitted = known & np.isfinite(Y).all(axis=1) & np.isfinite(X).all(axis=1)
    pipeline = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(X[fitted], Y[fitted])
    return pipeline.predict(np.nan_to_num(X))


def _score(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    """Mean over genes, then sections, and its 95 % interval over spots."""
    value = np.mean([hc.metrics.nan_mean(hc.metrics.pearson(*part)) for part in parts])
    draws = [
        hc.metrics.nan_mean(hc.metrics.bootstrap_pearson(*part, n_bootstrap=N_BOOTSTRAP), axis=1) for part in parts
    ]
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return float(value), float(low), float(high)
