"""The table of bad inputs in docs/reliability.md: one row for each use of the fixture `user_sees`, and no other."""

from __future__ import annotations

import ast
import csv
from itertools import product
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "bad_input.csv"


def _calls():
    """Area and title of each use; both must be plain strings, named or parameters, so that they can be read without a run."""
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for test in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            known = _parameters(test) | {
                node.targets[0].id: [node.value]
                for node in ast.walk(test)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            for node in (node for node in ast.walk(test) if isinstance(node, ast.Call)):
                used = node.func.value if isinstance(node.func, ast.Attribute) else node.func
                if isinstance(used, ast.Name) and used.id == "user_sees":
                    areas, givens = (known.get(getattr(each, "id", None), [each]) for each in node.args[:2])
                    yield from product(map(ast.literal_eval, areas), map(ast.literal_eval, givens))


def _parameters(test):
    """Values of each parameter of a test, as they stand in its `parametrize`."""
    values = {}
    for mark in (node for node in test.decorator_list if ast.unparse(node).startswith("pytest.mark.parametrize(")):
        names = ast.literal_eval(mark.args[0])
        cases = getattr(mark.args[1], "elts", [])
        if isinstance(names, str):
            values[names] = cases
        else:
            listed = [case.elts for case in cases if isinstance(case, ast.Tuple)]
            values |= {name: [case[index] for case in listed] for index, name in enumerate(names)}
    return values


def test_each_row_of_the_table_is_a_test():
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [(area, given) for area, given, _ in list(csv.reader(file))[1:]]
    calls = list(_calls())
    assert len(set(calls)) == len(calls), "two tests show the same row"
    assert rows == sorted(calls)
