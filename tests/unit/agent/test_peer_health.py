"""Peers judged by their counters: what is answered, what has to be, and what is overdue."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.reporting.status_poller import STATUS_S
from agent.wireguard.peer_health import (
    ANSWER_S,
    ANSWERS_APART_S,
    KEEPALIVE_BYTES,
    KEEPALIVE_TIMEOUT_S,
    REJECT_AFTER_S,
    REKEY_ATTEMPT_S,
    REKEY_TIMEOUT_S,
    Health,
    Reading,
    follow,
    state,
)
from mesh.topology.peer_cache import KEEPALIVE

INITIATION, RESPONSE = 148, 92  # drivers/net/wireguard/messages.h: message_handshake_initiation, _response
DATA = 128


def followed(*counters: tuple[float, int, int], handshake: float = 0.0) -> Health:
    """After readings of (seconds, received, sent)."""
    health: Health | None = None
    for at, rx, tx in counters:
        health = follow(health, Reading(at, rx, tx, handshake))
    assert health is not None
    return health


def at_rest(sent: int, seconds: int, every: int) -> list[tuple[float, int, int]]:
    """Readings of a peer to which something is sent now and then, and which says nothing."""
    return [(float(at), 500, 700 + sent * (at // every)) for at in range(0, seconds, 2)]


@pytest.mark.parametrize(
    ("counters", "seconds"),
    [
        ([(0, 500, 700)], None),
        ([(0, 500, 700), (2, 500, 700), (60, 500, 700)], None),
        ([(0, 500, 700), (2, 500, 700 + DATA), (12, 500, 700 + DATA)], None),
        ([(0, 500, 700), (2, 500, 700 + DATA), (12.5, 500, 700 + DATA)], 10.5),
        ([(0, 500, 700), (2, 500, 700 + DATA), (8, 500, 900), (14, 500, 1200)], 12),
        ([(0, 500, 700), (2, 500, 700 + DATA), (14, 532, 700 + DATA)], None),
        ([(0, 500, 700), (2, 500, 700 + DATA), (4, 600, 900), (14, 600, 900)], None),
        ([(0, 500, 700), (2, 500, 700 + DATA), (4, 600, 900), (6, 600, 1000), (14, 600, 1000)], None),
        ([(0, 500, 700), (2, 500, 700 + DATA), (4, 600, 900), (6, 600, 1000), (17, 600, 1000)], 11),
        ([(0, 0, INITIATION), (5, 0, 2 * INITIATION), (11, 0, 3 * INITIATION)], 11),
        ([(0, 0, 0), (20, 0, 0)], None),
        ([(0, 500, 700), (2, 500, 1000), (4, 0, INITIATION), (14, 0, 2 * INITIATION)], None),
        ([(0, 500, 700), (2, 500, 1000), (4, 92, INITIATION), (16, 92, INITIATION)], None),
        ([(0, 500, 700), (2, 500, 900), (6, 648, 992), (11, 796, 1100), (14, 944, 1300)], 12),
        ([(0, 500, 700), (2, 500, 900), (14, 500 + 3 * INITIATION, 1300)], 12),
        ([(0, 500, 700), (2, 500, 900), (14, 500 + INITIATION + KEEPALIVE_BYTES, 1300)], None),
        ([(0, 500, 700), (2, 500, 900), (14, 500 + 4 * INITIATION, 1300)], None),
        ([(0, INITIATION, RESPONSE), (5, 2 * INITIATION, 2 * RESPONSE), (11, 3 * INITIATION, 3 * RESPONSE)], 11),
    ],
    ids=[
        "read once",
        "at rest",
        "answer is not due yet",
        "no answer",
        "no answer to more and more",
        "answered by a keepalive",
        "answered, and nothing sent since",
        "answered, and the next is not due",
        "answered, and the next not",
        "never a handshake",
        "never anything",
        "made again",
        "made again, and answered",
        "initiations alone",
        "initiations alone, read seldom",
        "an initiation and a keepalive",
        "data, of the size of four initiations",
        "initiations from the beginning",
    ],
)
def test_unanswered_packets_make_a_peer_broken(counters: list[tuple[float, int, int]], seconds: float | None) -> None:
    assert followed(*counters).broken_for == seconds


def test_keepalives_alone_await_no_answer() -> None:
    for every in (KEEPALIVE_TIMEOUT_S, 25):
        assert followed(*at_rest(KEEPALIVE_BYTES, 120, every)).broken_for is None
    rare = [(0.0, 500, 700), (40.0, 500, 700 + 4 * KEEPALIVE_BYTES), (80.0, 500, 700 + 8 * KEEPALIVE_BYTES)]
    assert followed(*rare).broken_for is None, "read seldom, as by a busy node"
    assert followed(*at_rest(KEEPALIVE_BYTES + 16, 120, 25)).broken_for is not None, "the smallest datum"


def test_new_handshake_is_an_answer_too() -> None:
    health = followed((0, 500, 700), (2, 500, 900), handshake=100.0)
    assert follow(health, Reading(14, 500, 900, 101.0)).broken_for is None
    assert follow(health, Reading(14, 500, 900, 100.0)).broken_for == 12


def test_persistent_keepalives_do_not_mend_a_broken_peer() -> None:
    """Nothing gets out; what comes in is one keepalive in 25 s, with initiations between them."""
    readings = [(at, 500, 700 + 50 * at) for at in range(0, 14, 2)]
    received = 500
    for at in range(14, 80, 2):
        received += {16: KEEPALIVE_BYTES, 42: KEEPALIVE_BYTES + INITIATION, 68: KEEPALIVE_BYTES, 60: INITIATION}.get(
            at, 0
        )
        readings.append((at, received, 700 + 50 * at))
        assert followed(*readings).broken_for == at - 2
    assert KEEPALIVE > ANSWERS_APART_S + 2 * STATUS_S


@pytest.mark.parametrize(
    ("after", "handshake"),
    [
        ([(20, 532), (30, 564)], 0.0),
        ([(20, 500 + DATA)], 0.0),
        ([(20, 500 + RESPONSE)], 0.0),
        ([(20, 532)], 9.0),
        ([(20, 500)], 9.0),
    ],
    ids=["two keepalives", "data", "a response", "a keepalive of a new handshake", "a handshake"],
)
def test_answers_mend_a_broken_peer(after: list[tuple[int, int]], handshake: float) -> None:
    broken = followed((0, 500, 700), (2, 500, 900), (14, 500, 1000))
    assert broken.broken_for is not None
    for at, received in after:
        assert broken.broken_for is not None
        broken = follow(broken, Reading(at, received, 1100, handshake))
    assert broken.broken_for is None


def test_nobody_trying_any_more_is_idle() -> None:
    sent = 700 + DATA
    readings = [(0.0, 500, 700), *((float(at), 500, sent) for at in range(2, 200, 2))]
    seen = [followed(*readings[:n]).broken_for for n in range(1, len(readings))]
    broken = [seconds for seconds in seen if seconds is not None]
    assert broken[0] == pytest.approx(ANSWER_S, abs=STATUS_S)
    assert broken[-1] <= REKEY_ATTEMPT_S
    assert seen[-1] is None


@given(
    sizes=st.lists(st.integers(2, 90).map(lambda blocks: 16 * blocks), min_size=1, max_size=30),
    initiations=st.integers(0, 3),
)
def test_data_are_told_from_initiations(sizes: list[int], initiations: int) -> None:
    """Data of any size, with initiations beside them, are an answer."""
    received = sum(sizes) + initiations * INITIATION
    assert followed((0, 500, 700), (2, 500, 900), (14, 500 + received, 1300)).broken_for is None


@pytest.mark.parametrize(
    ("age", "broken", "named"),
    [
        (None, None, "idle"),
        (0.0, None, "connected"),
        (REJECT_AFTER_S - 0.1, None, "connected"),
        (float(REJECT_AFTER_S), None, "idle"),
        (5.0, 11.0, "broken"),
        (None, 11.0, "broken"),
    ],
)
def test_state_by_handshake_and_silence(age: float | None, broken: float | None, named: str) -> None:
    assert state(age, broken) == named


@given(
    block=st.floats(20, 30),
    offset=st.floats(0, STATUS_S),
    every=st.floats(0.05, 1.0),
)
def test_broken_path_is_seen_within_fifteen_seconds(block: float, offset: float, every: float) -> None:
    """A conversation that is cut off: whatever the time between cut and reading."""

    def reading(at: float) -> Reading:
        answered = int(min(at, block) / every)
        tries = int((at - block) / REKEY_TIMEOUT_S) if at > block else 0
        return Reading(at, 100 * answered, 100 * int(at / every) + tries * INITIATION, 0.0)

    health, at = None, offset
    while health is None or health.broken_for is None:
        health, at = follow(health, reading(at)), at + STATUS_S
        assert at < 100
    assert health.last.at >= block
    assert health.last.at - block <= 15 + every


@given(
    gaps=st.lists(st.floats(0.05, 40), min_size=1, max_size=20),
    round_s=st.floats(STATUS_S, 10),
)
def test_one_way_traffic_is_never_broken(gaps: list[float], round_s: float) -> None:
    """Datagrams that nobody answers: WireGuard does, by a keepalive 10 s after the first since it last sent."""
    sends, answers = [100.0], list[float]()
    for gap in gaps:
        sends.append(sends[-1] + gap)
    for at in sends:
        if not answers or at > answers[-1]:
            answers.append(at + KEEPALIVE_TIMEOUT_S + 0.3)

    def reading(at: float) -> Reading:
        sent, heard = sum(each <= at for each in sends), sum(each <= at for each in answers)
        return Reading(at, 500 + KEEPALIVE_BYTES * heard, 700 + DATA * sent, 0.0)

    health, at = None, 99.0
    while at < sends[-1] + 30:
        health = follow(health, reading(at))
        assert health.broken_for is None
        at += round_s
    assert all(one < other for one, other in pairwise(sends))
