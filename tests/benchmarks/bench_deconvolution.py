"""Cell types in her2st spots from their counts: nnls beside cell2location, compared with the published proportions.

    HISTOCELL_DATA_DIR=<folder with her2st/ and reference_wu2021/> python tests/benchmarks/bench_deconvolution.py
        [--epochs 2000] [--methods nnls cell2location] [--patients A B C D E F G H] [--device cpu]

The published proportions are those of stereoscope with another reference, so that their correlation is agreement of two
estimates and no accuracy. Cancer and normal epithelium of the reference count together. `cell2location` runs on C2-C4 where it is
installed (`pip install "histocell[deconvolution]"`), nnls on the other sections as well. Each method runs in a process of its
own: seconds without imports, and the peak of its memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import resource
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

import anndata as ad
import numpy as np
import pandas as pd

import histocell as hc

SECTIONS = {
    "A": [f"A{i}" for i in range(1, 7)],
    "B": [f"B{i}" for i in range(1, 7)],
    "C": ["C2", "C3", "C4"],
    "D": [f"D{i}" for i in range(1, 7)],
    "E": ["E2", "E3"],
    "F": ["F1", "F2", "F3"],
    "G": ["G1", "G3"],
    "H": ["H2", "H3"],
}
# Cell types of the reference by their names in the published table
PUBLISHED = {
    "Cancer Epithelial": "Epithelial",
    "Normal Epithelial": "Epithelial",
    "Plasmablasts": "Plasma Cells",
}


def correlations(table: ad.AnnData, key: str) -> pd.Series:
    """Pearson correlation of proportions with the published ones over all spots that are known, by type."""
    found = table.obsm[key].rename(columns=PUBLISHED).T.groupby(level=0).sum(min_count=1).T
    found = found.div(found.sum(axis=1), axis=0)
    published = table.obsm["cell_abundance"]
    known = found.notna().all(axis=1) & published.notna().all(axis=1)
    return pd.Series(
        {name: np.corrcoef(found.loc[known, name], published.loc[known, name])[0, 1] for name in published.columns}
    )


def run(names: list[str], method: str, epochs: int, device: str | None) -> dict[str, object]:
    sdata = hc.datasets.her2st(names)
    path = next((hc.settings.data_dir / "reference_wu2021").glob("*.h5ad"))
    reference = ad.read_h5ad(path)
    settings = {"epochs": epochs, "device": device} if method == "cell2location" else {}
    if method == "cell2location":
        importlib.import_module("cell2location")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hc.pp.deconvolve(sdata, reference, labels_key="celltype_major", method=method, key_added="found", **settings)
    seconds = time.perf_counter() - start
    own = [str(each.message) for each in caught if "converged" in str(each.message)]
    return {
        "cc": correlations(sdata["table"], "found"),
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "before_gb": before / 1e6,
        "spots": sdata["table"].n_obs,
        "facts": hc.get.provenance(sdata, "found"),
        "warnings": own,
    }


def apart(*arguments: object) -> dict[str, object]:
    """`run` in a fresh process, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2000, help="of cell2location")
    parser.add_argument("--methods", nargs="+", default=["nnls", "cell2location"], choices=["nnls", "cell2location"])
    parser.add_argument("--patients", nargs="*", default=list(SECTIONS), choices=list(SECTIONS), help="for nnls")
    parser.add_argument("--device")
    arguments = parser.parse_args()
    methods = [name for name in arguments.methods if name == "nnls" or importlib.util.find_spec(name)]
    warnings.simplefilter("ignore")
    results = {method: apart(SECTIONS["C"], method, arguments.epochs, arguments.device) for method in methods}
    print("C2-C4, Pearson correlation with the published proportions:")
    table = pd.DataFrame({method: result["cc"] for method, result in results.items()})
    table.loc["mean"] = table.mean()
    print(table.round(2).to_string())
    for method, result in results.items():
        facts = result["facts"]
        print(f"{method}: {result['spots']} spots x {facts['genes']} genes, {result['seconds']:.1f} s, ", end="")
        print(f"peak {result['peak_gb']:.2f} GB ({result['before_gb']:.2f} GB once data and packages are loaded)")
        if "loss" in facts:
            print(f"  converged: {facts['converged']}; loss: {facts['loss'][::10]}")
        for text in result["warnings"]:
            print(f"  warned: {text}")
    if "nnls" in methods:
        rows = {patient: run(SECTIONS[patient], "nnls", 0, None) for patient in arguments.patients}
        table = pd.DataFrame({patient: row["cc"] for patient, row in rows.items()}).T
        table["mean"] = table.mean(axis=1)
        table["spots"] = [row["spots"] for row in rows.values()]
        table["seconds"] = [row["seconds"] for row in rows.values()]
        print("\nnnls, all sections of each patient:")
        print(table.round(2).to_string())
        print(f"mean over patients {table['mean'].mean():.3f}")


if __name__ == "__main__":
    main()
