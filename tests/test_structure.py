"""The structure of the source: layers without circles, small rooms, short functions, plain first lines."""

from __future__ import annotations

import ast
import graphlib
import io
import re
import statistics
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted((SOURCE / "histocell").rglob("*.py"))
MODULES = {".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
MAX_ANY = 60  # in all signatures together
RIDDLES = ("What", "Where", "Which", "How", "Who", "Whether")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(path: Path) -> set[str]:
    """Names that a file imports when it is loaded or run, in functions too, as `module` or `module.name`."""
    stub = path.with_suffix(".pyi")  # packages load the names of their stub on first use
    if stub.exists() and stub != path:
        return imports(stub)
    tree = parse(path)
    skipped = type_checking_only(tree)
    names = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(name: str) -> str | None:
    """The module of ours that `module` or `module.name` lies in."""
    return next((each for each in (name, name.rpartition(".")[0]) if each in MODULES), None)


def docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            lines.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


@cache
def code_lines(path: Path) -> set[int]:
    """Numbers of the lines with code: neither blank nor comment nor docstring."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(parse(path))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    found = [each.annotation for each in given if each is not None] + [function.returns]
    return [annotation for annotation in found if annotation is not None]


def short(path: Path) -> str:
    return str(path.relative_to(SOURCE / "histocell"))


def test_no_import_circle():
    graph = {name: {module_of(each) for each in imports(path)} - {None, name} for name, path in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_private_import_across_packages():
    found = []
    for name, path in MODULES.items():
        for each in imports(path):
            parts = each.split(".")
            private = parts[0] == "histocell" and any(part.startswith("_") for part in parts[1:])
            if private and parts[1] not in {"_core", *name.split(".")[1:2]}:
                found.append(f"{short(path)}: {each}")
    assert not found


def test_folders_hold_a_dozen_files_at_most():
    number = Counter(short(path.parent) for path in FILES if path.name != "__init__.py")
    assert {folder: n for folder, n in number.items() if n > 12} == {}


def test_files_are_small():
    lines = {short(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lines.items() if n > 500} == {}
    assert statistics.median(lines.values()) <= 150


def test_functions_are_short():
    found = {}
    for path in FILES:
        for function in functions(path):
            n = sum(function.lineno <= line <= function.end_lineno for line in code_lines(path))
            if n > 60:
                found[f"{short(path)}:{function.name}"] = n
    assert found == {}


@pytest.mark.parametrize("path", FILES, ids=short)
def test_first_line_states_the_content(path):
    docstring = ast.get_docstring(parse(path))
    assert docstring, "no docstring"
    assert not docstring.startswith(RIDDLES)


def test_few_any_in_signatures():
    found = Counter()
    for path in FILES:
        for annotation in (each for function in functions(path) for each in annotations(function)):
            found[short(path)] += sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(annotation))
    assert found.total() <= MAX_ANY, found.most_common()


def test_nothing_left_to_do():
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        found += [f"{short(path)}: {word}" for word in re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", text)]
        found += [f"{short(path)}:{n.lineno}: assert" for n in ast.walk(parse(path)) if isinstance(n, ast.Assert)]
    assert not found
