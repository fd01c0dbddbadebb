"""docs/threat-model.md names the test of every line, and those tests exist."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "threat-model.md").read_text()
NAMED = re.findall(r"`(tests/[a-z_/]+\.py)::([a-z_0-9]+)`", PAGE)
ROWS = [
    line for line in PAGE.splitlines() if line.startswith("| ") and not re.match(r"\| (---|attempt|of|attack) ", line)
]


def exists(file: str, test: str) -> bool:
    path = PROJECT / file
    return path.is_file() and re.search(rf"^def {test}\(", path.read_text(), re.MULTILINE) is not None


def test_the_tests_that_are_named_exist() -> None:
    assert len(NAMED) > 40
    assert [f"{file}::{test}" for file, test in NAMED if not exists(file, test)] == []


def test_every_row_names_its_test_or_reason() -> None:
    reasons = ("design: not hidden", "limit: see below", "trusted", "WireGuard's own")
    assert [row for row in ROWS if "`tests/" not in row and not row.split(" | ")[-1].startswith(reasons)] == []
