"""The table of bad inputs in docs/reliability.md: one row for each use of the fixture `user_sees`, and no other."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "bad_input.csv"


def _calls():
    """Area and title of each use; both must be plain strings, or named ones, so that they can be read without a run."""
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for test in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            named = {
                node.targets[0].id: node.value
                for node in ast.walk(test)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            for node in (node for node in ast.walk(test) if isinstance(node, ast.Call)):
                used = node.func.value if isinstance(node.func, ast.Attribute) else node.func
                if isinstance(used, ast.Name) and used.id == "user_sees":
                    area, given = (named.get(getattr(each, "id", None), each) for each in node.args[:2])
                    yield ast.literal_eval(area), ast.literal_eval(given)


def test_each_row_of_the_table_is_a_test():
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [(area, given) for area, given, _ in list(csv.reader(file))[1:]]
    calls = list(_calls())
    assert len(set(calls)) == len(calls), "two tests show the same row"
    assert rows == sorted(calls)
