"""A run of groups: each keeps its figures whatever becomes of the others."""

from __future__ import annotations

import pytest

from mesh.errors import Terminal
from tests.bench import report
from tests.bench.measure import QUICK, Effort, NotHere, Row
from tests.bench.run import run_groups

FIRST = Row("a.one", "one", "other", "ms", "lower", [1.0, 2.0], [2.0, 2.0], "<= 1.2", "say so", 100, 10)
LAST = Row("z.one", "one", "other", "1/s", "higher", [3.0], [2.0])


def fails(error: Exception) -> list[Row]:
    raise error


def test_a_group_that_fails_is_reported_and_the_others_keep_their_rows(capsys: pytest.CaptureFixture[str]) -> None:
    def elsewhere(_: Effort) -> list[Row]:
        raise NotHere("no such kernel")

    groups = {
        "first": lambda _: [FIRST],
        "expected": lambda _: fails(Terminal("it says why")),
        "elsewhere": elsewhere,
        "odd": lambda _: fails(AssertionError("nobody thought of it")),
        "last": lambda _: [LAST],
    }
    run = run_groups(groups, QUICK)
    assert run.rows == [FIRST, LAST]
    assert run.failed == {"expected": "Terminal: it says why", "odd": "AssertionError: nobody thought of it"}
    assert run.not_here == {"elsewhere": "no such kernel"}
    assert list(run.seconds) == list(groups)
    assert capsys.readouterr().err.count("Traceback") == 1


def test_an_interrupt_ends_the_run() -> None:
    def interrupted(_: Effort) -> list[Row]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_groups({"first": interrupted, "last": lambda _: [LAST]}, QUICK)


@pytest.mark.parametrize("row", [FIRST, LAST])
def test_a_row_comes_back_from_json(row: Row) -> None:
    assert report.from_json(report.as_json(row)) == row
