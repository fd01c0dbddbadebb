"""A decision that found nothing to do is not made again before time or a change gives a reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from structlog.testing import capture_logs

from controller.decider import LEAST_S, Decider, Settling
from controller.index.baseline import WHOLE_S, Delta
from controller.plan_writer import PlanWriter
from controller.steps import EncryptionGoal
from controller.swarm.list_cache import ListCache
from controller.swarm.model import Swarm, SwarmChange, SwarmService
from controller.transactions import Packed
from mesh.crypto.signed_envelope import Signer
from mesh.diagnosis.steps import STARTING_S, is_lasting
from mesh.model.encryption.status import EncryptionStatus
from mesh.model.labels.absent_services import absent_text
from mesh.model.records import Address
from mesh.model.snapshot import Snapshot
from mesh.store.client import Store
from tests.support.signing import CLUSTER, RECORD_SIGNER, SIGNING_KEY
from tests.support.swarm_world import secret, service
from tests.unit.controller.test_baseline import STATUS, Stored

SWARM = ListCache().swarm(CLUSTER, ())


def fresh_decider(store: Store) -> Decider:
    return Decider(PlanWriter(store, secret), Signer(CLUSTER, SIGNING_KEY), IPv4Network("10.1.0.0/16"), 60)


@pytest.fixture
def decider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decider]:
    """It found nothing to do just now, and says so when it plans again; its store is never connected."""
    store = Store(["http://127.0.0.1:1"], RECORD_SIGNER)
    made = fresh_decider(store)
    monkeypatch.setattr(made, "_act_on", lambda *_: (Packed(problems=("planned",)), True))
    yield made
    store.close()


def planned(decider: Decider, stored: Snapshot) -> bool:
    plan, _ = decider.decide(stored, SWARM)
    return plan.problems == ("planned",)


def test_nothing_is_planned_before_a_key_is_due(decider: Decider) -> None:
    stored = Stored().snapshot()
    decider._idle.move(SWARM, stored, time.time())
    assert not planned(decider, stored)
    decider.due = int(time.time()) + 60
    assert not planned(decider, stored)
    assert decider.due is not None, "the loop wakes by it"
    decider.due = int(time.time()) - 1
    assert planned(decider, stored)


def test_a_new_term_plans_again(decider: Decider) -> None:
    stored = Stored().snapshot()
    decider._idle.move(SWARM, stored, time.time())
    decider.start_term()
    assert planned(decider, stored)


def test_alike_decisions_compare_only_what_came_since(decider: Decider) -> None:
    """Else the cost of a pass in an idle mesh grows with all statuses since the last decision."""
    stored = Stored()
    first, now = stored.snapshot(), time.time()
    decider._idle.move(SWARM, first, now)
    assert not planned(decider, stored.put(STATUS))
    later = stored.put(replace(STATUS, written=2.0))
    delta = decider._idle.delta(SWARM, later, now)
    assert delta is not None
    assert not planned(decider, later)
    assert decider._idle.delta(SWARM, later, now) == Delta(SwarmChange(), frozenset())
    assert decider._idle.delta(SWARM, later, now + WHOLE_S) is None, "a move of the baseline postpones no whole look"


def test_acknowledgements_have_an_awaiting_decider_plan(decider: Decider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status wakes nobody otherwise: while a step of node encryption waits for them, nodes' accounts do."""
    stored = Stored().snapshot()
    goals = [EncryptionGoal("prefer")]
    monkeypatch.setattr(decider, "_encryption_goal", lambda _: goals[-1])
    decider._goal = goals[-1]
    decider._idle.move(SWARM, stored, time.time())
    goals.append(EncryptionGoal("prefer", {"n1": EncryptionStatus(7, "accept", 2, 2, 0)}))
    assert not planned(decider, stored), "no step waits"
    decider._awaits = True
    assert planned(decider, stored)
    decider._idle.move(SWARM, stored, time.time())
    decider._goal = goals[-1]
    assert not planned(decider, stored)


def test_silence_and_rests_end_have_it_plan_again(decider: Decider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time alone brings both, and the store stays as it is."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    address = Address(IPv4Address("10.1.0.3"), None)
    stored = Stored().put(address)
    decider.observe(stored)
    decider._idle.move(SWARM, stored, time.time())
    decider.observe(stored)
    assert not planned(decider, stored)
    clock[0] += 60
    assert decider.due_in(clock[0]) == LEAST_S, "no busy loop, whoever leads"
    decider.observe(stored)
    assert planned(decider, stored)
    decider._idle.move(SWARM, stored, time.time())
    clock[0] -= 60
    monkeypatch.setattr(decider._resting, "due_in", lambda _: 1.0)
    decider.observe(stored)
    assert not planned(decider, stored)
    monkeypatch.setattr(decider._presence, "silent", lambda: frozenset({"n1"}))
    decider.observe(stored)
    assert planned(decider, stored)


def test_absent_provider_is_a_problem_once_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the log, the audit log and the metric alike: all have the problems that are open."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    store = Store(["http://127.0.0.1:1"], RECORD_SIGNER)
    decider, stored = fresh_decider(store), Stored().snapshot()

    def listed(web: SwarmService) -> Swarm:
        return Swarm(CLUSTER, {web.id: web}, {}, {})

    dangling = listed(service("shop_web", "shop_db"))
    decider.decide(stored, dangling)
    assert decider.problems.open == {}
    assert decider.due is not None
    assert STARTING_S - 1 < decider.due - time.time() < STARTING_S + 2, "the loop wakes by it"
    clock[0] += STARTING_S - 1
    with capture_logs() as logged:
        decider.decide(stored, dangling)
        assert decider.problems.open == {}
        clock[0] += 1
        decider.decide(stored, dangling)
        decider.decide(stored, listed(service("shop_web")))
    told = [(entry["event"], entry["reason"]) for entry in logged if "reason" in entry]
    text = absent_text("shop_web", "shop_db")
    assert told == [("problem found", text), ("problem solved", text)]
    store.close()


def test_unknown_age_is_a_long_one() -> None:
    assert [is_lasting(age) for age in (None, 0.0, STARTING_S - 0.1, STARTING_S)] == [True, False, False, True]


def test_problem_counts_once_it_lasts() -> None:
    settling = Settling()
    assert settling.due_in(0.0) is None
    assert settling.lasting(["a"], 100.0) == frozenset()
    assert settling.lasting(["a", "b"], 104.0) == frozenset()
    assert settling.due_in(104.0) == STARTING_S - 4
    assert settling.lasting(["a", "b"], 100.0 + STARTING_S) == {"a"}
    assert settling.due_in(100.0 + STARTING_S) == 4, "the next one's"
    assert settling.lasting(["a", "b"], 104.0 + STARTING_S) == {"a", "b"}
    assert settling.due_in(104.0 + STARTING_S) is None


def test_problem_that_comes_back_begins_anew() -> None:
    settling = Settling()
    settling.lasting(["a"], 100.0)
    settling.lasting([], 105.0)
    assert settling.due_in(105.0) is None
    assert settling.lasting(["a"], 100.0 + STARTING_S) == frozenset()
