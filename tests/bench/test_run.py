"""A run of groups: each keeps its figures whatever becomes of the others."""

from __future__ import annotations

import pytest

from mesh.errors import Terminal
from tests.bench import report
from tests.bench.measure import QUICK, Effort, NotHere, Row
from tests.bench.run import Run, run_groups

FIRST = Row("a.one", "one", "other", "ms", "lower", [1.0, 2.0], [2.0, 2.0], "<= 1.2", "say so", 100, 10)
LAST = Row("z.one", "one", "other", "1/s", "higher", [3.0], [2.0])


def fails(error: Exception) -> list[Row]:
    raise error


def test_failed_group_is_reported_and_others_keep_rows(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_missing_or_failed_subgroups_join_the_run() -> None:
    inner = Run([FIRST], {"in.a": 1.0, "in.b": 2.0}, {"in.c": "no such kernel"}, {"in.b": "AssertionError: odd"})
    after: list[tuple[int, list[str]]] = []
    run = run_groups(
        {"in": lambda _: Run.from_json(inner.as_json()), "last": lambda _: [LAST]},
        QUICK,
        lambda so_far: after.append((len(so_far.rows), list(so_far.seconds))),
    )
    assert run.rows == [FIRST, LAST]
    assert (run.not_here, run.failed) == (inner.not_here, inner.failed)
    assert after == [(1, ["in.a", "in.b", "in"]), (2, ["in.a", "in.b", "in", "last"])]


def test_an_interrupt_ends_the_run() -> None:
    def interrupted(_: Effort) -> list[Row]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_groups({"first": interrupted, "last": lambda _: [LAST]}, QUICK)


@pytest.mark.parametrize("row", [FIRST, LAST])
def test_a_row_comes_back_from_json(row: Row) -> None:
    assert report.from_json(report.as_json(row)) == row
