"""The link graph: who is whose peer, what resolves to whom, and that no damaged record breaks rule 1."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import keyspace
from mesh.addresses import pick_address, pick_port
from mesh.errors import Terminal
from mesh.graph import KEEPALIVE, Graph, desired, device_name, index
from mesh.keys import PublicKey
from mesh.labels import LinkLabel
from mesh.records import Cluster, Endpoint, Record, Service, Versioned
from mesh.snapshot import Snapshot
from mesh.wgtypes import HostEntry, InterfaceConfig, UdpEndpoint
from tests.unit.swarm_world import private_key

CLUSTER = Cluster("cluster", IPv4Network("10.1.0.0/16"))
NAMES = ("a", "b", "c")


def service(found: str, name: str, *links: tuple[str, str]) -> Service:
    labels = tuple(LinkLabel(provider, tuple(aliases.split())) for provider, aliases in links)
    return Service(found, name, IPv4Address("10.1.9.9"), labels, (), strict=True, dnsrr=False)


def endpoint(found: str, task: str, number: int, *, ready: bool = True, key: int | None = None) -> Endpoint:
    return Endpoint(
        service=found,
        task=task,
        slot=number,
        node="n1",
        address=IPv4Address("10.1.0.0") + number,
        public_key=PublicKey((key or number).to_bytes(32, "little")),
        epoch=0,
        underlay=UdpEndpoint(IPv4Address("192.0.2.1"), 51820 + number),
        ready=ready,
    )


def graph(*records: Record, complete: bool = True) -> Graph:
    found = {keyspace.key_of(record): Versioned(record, n) for n, record in enumerate(records, 1)}
    return index(Snapshot(len(found), complete, found))


def config(made: Graph, task: str) -> InterfaceConfig:
    found = desired(made, made.by_task[task], private_key(1), 1420)
    assert found is not None
    return found


def peers(made: Graph, task: str) -> set[str]:
    return {peer.task for peer in made.peers(made.by_task[task])}


# --- examples


def test_a_link_makes_peers_of_both_sides_and_of_nobody_else() -> None:
    made = graph(
        service("A", "a", ("b", "db")),
        service("B", "b"),
        service("C", "c", ("b", "db")),
        *(endpoint("A", "a1", 1), endpoint("A", "a2", 2), endpoint("B", "b1", 3), endpoint("C", "c1", 4)),
    )
    assert peers(made, "a1") == peers(made, "a2") == peers(made, "c1") == {"b1"}
    assert peers(made, "b1") == {"a1", "a2", "c1"}


def test_a_link_to_itself_joins_a_services_replicas() -> None:
    made = graph(CLUSTER, service("A", "a", ("a", "others")), *(endpoint("A", f"a{n}", n) for n in (1, 2, 3)))
    assert peers(made, "a1") == {"a2", "a3"}
    assert [entry.address for entry in config(made, "a1").hosts] == [IPv4Address(f"10.1.0.{n}") for n in (1, 2, 3)]


def test_without_a_cluster_or_a_service_nothing_is_meant() -> None:
    a1 = endpoint("A", "a1", 1)
    for records in ((service("A", "a"), a1), (CLUSTER, a1)):
        made = graph(*records)
        assert desired(made, a1, private_key(1), 1420) is None
        assert made.peers(a1) == ()
    assert not graph(complete=False).complete


def test_an_interface_is_all_that_its_task_needs() -> None:
    made = graph(
        CLUSTER,
        service("A", "a", ("b", "db database")),
        service("B", "b"),
        *(endpoint("A", "a1", 1), endpoint("B", "b2", 3, ready=False), endpoint("B", "b1", 2)),
    )
    found = config(made, "a1")
    assert (found.name, found.listen_port, found.mtu) == (device_name("a1"), 51821, 1420)
    assert (found.address, found.routes) == (IPv4Interface("10.1.0.1/32"), (CLUSTER.subnet,))
    assert [(peer.public_key, peer.endpoint, peer.allowed_ips, peer.keepalive) for peer in found.peers] == [
        (e.public_key, e.underlay, frozenset({IPv4Network(e.address)}), KEEPALIVE)
        for e in (made.by_task["b1"], made.by_task["b2"])
    ], "also one that is not ready: what is open stays open"
    assert found.hosts == (HostEntry(IPv4Address("10.1.0.2"), ("db", "database")),)
    assert config(made, "b1").hosts == ()


def test_names_are_those_of_ready_tasks_in_the_order_of_addresses() -> None:
    records = (CLUSTER, service("A", "a", ("b", "db"), ("c", "db cache")), service("B", "b"), service("C", "c"))
    tasks = (endpoint("A", "a1", 1), endpoint("B", "zz", 2), endpoint("B", "b2", 9), endpoint("C", "c1", 5))
    expected = [("10.1.0.2", ("db",)), ("10.1.0.5", ("db", "cache")), ("10.1.0.9", ("db",))]
    for order in (tasks, tasks[::-1]):
        found = config(graph(*records, *order), "a1").hosts
        assert [(str(entry.address), entry.names) for entry in found] == expected
    none = graph(*records, tasks[0], *(endpoint(e.service, e.task, e.slot, ready=False) for e in tasks[1:]))
    assert config(none, "a1").hosts == ()


def test_two_services_of_one_name_are_both_the_provider_for_a_moment() -> None:
    made = graph(
        CLUSTER,
        service("A", "a", ("b", "db")),
        service("B1", "b"),
        service("B2", "b"),
        *(endpoint("A", "a1", 1), endpoint("B1", "old", 2), endpoint("B2", "new", 3)),
    )
    assert made.by_name["b"] == ("B1", "B2")
    assert peers(made, "a1") == {"old", "new"}
    assert peers(made, "old") == peers(made, "new") == {"a1"}
    assert len(config(made, "a1").hosts) == 2


@pytest.mark.parametrize("shared", ["address", "key", "task"])
def test_of_two_that_claim_the_same_neither_is_wired_and_it_is_said(shared: str) -> None:
    one = endpoint("B", "b1", 2)
    two = {
        "address": endpoint("B", "b2", 2, key=3),
        "key": endpoint("B", "b2", 3, key=2),
        "task": endpoint("C", "b1", 3),
    }[shared]
    records = (CLUSTER, service("A", "a", ("b", "db"), ("c", "db")), service("B", "b"), service("C", "c"))
    made = graph(*records, endpoint("A", "a1", 1), one, two, endpoint("B", "b3", 4))
    assert peers(made, "a1") == {"b3"}
    assert made.by_task.keys() == {"a1", "b3"}
    assert len(made.problems) == 2
    assert all(problem.endswith(": neither is wired") for problem in made.problems)
    assert {problem.split()[1].rstrip(":") for problem in made.problems} == {one.task, two.task}


def test_a_device_name_fits_and_is_a_tasks_own() -> None:
    assert device_name("0snoqx7v3rxecagijj0u79rkc") == "lw0snoqx7v3rxe"
    assert len(device_name("0SNOQX7V3RXECAGIJJ0U79RKC")) <= 15
    assert device_name("0SNO") == "lw0sno"


# --- any records

links = st.lists(st.sampled_from(NAMES), max_size=3, unique=True)
services = st.dictionaries(st.sampled_from(["A", "B", "C", "D"]), st.tuples(st.sampled_from(NAMES), links))
places = st.lists(
    st.tuples(st.sampled_from("ABCDE"), st.integers(1, 12), st.integers(1, 12), st.booleans()), max_size=12
)


@settings(deadline=None)
@given(services, places, st.randoms(use_true_random=False), st.booleans())
def test_for_any_records(
    found: dict[str, tuple[str, list[str]]],
    tasks: list[tuple[str, int, int, bool]],
    random: object,
    damaged: bool,
) -> None:
    records: list[Record] = [CLUSTER]
    records += [service(s, name, *((p, f"to-{p}") for p in its)) for s, (name, its) in found.items()]
    if damaged:
        records += [endpoint(s, f"t{n}", a, ready=r, key=k) for n, (s, a, k, r) in enumerate(tasks)]
    else:
        records += [endpoint(s, f"t{n}", n + 1, ready=r) for n, (s, _, _, r) in enumerate(tasks)]
    made = graph(*records)
    check_rule_1(made)
    check_links(made, found)
    getattr(random, "shuffle")(records)  # noqa: B009 - Hypothesis does not say its type
    again = graph(*records)
    assert again.problems == made.problems
    assert {t: _interface(again, t) for t in again.by_task} == {t: _interface(made, t) for t in made.by_task}


def _interface(made: Graph, task: str) -> InterfaceConfig | None:
    return desired(made, made.by_task[task], private_key(1), 1420)


def check_rule_1(made: Graph) -> None:
    """No address and no key is twice among a device's peers, nor its own among them."""
    for own in made.by_task.values():
        both = (own, *made.peers(own))
        for values in ([e.address for e in both], [e.public_key for e in both]):
            assert max(Counter(values).values()) == 1


