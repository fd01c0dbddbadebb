"""Which suspect endpoints count as unreachable, by which questions were answered."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from agent.reporting.liveness import MISSES, judge

ONE, TWO = IPv4Address("10.1.0.1"), IPv4Address("10.1.0.2")


def test_answer_resets_the_count_and_unasked_are_forgotten() -> None:
    misses: dict[IPv4Address, int] = {}
    for asked, answered, expected in (
        ((ONE, TWO), (ONE,), {ONE: 0, TWO: 1}),
        ((ONE, TWO), (), {ONE: 1, TWO: 2}),
        ((ONE, TWO), (TWO,), {ONE: 2, TWO: 0}),
        ((TWO,), (), {TWO: 1}),
        ((ONE, TWO), (), {ONE: 1, TWO: 2}),
        ((), (), {}),
        ((ONE,), (TWO,), {ONE: 1}),
    ):
        misses = judge(misses, asked, answered)
        assert misses == expected


@given(st.lists(st.booleans()))
def test_unreachable_means_no_answer_in_last_rounds(answers: list[bool]) -> None:
    misses: dict[IPv4Address, int] = {}
    for answer in answers:
        misses = judge(misses, (ONE,), (ONE,) if answer else ())
    is_silent = len(answers) >= MISSES and not any(answers[-MISSES:])
    assert (misses.get(ONE, 0) >= MISSES) == is_silent
