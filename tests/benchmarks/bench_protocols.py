"""Protocols at the size of a paper: time, memory, accuracy, interruption and coverage.

    python tests/benchmarks/bench_protocols.py [--part synthetic together sections interruption coverage]

`synthetic`: leave-one-patient-out on a synthetic cohort in the size of her2st (8 patients, 36 sections, 13,620 spots, 1536
features, 30 types) for the ridge and for the seven-layer perceptron of the publication, with time and memory of the process.
`together`: folds of that perceptron that train at once against those that train one by one, on a part of the cohort.
`sections`: real her2st sections (``HISTOCELL_DATA_DIR``), one section and one patient left out, all models in one table.
`interruption`: a run that is killed and started again, and how many folds it repeats.
`coverage`: share of true values in the 90 % intervals, on unseen patients of the cohort and between two patients of her2st.
Deconvolution has a benchmark of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from protocols_cohort import FEATURES, cohort

import histocell as hc
from histocell.bench import jobs

PARTS = ("synthetic", "together", "sections", "interruption", "coverage")
SECTIONS = ["B4", "C2", "C3", "C4"]
PAPER = {"ridge": "ridge", "mlp": hc.models.MLP(preset="paper")}
SHOWN = ["cc", "cc_per_slide", "l1", "coverage", "colocalization_cosine", "colocalization_correlation"]


def synthetic(arguments: argparse.Namespace) -> None:
    """Leave-one-patient-out on the whole cohort."""
    adata = cohort()
    print(
        f"{adata.n_obs:,} spots, {adata.obsm[FEATURES].shape[1]} features, {adata.obsm['cell_abundance'].shape[1]} types"
    )
    models = {name: PAPER.get(name, name) for name in arguments.models or PAPER}
    scores = []
    for name, model in models.items():
        start = time.perf_counter()
        scores.append(
            hc.bench.leave_one_group_out(
                adata,
                FEATURES,
                models={name: model},
                standardize_by=None,  # as published
                n_workers=arguments.workers,
                device=arguments.device,
                cache=arguments.cache,
            )
        )
        memory = psutil.Process().memory_info().rss / 1e6
        print(f"{name}: {time.perf_counter() - start:.1f} s with scores, {memory:,.0f} MB of memory now", flush=True)
    table = pd.concat(scores, ignore_index=True)
    print(hc.bench.format_table(table, SHOWN, intervals=True, digits=3))
    print(hc.bench.format_table(table, "costs"))
    if len(models) > 1:
        print(hc.bench.compare(table, metric=["cc", "l1"]).round(4).to_string(index=False))
    _write(table, arguments, "synthetic")


def together(arguments: argparse.Namespace) -> None:
    """Predictions of folds that train at once, and of the same folds one by one."""
    adata = cohort(n_spots=800, sections=(1, 1, 1, 1), n_features=128)
    settings = {
        "models": {"mlp": hc.models.MLP(preset="paper", max_epochs=6)},
        "device": arguments.device,
        "n_bootstrap": 0,
    }
    kept: list[list[jobs.Result]] = []
    run = jobs.run_together
    try:
        for alone in (False, True):
            results: list[jobs.Result] = []

            def recorded(some, device, alone=alone, results=results):
                parts = [run([job], device)[0] for job in some] if alone else run(some, device)
                results.extend(parts)
                return parts

            jobs.run_together = recorded
            scores = hc.bench.leave_one_group_out(adata, FEATURES, **settings)
            kept.append(results)
            name = "one by one" if alone else "together"
            print(
                f"{name}: {_value(scores, 'seconds'):.2f} s, CC {_value(scores, 'cc'):.5f}, L1 {_value(scores, 'l1'):.5f}"
            )
    finally:
        jobs.run_together = run
    differences = [np.abs(a.outputs[""] - b.outputs[""]).max() for a, b in zip(*kept, strict=True)]
    spread = np.std(np.concatenate([result.outputs[""] for result in kept[0]]))
    print(f"largest difference of a prediction: {max(differences):.2e} (their standard deviation is {spread:.2f})")


def sections(arguments: argparse.Namespace) -> None:
    """Real sections: one section, and one patient, left out."""
    models = arguments.models or ["mean", "ridge", "mlp", "spatial_mlp", "hist2cell"]
    for tier in ("major", "minor"):
        sdata = _her2st(tier)
        for what, group_key in (("one section", "section"), ("one patient", "patient")):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of patients that are alone, and of few groups
                scores = hc.bench.leave_one_group_out(
                    sdata,
                    "X_morphology",
                    models=models,
                    group_key=group_key,
                    device=arguments.device,
                    cache=arguments.cache,
                )
            print(
                f"\nher2st {', '.join(SECTIONS)}, {tier} types, {what} left out ({time.perf_counter() - start:.0f} s):"
            )
            print(hc.bench.format_table(scores, SHOWN, intervals=True, digits=3))
            print(hc.bench.format_table(scores, "costs"), flush=True)
            _write(scores, arguments, f"{tier}-{group_key}")


def interruption(arguments: argparse.Namespace) -> None:
    """Kill a run in the middle, and start it again."""
    del arguments
    script = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        command = [sys.executable, str(script), "--worker", str(cache)]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while run.poll() is None and len(list(cache.glob("*.npz"))) < 3:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
        finished = len(list(cache.glob("*.npz")))
        for attempt in ("after the kill", "once more"):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{attempt}: {done.stdout.strip()}, {finished} of 8 were finished before")
            finished = len(list(cache.glob("*.npz")))


def worker(folder: str) -> None:
    """A small protocol that counts its fits."""
    fits = 0
    run = jobs.run_together

    def counted(some, device):
        nonlocal fits
        fits += len(some)
        return run(some, device)

    jobs.run_together = counted
    adata = cohort(n_spots=4000, sections=(1,) * 8, n_features=512)
    hc.bench.leave_one_group_out(adata, FEATURES, models=["ridge"], cache=folder, n_bootstrap=0, colocalization=False)
    print(f"{fits} folds fitted")


def coverage(arguments: argparse.Namespace) -> None:
    """Coverage of nominal 90 % intervals on groups that were not seen."""
    models = arguments.models or ["ridge", "mlp"]
    adata = cohort(n_spots=4000, n_features=256)
    scores = hc.bench.leave_one_group_out(adata, FEATURES, models=models, colocalization=False, device=arguments.device)
    groups = scores.query("metric == 'coverage' and cell_type == 'mean'").pivot(
        index="model", columns="group", values="value"
    )
    print("Synthetic cohort, 4,000 spots, each patient left out:")
    print(groups.round(3).to_string())
    table = _her2st("major")["table"]
    is_b = (table.obs["section"] == "B4").to_numpy()
    parts = {"B4": table[is_b].copy(), "C2-C4": table[~is_b].copy()}
    for train, test in (("B4", "C2-C4"), ("C2-C4", "B4")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            scores = hc.bench.cross_dataset(
                parts[train], parts[test], "X_morphology", models=models, colocalization=False, device=arguments.device
            )
        values = scores.query("metric == 'coverage' and cell_type == 'mean' and group == 'all'").set_index("model")[
            "value"
        ]
        print(f"her2st {train} to {test}: {', '.join(f'{name} {value:.3f}' for name, value in values.items())}")


def _her2st(tier: str):
    sdata = hc.datasets.her2st(SECTIONS, tier=tier)
    hc.pp.patches(sdata, size_um=112)
    hc.pp.embed_image(sdata, "morphology")
    return sdata


def _value(scores: pd.DataFrame, metric: str) -> float:
    return scores.query("metric == @metric and group == 'all' and cell_type == 'mean'")["value"].item()


def _write(scores: pd.DataFrame, arguments: argparse.Namespace, name: str) -> None:
    if arguments.csv:
        arguments.csv.mkdir(parents=True, exist_ok=True)
        scores.to_csv(arguments.csv / f"{name}.csv", index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--models", nargs="+", help="instead of those of each part")
    parser.add_argument("--workers", type=int, default=1, help="processes that fit side by side")
    parser.add_argument("--device", help="of torch")
    parser.add_argument("--cache", type=Path, help="folder that keeps finished folds")
    parser.add_argument("--csv", type=Path, help="folder for the scores")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    parts = {"synthetic": synthetic, "together": together, "sections": sections, "interruption": interruption}
    parts["coverage"] = coverage
    print(f"{os.cpu_count()} cores, device {arguments.device or 'default'}")
    for part in arguments.part:
        print(f"\n== {part}", flush=True)
        parts[part](arguments)


if __name__ == "__main__":
    main()
