from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ["bench", "datasets", "encoders", "io", "models", "pl", "pp", "tl"]
HEAVY = [
    "anndata",
    "dask",
    "matplotlib",
    "numba",
    "numpy",
    "pandas",
    "scanpy",
    "scipy",
    "sklearn",
    "spatialdata",
    "squidpy",
    "timm",
    "torch",
]


def test_import_loads_nothing_heavy():
    code = f"import sys, histocell as hc; dir(hc); hc.pp; hc.tl; hc.pl; hc.io; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_resolves(package):
    module = importlib.import_module(f"histocell.{package}")
    assert module.__all__ == dir(module)
    for name in module.__all__:
        assert callable(getattr(module, name)), name
        assert getattr(module, name).__module__.startswith("histocell.")


def test_names_stay_functions_after_their_modules_are_imported():
    import histocell as hc

    for name in ("patches", "embed_image", "split"):
        importlib.import_module(f"histocell.pp._{name}")
        assert callable(getattr(hc.pp, name))


def test_top_level_names():
    import histocell as hc

    assert {"io", "pp", "tl", "pl", "get", "datasets", "encoders", "models", "metrics", "bench", "settings"} <= set(
        dir(hc)
    )
    for name in hc.__all__:
        assert getattr(hc, name) is not None


def test_unknown_name_lists_what_exists():
    import histocell as hc

    with pytest.raises(AttributeError, match="embed_image"):
        hc.pp.embed_images  # noqa: B018


def test_help_of_the_command_line_loads_nothing_heavy():
    code = f"import sys, histocell.cli.commands; print([m for m in {HEAVY} if m in sys.modules and m != 'numpy'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
