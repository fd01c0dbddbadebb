"""The table of questions about many links: on a small Swarm all of it works, and nothing is wrong there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.questions import __main__ as questions
from tests.bench.questions.swarm import Size


def test_small_swarm_has_a_row_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(questions, "TURNS", 1)
    names = ["status", "ps", "snapshot of the page", "check --live"]
    questions.measure(Size(25), tmp_path, names)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 25 | ")]
    assert [row[1] for row in rows] == names
    assert all(row[2].endswith(" s") and len(row) == 7 for row in rows)