def check_links(made: Graph, found: dict[str, tuple[str, list[str]]]) -> None:
    """Peers are exactly those over a link, and each is the other's; names are exactly the ready ones."""
    for one in made.by_task.values():
        its_peers = peers(made, one.task)
        for other in made.by_task.values():
            linked = one.service in found and other.service in found
            if linked:
                (name, its), (other_name, others) = found[one.service], found[other.service]
                linked = other_name in its or name in others
            assert (other.task in its_peers) == (linked and other.task != one.task)
            assert (other.task in its_peers) == (one.task in peers(made, other.task))
        interface = _interface(made, one.task)
        if one.service not in found:
            assert interface is None
            continue
        assert interface is not None
        names = {(entry.address, name) for entry in interface.hosts for name in entry.names}
        assert names == {
            (other.address, f"to-{found[other.service][0]}")
            for other in made.by_task.values()
            if other.ready and other.service in found and found[other.service][0] in found[one.service][1]
        }


# --- addresses and ports


@given(st.integers(24, 32), st.sets(st.integers(0, 255)), st.text(max_size=5))
def test_an_address_is_free_and_never_the_first_or_last(prefix: int, taken: set[int], hint: str) -> None:
    subnet = IPv4Network(("10.1.0.0", prefix))
    held = {IPv4Address("10.1.0.0") + n for n in taken}
    free = set(subnet) - held - {subnet.network_address, subnet.broadcast_address}
    if free:
        found = pick_address(subnet, held, hint)
        assert found in free
        assert pick_address(subnet, held, hint) == found
    else:
        with pytest.raises(Terminal, match=f"of {subnet} are taken: give the controller a larger --subnet"):
            pick_address(subnet, held, hint)


@given(st.integers(1, 65535), st.integers(0, 20), st.sets(st.integers(0, 20)), st.text(max_size=5))
def test_a_port_is_free_and_of_the_range(first: int, more: int, taken: set[int], hint: str) -> None:
    last = min(first + more, 65535)
    held = {first + n for n in taken}
    free = set(range(first, last + 1)) - held
    if free:
        assert pick_port(first, last, held, hint) in free
        assert pick_port(first, last, held, hint) == pick_port(first, last, held, hint)
    else:
        with pytest.raises(Terminal, match="of the node are taken: widen its agent's --ports"):
            pick_port(first, last, held, hint)


def test_hints_spread_over_the_subnet() -> None:
    subnet = IPv4Network("10.1.0.0/16")
    assert len({pick_address(subnet, (), f"task/{n}") for n in range(1000)}) > 950


@pytest.mark.parametrize(("first", "last"), [(10, 9), (0, 0), (-5, 5), (65536, 65536), (1, 70000)])
def test_a_range_that_is_none_is_an_error(first: int, last: int) -> None:
    with pytest.raises(Terminal, match=f"{first}-{last} is not a range of UDP ports"):
        pick_port(first, last, (), "")
