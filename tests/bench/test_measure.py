"""What a row says of its figures."""

from __future__ import annotations

import pytest

from tests.bench.measure import Row


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
def test_an_aim_is_about_the_ratios_median_or_with_the_unit_about_ours(aim: str, met: bool | None) -> None:
    assert row([10, 20, 90], [20, 40, 30], aim).met is met


@pytest.mark.parametrize("aim", ["<=1.2", "1.2", "= 1.2", "<= 20 MB", "linear", "<= "])
def test_an_aim_that_cannot_be_checked_is_refused(aim: str) -> None:
    with pytest.raises(ValueError, match=r"a\.row: an aim is"):
        row([1], [1], aim)
