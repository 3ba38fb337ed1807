"""Conventions of the public functions, and the page that lists them."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

FORBIDDEN = {"seed", "random_state", "save", "copy", "verbose", "n_jobs"}
PACKAGES = ["bench", "datasets", "encoders", "get", "io", "metrics", "models", "pl", "pp", "tl"]
API_PAGE = Path(__file__).parents[1] / "docs" / "api.md"
# Parameters and results that may be of any type, with the reason.
ANY: dict[str, str] = {}


def public_things() -> dict[str, object]:
    """Public functions and classes by name."""
    things = {}
    for package in PACKAGES:
        module = importlib.import_module(f"histocell.{package}")
        for name in getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]:
            thing = getattr(module, name)
            own = hasattr(module, "__all__") or getattr(thing, "__module__", None) == module.__name__
            if own and (inspect.isfunction(thing) or inspect.isclass(thing)):
                things[f"{package}.{name}"] = thing
    return things


def public_functions() -> list:
    return [
        pytest.param(name.partition(".")[0], thing, id=name)
        for name, thing in public_things().items()
        if inspect.isfunction(thing)
    ]


def takes_any(annotation: str) -> bool:
    """Whether an annotation allows everything: `Any` itself, or a union with it."""
    node = ast.parse(annotation, mode="eval").body
    while isinstance(node, ast.BinOp):
        if ast.unparse(node.right) == "Any":
            return True
        node = node.left
    return ast.unparse(node) == "Any"


@pytest.mark.parametrize(("package", "function"), public_functions())
class TestConventions:
    def test_signature(self, package, function):
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        assert len(positional) <= 3
        assert not FORBIDDEN & {p.name for p in parameters}
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters), "**kwargs swallow typos"
        assert all(not isinstance(p.default, bool) or p.kind is p.KEYWORD_ONLY for p in parameters)

    def test_random_numbers_are_seeded(self, package, function):
        """Two calls agree; ``rng=None`` is there for those that shall not."""
        rng = inspect.signature(function).parameters.get("rng")
        assert rng is None or rng.default == 0

    def test_data_comes_first(self, package, function):
        parameters = list(inspect.signature(function).parameters.values())
        if package not in {"pp", "tl", "pl", "get"} or parameters[0].name in {
            "truth",
            "train",
            "paths",
            "slides",
            "summary",
        }:
            pytest.skip("takes no data")
        assert parameters[0].name == "data"
        by_name = {p.name: p for p in parameters}
        if package in {"pp", "tl"}:
            assert by_name["inplace"].default is True
        if "ax" in by_name:
            assert by_name["ax"].default is None
        if package == "pl" and function.__name__ != "report":  # a file
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

    def test_example(self, package, function):
        text = inspect.getdoc(function)
        assert "Examples\n--------" in text
        assert ">>> " in text.partition("Examples\n--------")[2]

    def test_types_say_something(self, package, function):
        found = {name for name, annotation in function.__annotations__.items() if takes_any(annotation)}
        assert found == {name for name in function.__annotations__ if f"{package}.{function.__name__}.{name}" in ANY}


def test_api_page_lists_everything():
    listed = re.findall(r"^   (\w+\.\w+)$", API_PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(public_things())
