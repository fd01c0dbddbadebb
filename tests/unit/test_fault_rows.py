"""The table that `make chaos` prints."""

from __future__ import annotations

from pathlib import Path

from tests.support.fault_rows import FaultRow, write


def test_each_fault_has_a_row(tmp_path: Path) -> None:
    page = tmp_path / "build" / "chaos.md"
    write(map(str, [FaultRow("dead", 100, 1, 0.5, 2.04, 0), FaultRow("slow", 100, 0, 0.031)]), page)
    assert page.read_text().splitlines()[2:] == [
        "| fault | requests | lost | longest gap, s | new tasks wired after, s | false words of `status` |",
        "| --- | --- | --- | --- | --- | --- |",
        "| dead | 100 | 1 | 0.50 | 2.0 | 0 |",
        "| slow | 100 | 0 | 0.03 | - | - |",
    ]
