"""How long ago a revision of the store was written, by when it was seen."""

from __future__ import annotations

import pytest

from mesh.store.revision_times import MOST, RevisionTimes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("mesh.store.revision_times.time.monotonic", lambda: now[0])
    return now


def noted(clock: list[float], *seen: tuple[float, int]) -> RevisionTimes:
    times = RevisionTimes()
    for at, revision in seen:
        clock[0] = at
        times.note(revision)
    return times


@pytest.mark.parametrize(
    ("revision", "age"),
    [(1, None), (5, None), (6, 8.0), (7, 8.0), (8, 6.0), (9, 6.0), (10, 6.0)],
    ids=["before", "first", "between", "seen", "soon after another", "soon after", "newer than all"],
)
def test_age_is_that_of_next_seen_revision(clock: list[float], revision: int, age: float | None) -> None:
    times = noted(clock, (100.0, 5), (102.0, 7), (104.0, 8), (104.1, 9))
    clock[0] = 110.0
    assert times.age(revision) == age


def test_other_store_begins_anew(clock: list[float]) -> None:
    times = noted(clock, (100.0, 500), (102.0, 700), (104.0, 3), (106.0, 4))
    assert times.age(600) == 0.0
    assert (times.age(3), times.age(4)) == (None, 0.0)


def test_memory_is_bounded(clock: list[float]) -> None:
    times = noted(clock, *((float(n), n) for n in range(1, 2 * MOST)))
    assert times.age(10) is None
    assert times.age(2 * MOST - 3) == 2.0


@pytest.mark.parametrize(
    ("revision", "age"),
    [(5, None), (6, None), (7, None), (8, 1.0), (9, None)],
    ids=["first", "in", "end", "8", "new"],
)
def test_age_is_exact_where_store_was_watched(clock: list[float], revision: int, age: float | None) -> None:
    """After an outage nobody knows when in it something was written; a quiet store is seen at one revision."""
    times = noted(clock, (100.0, 5), (160.0, 7), (163.0, 7), (166.0, 7), (169.0, 8))
    clock[0] = 170.0
    assert times.exact_age(8) == 1.0
    assert times.exact_age(9) == 0.0
    clock[0] = 175.0
    assert times.exact_age(revision) == (None if age is None else 6.0)
