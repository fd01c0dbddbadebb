"""What a row says of its figures."""

from __future__ import annotations

import random

import pytest

from tests.bench.measure import CERTAIN, Row, crosswise, in_turns, interval


def row(ours: list[float], theirs: list[float], aim: str) -> Row:
    return Row("a.row", "what", "against", "MiB", "lower", ours, theirs, aim)


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        ("", None),
        ("<= 0.5", True),
        ("< 0.5", False),
        (">= 0.5", True),
        ("> 0.5", False),
        ("<= 20 MiB", True),
        ("< 20 MiB", False),
        ("<= 19.9 MiB", False),
    ],
)
def test_aim_is_on_median_ratio_or_own_unit(aim: str, met: bool | None) -> None:
    assert row([10, 20, 90], [20, 40, 30], aim).met is met


@pytest.mark.parametrize("aim", ["<=1.2", "1.2", "= 1.2", "<= 20 MB", "linear", "<= "])
def test_an_aim_that_cannot_be_checked_is_refused(aim: str) -> None:
    with pytest.raises(ValueError, match=r"a\.row: an aim is"):
        row([1], [1], aim)


def test_crosswise_alternates_and_drops_the_first_pair() -> None:
    called: list[str] = []

    def way(name: str) -> float:
        called.append(name)
        return float(len(called))

    ours, theirs = crosswise(4, lambda: way("a"), lambda: way("b"))
    assert "".join(called) == "ba" + "abba" * 2
    assert ours == [3, 6, 7, 10]
    assert theirs == [4, 5, 8, 9]


def test_several_ways_take_turns_at_being_first() -> None:
    called: list[str] = []

    def way(name: str) -> float:
        called.append(name)
        return float(len(called))

    found = in_turns(6, {name: lambda name=name: way(name) for name in "abc"})  # type: ignore[misc]
    assert "".join(called) == "cba" + "abc" + "acb" + "bca" + "bac" + "cab" + "cba"
    assert found["b"] == [5, 9, 10, 13, 18, 20]


@pytest.mark.parametrize(
    ("count", "ranks"),
    [(5, None), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (20, (6, 15)), (40, (14, 27)), (100, (40, 61))],
)
def test_interval_of_a_median_is_by_ranks(count: int, ranks: tuple[int, int] | None) -> None:
    """Ranks as in tables of the sign test's interval."""
    assert interval(reversed(range(1, count + 1))) == ranks


def test_interval_holds_the_median_as_often_as_said() -> None:
    chance = random.Random(5)  # noqa: S311 - the same each time
    held = 0
    for _ in range(2000):
        least, most = interval([chance.lognormvariate(0, 1) for _ in range(20)]) or (0.0, 0.0)
        held += least < 1.0 < most
    assert CERTAIN < held / 2000 < CERTAIN + 0.03
