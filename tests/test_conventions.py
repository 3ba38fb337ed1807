"""What every public function keeps to."""

from __future__ import annotations

import importlib
import inspect

import pytest

FORBIDDEN = {"seed", "random_state", "save", "copy", "verbose", "n_jobs"}


def public_functions() -> list:
    return list(_public_functions())


def _public_functions():
    for package in ["bench", "datasets", "encoders", "io", "pl", "pp", "tl"]:
        module = importlib.import_module(f"histocell.{package}")
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                yield pytest.param(package, thing, id=f"{package}.{name}")
    for module_name in ["get", "metrics"]:
        module = importlib.import_module(f"histocell.{module_name}")
        for name, thing in vars(module).items():
            if inspect.isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_"):
                yield pytest.param(module_name, thing, id=f"{module_name}.{name}")


@pytest.mark.parametrize(("package", "function"), public_functions())
class TestConventions:
    def test_signature(self, package, function):
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        assert len(positional) <= 3
        assert not FORBIDDEN & {p.name for p in parameters}
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters), "**kwargs swallow typos"
        assert all(not isinstance(p.default, bool) or p.kind is p.KEYWORD_ONLY for p in parameters)

    def test_data_comes_first(self, package, function):
        parameters = list(inspect.signature(function).parameters.values())
        if package not in {"pp", "tl", "pl", "get"} or parameters[0].name in {"truth", "train", "paths"}:
            pytest.skip("takes no data")
        assert parameters[0].name == "data"
        by_name = {p.name: p for p in parameters}
        if package in {"pp", "tl"}:
            assert by_name["inplace"].default is True
        if "ax" in by_name:
            assert by_name["ax"].default is None
        if package == "pl":
            assert by_name["show"].default is None

    def test_docstring(self, package, function):
        text = inspect.getdoc(function)
        assert text, "no docstring"
        assert "Parameters\n----------" in text or not inspect.signature(function).parameters
        for name in inspect.signature(function).parameters:
            assert name in text, f"{name} is not documented"

    def test_annotated(self, package, function):
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not p.empty for p in signature.parameters.values())
