"""A controller that leads is lost in each way: another writes within seconds, and nothing is written by both.

Two processes, a real etcd. What cuts one off is the proxy before its etcd, and the Docker that it asks. The short
form has shorter times; LINKWIRE_CHAOS=long has the real ones, and more faults.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.model.keyspace import ROOT
from tests.store.faulty_swarm import NO_LEADER
from tests.store.two_controllers import SILENCE_S, Candidate, Pair, Place, pair, place
from tests.store.waiting import until
from tests.support.effort import LONG, of_long_form

Figure = Callable[[str], None]

ANEW = "vault of link keys: begun anew"
WITHIN_S = SILENCE_S + 4.0
HANGS_S = 20.0
"""Seconds that a controller waits for an answer of Docker's."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("failover")) as found:
        yield found


@pytest.fixture
def two(shared: Place, tmp_path: Path) -> Iterator[Pair]:
    with pair(shared, tmp_path) as found:
        before = found.second.said(ANEW)
        yield found
        assert found.history.wrong() == []
        assert found.second.said(ANEW) == before, "it opens the vault: no key changes by a fail-over"


def stopped(first: Candidate) -> Callable[[], None]:
    first.stop()
    return first.go_on


def frozen(first: Candidate) -> Callable[[], None]:
    """Packets to etcd and back go nowhere, as behind a firewall that drops."""
    first.way.freeze()
    return first.way.thaw


def refused(first: Candidate) -> Callable[[], None]:
    """Its connections to etcd end, and no new one is taken."""
    first.way.cut()
    return first.way.heal


def without_others(first: Candidate) -> Callable[[], None]:
    """Its manager has lost the others, and says so."""
    first.docker.refusal = NO_LEADER

    def heal() -> None:
        first.docker.refusal = None

    return heal


def without_answers(first: Candidate) -> Callable[[], None]:
    """Its Docker hangs."""
    first.docker.answers.clear()
    return first.docker.answers.set


def from_both(first: Candidate) -> Callable[[], None]:
    heals = without_others(first), frozen(first)

    def heal() -> None:
        for one in heals:
            one()

    return heal


def dead(first: Candidate) -> Callable[[], None]:
    first.process.kill()
    return first.process.start


@pytest.mark.parametrize(
    ("fault", "within"),
    [
        pytest.param(stopped, WITHIN_S, id="stopped"),
        pytest.param(without_others, WITHIN_S, id="from Swarm"),
        pytest.param(from_both, WITHIN_S, id="from both"),
        of_long_form(dead, WITHIN_S),
        of_long_form(frozen, WITHIN_S),
        of_long_form(refused, WITHIN_S),
        of_long_form(without_answers, WITHIN_S + HANGS_S),
    ],
)
def test_another_writes_and_the_first_follows(
    two: Pair, fault: Callable[[Candidate], Callable[[], None]], within: float, figure: Figure
) -> None:
    heal = fault(two.first)
    task = two.start_task()
    took = two.seconds_until_written(task, within)
    assert two.leader() == "second"
    heal()
    healed = time.monotonic()
    later = two.start_task()
    again = two.seconds_until_written(later, 5.0)
    time.sleep(2 * SILENCE_S)  # what it had begun, and what it would do by itself
    assert two.history.wrong() == []
    assert not LONG or two.leader() == "second", "who comes back stands by; two seconds are soon silence here"
    figure(
        f"{fault.__name__}: another wrote after {took:.1f} s; healed, a write took {again:.2f} s, and in the"
        f" {time.monotonic() - healed:.0f} s since none was wrong or double"
    )


def test_write_in_flight_of_an_old_leader_fails(two: Pair, figure: Figure) -> None:
    """Its whole transaction is on the wire when it is stopped, and reaches etcd while another leads.

    Its own manager alone has the task. So nothing of the other's stands in its way, but the fence.
    """
    two.first.wait_idle()
    two.first.way.freeze()
    task = two.start_task(two.first)
    sent = f"{ROOT}endpoints/#web/{task}".encode()
    until(lambda: sent in b"".join(list(two.first.way.held)), 4)
    two.first.stop()
    began = time.monotonic()
    until(lambda: two.leader() == "second", WITHIN_S)
    two.first.way.thaw()
    time.sleep(1.0)
    two.first.go_on()
    until(lambda: two.first.said("leadership lost"), 10)
    time.sleep(1.0)
    assert [write for write in two.history.writes() if task in write.key] == [], "an old leader wrote"
    assert two.leader() == "second"
    figure(f"another led {time.monotonic() - began:.1f} s later; a transaction on the wire: refused, 0 writes of it")


def test_without_any_manager_nobody_leads(two: Pair, figure: Figure) -> None:
    """No majority of managers: nothing is written, and the first that has its Swarm again leads."""
    heals = [without_others(one) for one in (two.first, two.second)]
    task = two.start_task()
    until(lambda: not two.leader(), WITHIN_S)
    signs = two.history.signs()
    time.sleep(2 * SILENCE_S)
    assert not two.leader()
    assert two.history.signs() == signs
    heals[1]()
    took = two.seconds_until_written(task, WITHIN_S)
    assert two.leader() == "second"
    figure(f"managers without a majority: 0 writes; {took:.1f} s after it was back, a controller wrote")
