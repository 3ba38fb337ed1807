"""The probe of HEST-Bench in closed form against its loop, and parameters of adapters.

    python tests/benchmarks/bench_probe.py --part hest        # times of both, differences of the results
    python tests/benchmarks/bench_probe.py --part parameters  # trained parameters of every encoder, meta device

The embeddings of `hest` are synthetic, with a spectrum that falls like that of pathology encoders; samples and folds of the
nine tasks are those of HEST-Bench, patches per sample are about its own (97,000 in all).
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np
import pandas as pd


class Task(NamedTuple):
    samples: int
    folds: int
    patches: int  # of a sample


TASKS = {
    "IDC": Task(4, 4, 2800),
    "PRAD": Task(23, 2, 1100),
    "PAAD": Task(3, 3, 2500),
    "SKCM": Task(2, 2, 1800),
    "COAD": Task(4, 2, 2200),
    "READ": Task(4, 2, 1900),
    "CCRCC": Task(24, 6, 900),
    "LUNG": Task(2, 2, 3000),
    "LYMPH_IDC": Task(4, 2, 1500),
}
GENES = 50


def make(task: Task, width: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Embeddings, float32, and logarithms of counts of each sample."""
    mixing = (
        rng.normal(size=(width, width)).astype(np.float32) * (1 + np.arange(width, dtype=np.float32))[:, None] ** -0.7
    )
    effects = rng.normal(size=(64, GENES)) * 0.15
    samples = []
    for _ in range(task.samples):
        latent = rng.normal(size=(task.patches, width)).astype(np.float32)
        rate = np.exp(
            latent[:, :64] @ effects + rng.normal(size=GENES) * 0.3 + rng.normal(size=(task.patches, 1)) * 0.3
        )
        X = latent @ mixing + rng.normal(size=width).astype(np.float32) * 0.3
        samples.append((X, np.log1p(rng.poisson(rate)).astype(np.float64)))
    return samples


def folds_of(task: Task) -> list[tuple[list[int], list[int]]]:
    tests = [list(part) for part in np.array_split(np.arange(task.samples), task.folds)]
    return [([i for i in range(task.samples) if i not in test], test) for test in tests]


def closed_form(samples, folds) -> list[np.ndarray]:
    """All folds from the sums of each sample."""
    from histocell.models.expression.probe import Moments, probe_folds

    return [score.pearson for score in probe_folds([Moments.of(X, Y) for X, Y in samples], folds)]


def hest_loop(samples, folds, *, exact: bool = False) -> list[np.ndarray]:
    """One scaler, PCA and ridge for each fold, of scikit-learn; `exact` in float64, without its iterations and random draws."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from histocell import metrics

    out = []
    for train, test in folds:
        X, Y = (np.concatenate([samples[i][k] for i in train]) for k in (0, 1))
        X_test, Y_test = (np.concatenate([samples[i][k] for i in test]) for k in (0, 1))
        solver = "covariance_eigh" if exact else "auto"
        if exact:
            X, X_test = X.astype(np.float64), X_test.astype(np.float64)
        reduce = make_pipeline(StandardScaler(), PCA(n_components=256, random_state=1, svd_solver=solver))
        T, T_test = reduce.fit_transform(X), reduce.transform(X_test)
        alpha = 100 / (T.shape[1] * Y.shape[1])
        if exact:
            ridge = Ridge(alpha=alpha, solver="cholesky", fit_intercept=False)
        else:
            ridge = Ridge(solver="lsqr", alpha=alpha, random_state=1, fit_intercept=False, max_iter=1000)
        out.append(metrics.pearson(Y_test, ridge.fit(T, Y).predict(T_test)))
    return out


def part_hest(width: int, *, check: bool) -> None:
    rows = []
    small = Task(2, 2, 300)
    for solve in (closed_form, hest_loop):  # imports are not what is measured
        solve(make(small, width, np.random.default_rng(0)), folds_of(small))
    for name, task in TASKS.items():
        samples, folds = make(task, width, np.random.default_rng(len(rows))), folds_of(task)
        times, scores = [], []
        for solve in (closed_form, hest_loop):
            start, used = time.perf_counter(), time.process_time()
            scores.append(np.stack(solve(samples, folds)))
            times += [time.perf_counter() - start, time.process_time() - used]
        row = {"task": name, "samples": task.samples, "folds": task.folds, "patches": task.samples * task.patches}
        row |= {"seconds": times[0], "cpu_seconds": times[1], "loop_seconds": times[2], "loop_cpu_seconds": times[3]}
        row["pearson"] = scores[0].mean()
        row["loop_off_gene"] = np.abs(scores[0] - scores[1]).max()
        row["loop_off_mean"] = abs(scores[0].mean() - scores[1].mean())
        if check:
            row["off_exact"] = np.abs(scores[0] - np.stack(hest_loop(samples, folds, exact=True))).max()
        rows.append(row)
        print(pd.DataFrame([row]).to_string(index=False, float_format="%.3g"), flush=True)
    table = pd.DataFrame(rows)
    print(f"\n{table['patches'].sum():,} patches, width {width}")
    for what in ("seconds", "cpu_seconds"):
        total, loop = table[what].sum(), table[f"loop_{what}"].sum()
        print(f"{what}: {total:.1f} against {loop:.1f} ({loop / total:.1f} times)")
    print(f"off the exact solution: {table['off_exact'].max():.1e}" if check else "")
    print(
        f"the loop is off by up to {table['loop_off_gene'].max():.1e} per gene, {table['loop_off_mean'].max():.1e} in a mean"
    )


def part_parameters() -> None:
    import torch

    from histocell.encoders.adapters import add_lora
    from histocell.encoders.catalog import CATALOG
    from histocell.encoders.networks.build import build

    for spec in CATALOG:
        if spec.library == "builtin":
            continue
        with torch.device("meta"):
            network = build(spec)
        try:
            report = add_lora(network, spec)[1]
            print(f"{spec.name:16} {report}")
        except ValueError as error:
            print(f"{spec.name:16} {str(error)[:90]} ...")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["hest", "parameters"], required=True)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--no-check", action="store_true", help="skip the exact solution by scikit-learn")
    arguments = parser.parse_args()
    if arguments.part == "hest":
        part_hest(arguments.width, check=not arguments.no_check)
    else:
        part_parameters()
