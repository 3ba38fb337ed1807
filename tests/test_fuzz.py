"""Damaged files of all kinds: each is read, or refused by an error of ours that names it; none ends or hangs the process.

``HISTOCELL_FUZZ_CASES=5000 pytest tests/test_fuzz.py`` tries more than the usual ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = Path(__file__).parent / "fuzz" / "worker.py"
SECONDS, SECONDS_TO_START = 30, 240  # at the start numba compiles
CASES = {
    "strips.tif": 36,
    "pyramid.ome.tif": 36,
    "aperio.svs": 40,
    "deep.tif": 28,
    "photograph.jpg": 28,
    "picture.png": 28,
    "section_st": 28,
    "section_visium": 28,
    "section_hest": 40,
    "lazyslide.zarr": 24,
    "features.store": 20,
    "model_ridge": 24,
    "model_mlp": 16,
    "weights": 12,
    "adapter": 20,
    "scgpt": 20,
    "model_cells": 12,
    "bundle_xenium": 16,
    "bundle_visium_hd": 16,
    "outlines.geojson": 20,
    "cohort": 6,
    "predictions": 6,
}
SHARE = int(os.environ.get("HISTOCELL_FUZZ_CASES", "0")) / sum(CASES.values()) or 1


class Reader:
    """A process that damages and reads files; another one takes its place where a file ends or hangs it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._seen: set[str] = set()

    def fault(self, specimen: str, seed: int) -> str:
        """What is wrong with how a damaged file was read; empty where nothing is."""
        first = self._process is None or specimen not in self._seen
        if self._process is None:
            command = [sys.executable, str(WORKER), str(self._folder)]
            with (self._folder / "errors.txt").open("w") as errors:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
                )
        limit = Timer(SECONDS_TO_START if first else SECONDS, self._process.kill)
        limit.start()
        print(specimen, seed, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        limit.cancel()
        self._seen.add(specimen)
        if not line:
            code = self._process.wait()
            self.close()
            said = (self._folder / "errors.txt").read_text()[-2000:]
            return f"{seed}: the process ended with {code} (-9: it hung)\n{said}"
        answer = json.loads(line)
        return f"{seed}: {answer['did']}: {answer['fault']}" if answer["fault"] else ""

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("fuzz"))
    yield reader
    reader.close()


def check(reader: Reader, specimen: str, cases: int) -> None:
    cases = int(cases * SHARE)
    faults = [fault for seed in range(cases) if (fault := reader.fault(specimen, seed))]
    assert not faults, f"{len(faults)} of {cases}:\n" + "\n".join(faults)


@pytest.mark.parametrize(("specimen", "cases"), CASES.items())
def test_damaged(reader, specimen, cases):
    check(reader, specimen, cases)


def test_damaged_real_slide(reader, data_dir):
    check(reader, "CMU-1-Small-Region.svs", 16)
