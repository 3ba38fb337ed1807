"""The table of bad inputs in docs/reliability.md: one row for each use of the fixture `user_sees`, and no other."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "bad_input.csv"


def _calls():
    """Area and title of each use; both must be plain strings, so that they can be read without a run."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            used = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            if isinstance(used, ast.Name) and used.id == "user_sees":
                area, given = node.args[:2]
                yield ast.literal_eval(area), ast.literal_eval(given)


def test_each_row_of_the_table_is_a_test():
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [(area, given) for area, given, _ in list(csv.reader(file))[1:]]
    calls = list(_calls())
    assert len(set(calls)) == len(calls), "two tests show the same row"
    assert rows == sorted(calls)
