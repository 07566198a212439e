"""The table of docs/graph.md is true: each test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(?P<file>test_\w+\.py)?(?:::(?P<test>test_\w+))?`")


def _tests_of(file: str) -> set[str]:
    [path] = [path for ring in ("unit", "workflow") for path in (ROOT / "tests" / ring).glob(file)]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, functions)}


def test_every_test_in_the_table_of_rows_exists() -> None:
    """A row is kept by its tests; one that was renamed or removed is missing here."""
    table = (ROOT / "docs/graph.md").read_text().partition("## Rows and their tests")[2]
    missing, file = [], ""
    for found in NAMED.finditer(table):
        file = found["file"] or file
        tests = _tests_of(file)
        if found["test"] is not None and found["test"] not in tests:
            missing.append(f"{file}::{found['test']}")
    assert missing == []
