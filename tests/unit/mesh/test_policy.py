"""What may pass between tasks, at both ends of every link, against what the links themselves say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.model.labels.ports import PortRange
from mesh.model.records import Record, Service
from mesh.topology.link_graph import LinkGraph
from mesh.topology.policy import Allow, Balance, Policy
from tests.support.link_graphs import CLUSTER, config, endpoint, graph, ports, service, vip

ALL = None
PROBES = tuple(product(("tcp", "udp"), (1, 79, 80, 81, 82, 83, 99, 443, 65535)))
"""Protocol and port: both ends of the ranges that are used below, and what is beside them."""


def policy(made: LinkGraph, task: str) -> Policy:
    return config(made, task).policy


def two(*links: tuple[str, ...], expose: str | None = None, to_b: tuple[str, ...] | None = None) -> LinkGraph:
    """Services `a` and `b` with two tasks each, one of `b`'s not ready."""
    back = () if to_b is None else (to_b,)
    return graph(
        CLUSTER,
        service("A", "a", *links),
        service("B", "b", *back, expose=expose),
        *(
            endpoint("A", "a1", 1),
            endpoint("A", "a2", 2),
            endpoint("B", "b1", 3),
            endpoint("B", "b2", 4, ready=False),
        ),
    )


def addresses(*numbers: int) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address("10.1.0.0") + number for number in numbers)


# --- one rule at a time


@pytest.mark.parametrize(
    ("link", "expose", "expected"),
    [
        ("", None, ALL),
        ("", "", ""),
        ("", "5432", "5432"),
        ("80", None, "80"),
        ("80", "", "80"),
        ("80,8000-8010/udp", "5432", "80,8000-8010/udp"),
        ("81,80,82/udp", None, "80-81,82/udp"),
    ],
)
def test_ports_come_from_link_then_expose_then_all(link: str, expose: str | None, expected: str | None) -> None:
    made = two(("b", "db", link), expose=expose)
    found = None if expected is None else ports(expected)
    for task in ("a1", "a2"):
        assert policy(made, task).outbound == (Allow("B", addresses(3, 4), found),), "also to one that is not ready"
        assert policy(made, task).inbound == ()
    for task in ("b1", "b2"):
        assert policy(made, task).inbound == (Allow("A", addresses(1, 2), found),)
        assert policy(made, task).outbound == ()


def test_links_both_ways_have_ports_of_their_own() -> None:
    made = two(("b", "db", "80"), to_b=("a", "web", "443/udp"))
    assert policy(made, "a1").outbound == (Allow("B", addresses(3, 4), ports("80")),)
    assert policy(made, "a1").inbound == (Allow("B", addresses(3, 4), ports("443/udp")),)
    assert policy(made, "b2").inbound == (Allow("A", addresses(1, 2), ports("80")),)
    assert policy(made, "b2").outbound == (Allow("A", addresses(1, 2), ports("443/udp")),)


def test_self_link_joins_replicas_and_answers_own_vip() -> None:
    made = two(("a", "peers", "80"))
    found = policy(made, "a1")
    assert found.outbound == found.inbound == (Allow("A", addresses(2), ports("80")),), "no task is its own peer"
    assert found.balance == (Balance(vip("A"), addresses(1, 2), "A"),)
    assert policy(made, "b1").outbound == policy(made, "b1").inbound == ()


def test_same_named_services_are_providers_with_own_expose() -> None:
    made = graph(
        CLUSTER,
        service("A", "a", ("b", "db")),
        service("B2", "b", expose="5432"),
        service("B1", "b", expose=""),
        *(endpoint("A", "a1", 1), endpoint("B1", "old", 2, ready=False), endpoint("B2", "new", 3)),
    )
    assert policy(made, "a1").outbound == (Allow("B1", addresses(2), ()), Allow("B2", addresses(3), ports("5432")))
    assert policy(made, "old").inbound == (Allow("A", addresses(1), ()),)
    assert policy(made, "new").inbound == (Allow("A", addresses(1), ports("5432")),)
    assert policy(made, "a1").balance == (Balance(vip("B1"), (), "B1"), Balance(vip("B2"), addresses(3), "B2"))


def test_two_links_to_one_provider_allow_both() -> None:
    assert policy(two(("b", "x", "80"), ("b", "y", "81")), "a1").outbound[0].ports == ports("80-81")
    assert policy(two(("b", "x", "80"), ("b", "y"), expose="443"), "a1").outbound[0].ports == ports("80,443")
    assert policy(two(("b", "x", "80"), ("b", "y")), "a1").outbound == (Allow("B", addresses(3, 4), ALL),)


def test_vip_spreads_over_ready_tasks_and_survives_none() -> None:
    a = service("A", "a", ("c", "x"), ("b", "y"), ("d", "z"))
    records = (CLUSTER, a, service("B", "b"), service("C", "c"))
    dnsrr = service("D", "d", dnsrr=True)
    tasks = (endpoint("B", "b9", 9), endpoint("B", "b8", 10, ready=False), endpoint("B", "b7", 100))
    made = graph(*records, dnsrr, endpoint("A", "a1", 1), endpoint("D", "d1", 2), *tasks)
    swapped = (replace(records[2], vip=vip("C")), replace(records[3], vip=vip("B")))
    by_vip = graph(*records[:2], *swapped, endpoint("A", "a1", 1), *tasks)
    assert policy(by_vip, "a1").balance == (Balance(vip("B"), (), "C"), Balance(vip("C"), addresses(9, 100), "B"))
    assert policy(made, "a1").balance == (
        Balance(vip("B"), addresses(9, 100), "B"),
        Balance(vip("C"), (), "C"),
        Balance(vip("D"), addresses(2), "D"),
    ), "also with dnsrr"
    assert policy(made, "b9").balance == ()
    assert {allow.service: allow.peers for allow in policy(made, "a1").outbound} == {
        "B": addresses(9, 10, 100),
        "C": (),
        "D": addresses(2),
    }


