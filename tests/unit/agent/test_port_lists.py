"""Bounds of port lists: the most is kept, who was there stays, and who asks for little comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.firewall import port_lists
from agent.firewall.port_lists import Bounds, shared_name
from agent.firewall.ruleset import render
from mesh.model.labels.ports import PortRange
from mesh.topology.policy import Allow, Policy
from tests.support.policies import SUBNET, SUBNET6, address, policies
from tests.unit.agent.test_rules_judged import test_every_packet_meets_its_policys_verdict

judged = test_every_packet_meets_its_policys_verdict.hypothesis.inner_test  # type: ignore[attr-defined]
NOTHING = Policy(SUBNET, SUBNET6)


def ports(count: int, first: int = 1) -> tuple[PortRange, ...]:
    return tuple(PortRange("tcp", port, port) for port in range(first, first + 2 * count, 2))


def allowing(**lists: tuple[PortRange, ...] | None) -> Policy:
    inbound = (Allow(service, (address(n),), lists[service]) for n, service in enumerate(sorted(lists), 1))
    return replace(NOTHING, inbound=tuple(inbound))


def services(policy: Policy | None) -> list[str]:
    return [allow.service for allow in policy.inbound] if policy is not None else []


@pytest.fixture(autouse=True)
def _ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_lists, "MOST_RANGES", 10)
    monkeypatch.setattr(port_lists, "FEW_RANGES", 4)


def test_what_fits_is_left_alone() -> None:
    policy = allowing(a=ports(5), b=ports(5, 100), c=None)
    bounds = Bounds()
    assert bounds.within(policy, None, 0) is policy
    assert bounds.problem() is None


def test_longest_lists_are_left_out_first() -> None:
    bounds = Bounds()
    policy = allowing(a=ports(9), b=ports(3), c=ports(4, 100), d=None)
    assert services(bounds.within(policy, None, 0)) == ["b", "c", "d"]
    assert bounds.left_out == ("a",)
    assert "links from 1 services are refused (a): all port lists" in str(bounds.problem())


def test_who_was_there_stays() -> None:
    before = allowing(a=ports(9))
    policy = allowing(a=ports(9), b=ports(3), c=ports(1))
    assert services(Bounds().within(policy, before, 0)) == ["a", "c"]
    changed = allowing(a=ports(9, 3), b=ports(3), c=ports(1))
    assert services(Bounds().within(changed, before, 0)) == ["b", "c"]


def test_equal_lists_count_once() -> None:
    policy = allowing(a=ports(9), b=ports(9), c=ports(9), d=ports(1), e=ports(2))
    assert services(Bounds().within(policy, None, 0)) == ["d", "e"]
    policy = allowing(a=ports(9), b=ports(9), c=ports(9), d=ports(1))
    assert services(Bounds().within(policy, None, 0)) == ["a", "b", "c", "d"]


def test_refused_newcomers_are_left_out_for_a_while() -> None:
    bounds, before = Bounds(), allowing(a=ports(2))
    policy = allowing(a=ports(2), b=ports(1))
    assert services(bounds.fewer(policy, before, "too large", 0)) == ["a"]
    assert services(bounds.within(policy, before, 1)) == ["a"]
    assert bounds.problem() == "links from 1 services are refused (b): too large"
    others = allowing(a=ports(2), b=ports(1, 7), c=None)
    assert services(bounds.within(others, before, 1)) == ["a", "b", "c"], "with other ports it is another one"
    assert services(bounds.within(policy, before, port_lists.AGAIN_S)) == ["a", "b"]
    assert bounds.problem() is None


def test_refused_list_leaves_ports_that_it_had() -> None:
    """A provider that exposes more than its rules can hold: its consumers go on as before, no port for too long."""
    bounds, before = Bounds(), allowing(a=ports(2), b=ports(1), c=None)
    policy = allowing(a=ports(4), b=ports(2, 9), c=ports(1))
    kept = bounds.fewer(policy, before, "too large", 0)
    assert kept == allowing(a=ports(2)), "b's and c's are no longer to be open"
    assert bounds.problem() == (
        "links from 2 services are refused (b, c), links from 1 services keep the ports that they had (a): too large"
    )
    assert bounds.within(policy, kept, 1) == kept
    assert bounds.fewer(kept, kept, "too large", 1) is None, "it ends"
    assert bounds.within(policy, kept, port_lists.AGAIN_S) == policy
    assert bounds.problem() is None


def test_refusal_for_nobodys_sake_leaves_nothing_out() -> None:
    policy = allowing(a=ports(2))
    assert Bounds().fewer(policy, policy, "owned", 0) is None
    assert Bounds().fewer(policy, None, "owned", 0) is None


def test_unwired_task_starts_with_short_lists() -> None:
    policy = allowing(a=ports(5), b=ports(1))
    assert services(Bounds().fewer(policy, None, "too large", 0)) == ["b"]


@given(policies(), policies())
def test_bounded_is_bounded_and_stable(policy: Policy, before: Policy) -> None:
    bounds = Bounds()
    with pytest.MonkeyPatch.context() as few:  # so few that most of these policies have more
        few.setattr(port_lists, "MOST_RANGES", 3)
        kept = bounds.within(policy, before, 0)
        assert sum({allow.ports: len(allow.ports or ()) for allow in kept.inbound}.values()) <= 3
        assert sorted({*services(kept), *bounds.left_out}) == sorted(services(policy))
        assert bounds.within(policy, kept, 0) == kept


@given(st.lists(st.integers(1, 40), unique=True, min_size=1))
def test_equal_lists_have_one_name(first: list[int]) -> None:
    some = tuple(PortRange("udp", port * 3, port * 3) for port in first)
    assert shared_name(some) == shared_name(tuple(sorted(some)))
    assert (shared_name(some) is None) == (len(some) <= port_lists.INLINE)


@given(policies(), st.integers(0, 1 << 32))
def test_shared_lists_judge_as_others_do(policy: Policy, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(port_lists, "INLINE", 0)
        judged(policy, seed)


def test_shared_list_is_rendered_once() -> None:
    long = ports(9)
    rules = render(allowing(a=long, b=long, c=ports(2)), "lw0")
    name = shared_name(long)
    assert sum(f'"chain":"open_{name}"' in text and '"dport"' in text for text in rules) == 1
    assert sum(f'"jump":{{"target":"open_{name}"}}' in text for text in rules) == 2
