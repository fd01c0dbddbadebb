"""Names of tests: eight words at most, so that a list of them can be read; a docstring may say more."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
MOST = 8


def words(name: str) -> int:
    return len(name.removeprefix("test_").split("_"))


def test_no_test_name_has_more_than_eight_words() -> None:
    every = [
        (path.relative_to(TESTS), node.name)
        for path in sorted(TESTS.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert len(every) > 1000
    assert [f"{path}: {name}" for path, name in every if words(name) > MOST] == []