# --- any links


@dataclass(frozen=True)
class Link:
    provider: str
    ports: str


@dataclass(frozen=True)
class Drawn:
    """What an oracle needs to know of a service; its name is the lower-case first letter of its id."""

    links: tuple[Link, ...]
    expose: str | None
    dnsrr: bool


some_ports = st.sampled_from(["80", "80-82", "82-99/udp", "443/udp,80", "1,65535/udp", "1-65535,1-65535/udp"])
links = st.lists(
    st.builds(Link, st.sampled_from("abcd"), st.just("") | some_ports),
    max_size=3,
    unique_by=lambda link: link.provider,
).map(tuple)
drawn = st.builds(Drawn, links, st.none() | st.just("") | some_ports, st.booleans())
meshes = st.dictionaries(st.sampled_from(["A", "B", "C", "C2", "D"]), drawn, min_size=1)
tasks_of = st.lists(st.tuples(st.sampled_from(["A", "B", "C", "C2", "D"]), st.booleans()), max_size=8)


def covers(texts: str, protocol: str, port: int) -> bool:
    """Whether a text like `80,82-99/udp` names a port: read here, and not by PortRange."""
    for text in texts.split(","):
        span, _, named = text.partition("/")
        first, _, last = span.partition("-")
        if text and (named or "tcp") == protocol and int(first) <= port <= int(last or first):
            return True
    return False


def may_open(found: dict[str, Drawn], consumer: str, provider: str, protocol: str, port: int) -> bool:
    """The links themselves: does one service link to the other, and on this port?"""
    for link in found[consumer].links:
        if link.provider == provider[0].lower():
            exposed = found[provider].expose
            named = link.ports or exposed
            return named is None or covers(named, protocol, port)
    return False


def allows(allowed: tuple[Allow, ...], service_id: str, address: IPv4Address, probe: tuple[str, int]) -> bool:
    """Whether a policy lets pass what it takes to a service's task, or from it, and as whose it counts it."""
    found = [allow for allow in allowed if address in allow.peers]
    assert all(allow.service == service_id for allow in found)
    assert len(found) <= 1
    return any(allow.ports is None or _has(allow.ports, *probe) for allow in found)


def _has(ranges: tuple[PortRange, ...], protocol: str, port: int) -> bool:
    return any(one.protocol == protocol and one.first <= port <= one.last for one in ranges)


@settings(deadline=None)
@given(meshes, tasks_of)
@example({"A": Drawn((Link("b", ""),), None, False), "B": Drawn((), None, False)}, [("A", True), ("B", True)])
@example({"A": Drawn((Link("a", "80"),), None, False)}, [("A", True), ("A", False)])
def test_both_ends_allow_exactly_the_links(found: dict[str, Drawn], tasks: list[tuple[str, bool]]) -> None:
    records: list[Record] = [CLUSTER, *(_record(one, its) for one, its in found.items())]
    made = graph(*records, *(endpoint(s, f"t{n}", n, ready=ready) for n, (s, ready) in enumerate(tasks, 1)))
    wired = [e for e in made.by_task.values() if e.service in found]
    policies = {e.task: policy(made, e.task) for e in wired}
    for one, other in product(wired, wired):
        for probe in PROBES:
            expected = one is not other and may_open(found, one.service, other.service, *probe)
            out = allows(policies[one.task].outbound, other.service, other.address, probe)
            into = allows(policies[other.task].inbound, one.service, one.address, probe)
            assert (out, into) == (expected, expected), (one.task, other.task, probe)
    for e in wired:
        check_peers_and_balance(made, e.task, policies[e.task], found, tasks)


def _record(found: str, its: Drawn) -> Service:
    labels = tuple((link.provider, f"to-{link.provider}", link.ports) for link in its.links)
    return service(found, found[0].lower(), *labels, expose=its.expose, dnsrr=its.dnsrr)


def check_peers_and_balance(
    made: LinkGraph, task: str, its: Policy, found: dict[str, Drawn], tasks: list[tuple[str, bool]]
) -> None:
    """Rules name exactly the device's peers, by service; VIPs are those of providers, over their ready tasks."""
    peers = {network.network_address for peer in config(made, task).peers for network in peer.allowed_ips}
    named = {address for allow in (*its.outbound, *its.inbound) for address in allow.peers}
    assert {address for address in peers if address.version == 4} == named
    for allowed in (its.outbound, its.inbound):
        assert [allow.service for allow in allowed] == sorted({allow.service for allow in allowed})
        assert all(list(allow.peers) == sorted(allow.peers) for allow in allowed)
    own = made.by_task[task].service
    providers = {link.provider for link in found[own].links}
    expected = {
        vip(one): [IPv4Address("10.1.0.0") + n for n, (s, ready) in enumerate(tasks, 1) if s == one and ready]
        for one in found
        if one[0].lower() in providers
    }
    assert {balance.vip: list(balance.backends) for balance in its.balance} == expected
    assert [balance.vip for balance in its.balance] == sorted(expected)
