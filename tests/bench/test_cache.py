from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell.bench import jobs
from histocell.models.registry import MODELS
from histocell.models.regressors.ridge import Ridge

COSTS = ["seconds", "peak_memory_mb"]
SCRIPT = """
import sys, time
import anndata
import histocell as hc
from histocell.models.registry import MODELS
from histocell.models.regressors.ridge import Ridge

class Slow(Ridge):
    name = "slow"
    def _fit_scaled(self, *arguments):
        print("fit", flush=True)
        if sys.argv[3] == "slow":
            time.sleep(1.5)
        return super()._fit_scaled(*arguments)

MODELS["slow"] = Slow
table = anndata.read_h5ad(sys.argv[1])
scores = hc.bench.leave_one_group_out(table, models=["slow"], n_bootstrap=0, cache=sys.argv[2])
scores.to_csv(sys.argv[2] + ".csv", index=False)
"""


@pytest.fixture
def count(monkeypatch):
    """Number of fits so far."""
    done = []

    def counted(some, device):
        done.extend(some)
        return run(some, device)

    run = jobs.run_together
    monkeypatch.setattr(jobs, "run_together", counted)
    return lambda: len(done)


def protocol(table, folder, **settings):
    return hc.bench.leave_one_group_out(
        table, **({"models": ["mean", "ridge"], "n_bootstrap": 20, "cache": folder} | settings)
    )


def test_finished_folds_are_not_repeated(table, tmp_path, count):
    first = protocol(table, tmp_path / "cache")
    assert count() == 6
    pd.testing.assert_frame_equal(protocol(table, tmp_path / "cache"), first)  # costs, too
    assert count() == 6
    assert len(list((tmp_path / "cache").iterdir())) == 6
    without = hc.bench.leave_one_group_out(table, models=["mean", "ridge"], n_bootstrap=20)
    same = ~first["metric"].isin(COSTS)
    pd.testing.assert_frame_equal(first[same], without[same])


def test_order_names_and_bootstrap_do_not_count(table, tmp_path, count):
    protocol(table, tmp_path / "cache")
    protocol(table, tmp_path / "cache", models={"other name": "ridge"}, n_bootstrap=0)
    table.obs["patient"] = table.obs["patient"].astype(str).replace({"A": "first", "B": "second", "C": "third"})
    protocol(table, tmp_path / "cache")
    assert count() == 6


@pytest.mark.parametrize("what", ["label", "feature", "group", "setting", "seed", "standardised"])
def test_what_a_result_depends_on_is_computed_again(table, tmp_path, count, what):
    protocol(table, tmp_path / "cache", models=["ridge"])
    settings: dict = {}
    if what == "label":
        table.obsm["cell_abundance"].iloc[0, 0] += 1e-9  # of patient A, fitted in the folds of B and C
    elif what == "feature":
        table.obsm["X_toy"][0, 0] += 1e-3
    elif what == "group":
        table.obs["patient"] = np.repeat(["A", "B", "C"], [81, 79, 80])
    elif what == "setting":
        settings = {"config": {"ridge": {"sharing": 0.25}}}
    elif what == "seed":
        settings = {"rng": 1}
    else:
        settings = {"standardize_by": "section"}
    scores = protocol(table, tmp_path / "cache", models=["ridge"], **settings)
    assert count() == 3 + (2 if what == "label" else 3)
    fresh = hc.bench.leave_one_group_out(table, models=["ridge"], n_bootstrap=20, **settings)
    same = ~scores["metric"].isin(COSTS)
    pd.testing.assert_frame_equal(scores[same], fresh[same])


def test_code_of_a_model_of_ones_own_counts(table, tmp_path, count, monkeypatch):
    class First(Ridge):
        name = "own"

    class Second(Ridge):
        name = "own"

        def _predict(self, X, device):
            return super()._predict(X, device) + 1

    for cls, expected in ((First, 3), (First, 3), (Second, 6)):
        monkeypatch.setitem(MODELS, "own", cls)
        protocol(table, tmp_path / "cache", models=["own"])
        assert count() == expected


def test_warnings_are_repeated(table, tmp_path):
    table.obsm["cell_abundance"]["a"] = 1.0
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 of 4 targets do not vary"):
            protocol(table, tmp_path / "cache", models=["ridge"])


def test_a_damaged_file_is_computed_again(table, tmp_path, count):
    first = protocol(table, tmp_path / "cache", models=["ridge"])
    files = sorted((tmp_path / "cache").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        again = protocol(table, tmp_path / "cache", models=["ridge"])
    assert count() == 5
    same = ~first["metric"].isin(COSTS)
    pd.testing.assert_frame_equal(again[same], first[same])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        protocol(table, tmp_path / "cache", models=["ridge"])


def test_folders_of_others_stay_as_they_are(table, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds what is no result of a protocol \(notes.txt\)"):
        protocol(table, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(NotADirectoryError, match="is a file"):
        protocol(table, tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="rng=None draws other seeds"):
        protocol(table, tmp_path / "cache", rng=None)
    assert not (tmp_path / "cache").exists()


def test_one_run_at_a_time(table, tmp_path):
    from histocell._core.locks import folder_lock

    with folder_lock(tmp_path / "cache"), pytest.raises(RuntimeError, match="is writing into"):
        protocol(table, tmp_path / "cache")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_killed_run_continues(table, tmp_path):
    table.write_h5ad(tmp_path / "table.h5ad")
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = tmp_path / "cache"
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "table.h5ad"), str(folder)]
    run = subprocess.Popen([*command, "slow"], stdout=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 300
    while not list(folder.glob("*.npz")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    finished = len(list(folder.glob("*.npz")))
    assert finished < 3
    (folder / ".histocell-partial-x").mkdir()  # as if it had been killed while it wrote
    again = subprocess.run([*command, "slow"], capture_output=True, text=True, check=True, env=os.environ)
    assert again.stdout.count("fit") == 3 - finished
    assert len(list(folder.iterdir())) == 3
    expected = hc.bench.leave_one_group_out(table, models={"slow": "ridge"}, n_bootstrap=0)
    scores = pd.read_csv(f"{folder}.csv")
    same = ~expected["metric"].isin(COSTS)
    np.testing.assert_allclose(scores["value"][same], expected["value"][same], rtol=1e-9)
