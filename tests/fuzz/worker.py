"""Damage files and read them, as told line by line on stdin; answer each line on stdout.

``python worker.py FOLDER`` reads lines ``<specimen> <seed>`` and answers with JSON: what was done to the file, and how its
reading ended. Files are written into the folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np
from mutations import damage
from specimens import SPECIMENS

import histocell as hc

PACKAGE = str(Path(hc.__file__).parent)
MORE_MEMORY = 3 * 2**30


def fault(error: Exception, names: list[str]) -> str:
    """What is wrong with an error as the user sees it; empty for one of ours that names the file or its folder."""
    kind, text = type(error), str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    shown = f"{kind.__module__}.{kind.__name__}: {text[:400]} ({frame.filename}:{frame.lineno})"
    if isinstance(error, AssertionError):
        return f"wrong without a word: {shown}"
    if kind.__module__ != "builtins" and not kind.__module__.startswith("histocell."):
        return f"error of a library: {shown}"
    if not frame.filename.startswith(PACKAGE):
        return f"raised outside of histocell: {shown}"
    if not any(name in text for name in names):
        return f"does not name the file: {shown}"
    if len(text) > 1000:
        return f"too long: {shown}"
    return ""


def attempt(original: Path, seed: int) -> dict[str, str]:
    """Damage a copy and read it."""
    copy = Path(original.name)
    if copy.is_dir():
        shutil.rmtree(copy)
    if original.is_dir():
        shutil.copytree(original, copy)
    else:
        shutil.copyfile(original, copy)
    did = damage(copy, np.random.default_rng([zlib.crc32(original.name.encode()), seed]))
    try:
        SPECIMENS[original.name].read(copy)
    except Exception as error:  # noqa: BLE001 any
        refused = f"{type(error).__name__}: {error}"[:300]
        names = [copy.name, Path(did.partition(":")[0]).name]
        return {"did": did, "refused": refused, "fault": fault(error, names)}
    return {"did": did, "fault": ""}


def limit_memory() -> None:
    """A number in a file must not make its reader take all there is."""
    if sys.platform == "linux":
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + MORE_MEMORY, resource.RLIM_INFINITY))


def main() -> None:
    os.chdir(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        name, seed = line.split()
        original = Path("originals", name)
        if not original.exists():
            original.parent.mkdir(exist_ok=True)
            SPECIMENS[name].write(original)
            SPECIMENS[name].read(original)  # loads what its reader needs, too
            limit_memory()
        print(json.dumps(attempt(original, int(seed))), file=answers, flush=True)


if __name__ == "__main__":
    main()
