"""The link graph: who is whose peer, what resolves to whom, and that no damaged record breaks rule 1."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.crypto.preshared_keys import LinkKeys, preshared_key
from mesh.errors import Terminal
from mesh.model.net import IPAddress
from mesh.model.records import Record, Service
from mesh.topology.desired import device_name, hosts
from mesh.topology.ipam import nobody, pick_address, pick_port, twin, ula
from mesh.topology.link_graph import LinkGraph
from mesh.topology.peer_cache import KEEPALIVE
from mesh.topology.policy import Balance
from mesh.topology.wgtypes import Answer, HostEntry, Route
from tests.support.link_graphs import CLUSTER, config, endpoint, graph, interface, service, vip
from tests.support.swarm_world import secret

NAMES = ("a", "b", "c")
NOBODY = str(nobody(CLUSTER.subnet))


def peers(made: LinkGraph, task: str) -> set[str]:
    return {peer.task for peer in made.peers(made.by_task[task])}


def both(address: str | IPv4Address) -> tuple[IPAddress, IPAddress]:
    return IPv4Address(address), twin(CLUSTER.subnet6, IPv4Address(address))


def names(made: LinkGraph, task: str) -> dict[str, tuple[str, ...]]:
    """IPv4 address -> its names; that each is followed by its twin is checked."""
    entries = config(made, task).hosts
    assert entries == hosts(made, made.by_task[task].service)
    for one, two in zip(entries[::2], entries[1::2], strict=True):
        assert (one.address, two.address) == both(str(one.address))
        assert one.names == two.names
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries[::2]:
        found[str(entry.address)] = (*found.get(str(entry.address), ()), *entry.names)
    return found


# --- examples


def test_link_makes_peers_of_its_sides_only() -> None:
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
    assert names(made, "a1") == {"10.1.9.1": ("others",)}


def test_without_cluster_or_service_nothing_is_desired() -> None:
    a1 = endpoint("A", "a1", 1)
    for records in ((service("A", "a"), a1), (CLUSTER, a1)):
        made = graph(*records)
        assert interface(made, "a1") is None
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
    assert (found.name, found.listen_port) == (device_name("a1"), 51821)
    assert found.addresses == (IPv4Interface("10.1.0.1/32"), IPv6Interface("fd12:3456:789a::a01:1/128"))
    assert [(peer.public_key, peer.endpoint, peer.allowed_ips, peer.keepalive) for peer in found.peers] == [
        (
            e.public_key,
            e.underlay,
            frozenset({IPv4Network(e.address), IPv6Network(f"fd12:3456:789a::a01:{e.slot}")}),
            KEEPALIVE,
        )
        for e in (made.by_task["b1"], made.by_task["b2"])
    ], "also one that is not ready: what is open stays open"
    assert found.hosts == (
        HostEntry(IPv4Address("10.1.9.2"), ("db", "database")),
        HostEntry(IPv6Address("fd12:3456:789a::a01:902"), ("db", "database")),
    )
    assert config(made, "b1").hosts == ()


@pytest.mark.parametrize(
    ("least", "device", "route"),
    [(8920, 8920, None), (1420, 1420, None), (1280, 1280, None), (1279, 1280, 1279), (1200, 1280, 1200)],
)
def test_ipv6_gets_its_minimum_mtu_ipv4_fits(least: int, device: int, route: int | None) -> None:
    made = graph(CLUSTER, service("A", "a"), endpoint("A", "a1", 1))
    found = config(made, "a1", mtu=least)
    assert found.mtu == device
    assert found.routes == (Route(CLUSTER.subnet, route), Route(CLUSTER.subnet6))


# --- silent agents


def test_silent_suspect_is_dropped_while_another_remains() -> None:
    suspect, other = replace(endpoint("B", "b1", 2), suspect=True), endpoint("B", "b2", 3)
    silent = frozenset({suspect.address, other.address})
    for endpoints, unreachable, expected in (
        ((suspect, other), frozenset[IPv4Address](), [suspect, other]),
        ((suspect, other), silent, [other]),  # of who is no suspect it does not matter
        ((suspect,), silent, [suspect]),
        ((suspect, replace(other, ready=False)), silent, [suspect]),
        ((suspect, replace(other, suspect=True)), silent, [suspect, other]),
        ((suspect, replace(other, suspect=True)), frozenset({other.address}), [suspect]),
        ((replace(suspect, suspect=False), other), silent, [suspect, other]),
    ):
        for dnsrr in (False, True):
            providers = (service("B", "b", dnsrr=dnsrr), *endpoints)
            made = graph(CLUSTER, service("A", "a", ("b", "db")), endpoint("A", "a1", 1), *providers)
            found = config(replace(made, unreachable=unreachable), "a1")
            assert list(found.policy.balance[0].backends) == [e.address for e in expected]
            assert found.policy.outbound[0].peers == tuple(e.address for e in endpoints), "what is open stays open"
            if dnsrr:
                assert {e.address for e in expected} < {entry.address for entry in found.hosts}


def test_suspects_of_a_task_are_its_providers() -> None:
    made = graph(
        CLUSTER,
        *(service("A", "a", ("b", "db"), ("a", "self")), service("B", "b"), service("C", "c", ("a", "x"))),
        *(replace(endpoint("A", f"a{n}", n), suspect=True) for n in (1, 2)),
        *(replace(endpoint("B", "b1", 3), suspect=True), endpoint("B", "b2", 4)),
        *(replace(endpoint("B", "b3", 5, ready=False), suspect=True), replace(endpoint("C", "c1", 6), suspect=True)),
    )
    assert made.suspects(made.by_task["a1"]) == {IPv4Address("10.1.0.2"), IPv4Address("10.1.0.3")}
    assert made.suspects(made.by_task["b1"]) == set()


# --- names


def test_name_leads_to_vip_of_provider_always() -> None:
    links = (("c", "cache store"), ("b", "db"), ("missing", "x"))
    records = (CLUSTER, service("A", "a", *links), service("B", "b"), service("C", "c"), endpoint("A", "a1", 1))
    expected = {"10.1.9.2": ("db",), "10.1.9.3": ("cache", "store"), NOBODY: ("x",)}
    for tasks in ((), (endpoint("B", "b1", 2),), (endpoint("B", "b1", 2, ready=False), endpoint("C", "c1", 3))):
        found = names(graph(*records, *tasks), "a1")
        assert found == expected
        assert list(found) == sorted(found, key=IPv4Address), "in the order of the addresses"


def test_dnsrr_name_leads_to_vip_then_ready_tasks() -> None:
    records = (CLUSTER, service("A", "a", ("b", "db sql")), service("B", "b", dnsrr=True), endpoint("A", "a1", 1))
    tasks = (endpoint("B", "zz", 9), endpoint("B", "b2", 10, ready=False), endpoint("B", "b1", 100))
    for order in (tasks, tasks[::-1]):
        made = graph(*records, *order)
        assert [(str(entry.address), entry.names) for entry in config(made, "a1").hosts] == [
            ("10.1.9.2", ("db", "sql")),
            ("10.1.0.9", ("db", "sql")),
            ("10.1.0.100", ("db", "sql")),
        ], "in IPv4 alone: a resolver would sort IPv6 by nearness, and take the same one each time"
    assert [str(entry.address) for entry in config(graph(*records), "a1").hosts] == ["10.1.9.2"], "which refuses"


def test_self_linked_dnsrr_names_itself_by_vip_only() -> None:
    """glibc sorts an address of its own before all others (RFC 6724, rule 9), and the task would take itself."""
    tasks = (endpoint("A", "a1", 1), endpoint("A", "a2", 2))
    made = graph(CLUSTER, service("A", "a", ("a", "peers"), dnsrr=True), *tasks)
    assert [str(entry.address) for entry in config(made, "a1").hosts] == ["10.1.9.1", "10.1.0.2"]
    assert config(made, "a1").policy.balance == (Balance(vip("A"), (tasks[0].address, tasks[1].address), "A"),)
    assert config(made, "a1").answers == (Answer("peers", (tasks[0].address, tasks[1].address), rotates=True),)


def test_dns_name_has_vip_in_both_families() -> None:
    services = (
        service("A", "a", ("b", "DB sql"), ("c", "cache db")),
        service("B", "b"),
        service("C", "c", dnsrr=True),
    )
    made = graph(CLUSTER, *services, endpoint("A", "a1", 1), endpoint("C", "c1", 7), endpoint("C", "c2", 8))
    vips = (IPv4Address("10.1.9.2"), IPv6Address("fd12:3456:789a::a01:902"))
    tasks = (IPv4Address("10.1.0.7"), IPv4Address("10.1.0.8"))
    assert config(made, "a1").answers == (
        Answer("cache", tasks, rotates=True),
        Answer("db", vips, rotates=False),
        Answer("sql", vips, rotates=False),
    )
    assert config(made, "a1").policy.resolving.names == ("cache", "db", "sql")
    nobody = graph(CLUSTER, *services, endpoint("A", "a1", 1))
    assert config(nobody, "a1").answers[0] == Answer("cache", (vip("C"),), rotates=True), "which refuses"


def test_name_claimed_twice_goes_to_first_link() -> None:
    made = graph(
        CLUSTER,
        service("A", "a", ("b", "db"), ("c", "DB cache"), ("d", "Db"), ("b", "more db")),
        *(service("B", "b"), service("C", "c"), service("D", "d"), endpoint("A", "a1", 1)),
    )
    assert names(made, "a1") == {"10.1.9.2": ("db", "more"), "10.1.9.3": ("cache",)}


def test_two_services_of_one_name_both_provide() -> None:
    def made(*, old: bool, new: bool) -> LinkGraph:
        return graph(
            CLUSTER,
            service("A", "a", ("b", "db")),
            service("B1", "b"),
            service("B2", "b"),
            *(endpoint("A", "a1", 1), endpoint("B1", "old", 2, ready=old), endpoint("B2", "new", 3, ready=new)),
        )

    assert made(old=True, new=True).by_name["b"] == ("B1", "B2")
    for old in (True, False):
        for new in (True, False):
            found = made(old=old, new=new)
            assert peers(found, "a1") == {"old", "new"}
            assert peers(found, "old") == peers(found, "new") == {"a1"}
            wanted = {str(vip(one)) for one, ready in (("B1", old), ("B2", new)) if ready or old == new}
            assert names(found, "a1").keys() == wanted, "the name leads to those that can answer, if any can"


def test_nobodys_address_is_given_to_nobody() -> None:
    taken = replace(endpoint("B", "b1", 2), address=nobody(CLUSTER.subnet))
    made = graph(CLUSTER, service("A", "a", ("b", "db")), service("B", "b"), endpoint("A", "a1", 1), taken)
    assert peers(made, "a1") == set()
    assert len(made.problems) == 1


# --- contradictory records


@pytest.mark.parametrize("shared", ["address", "key", "task"])
def test_conflicting_claims_wire_neither_and_are_reported(shared: str) -> None:
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


@pytest.mark.parametrize("of", ["another service", "a task", "nobody: it is outside"])
def test_foreign_vip_goes_to_nobody_and_is_reported(of: str) -> None:
    b = service("B", "b")
    records: dict[str, tuple[Record, ...]] = {
        "another service": (b, replace(service("C", "c"), vip=b.vip)),
        "a task": (b, service("C", "c"), replace(endpoint("C", "c1", 3), address=b.vip)),
        "nobody: it is outside": (replace(b, vip=IPv4Address("192.0.2.77")), service("C", "c")),
    }
    a = service("A", "a", ("b", "db"), ("c", "cache"))
    made = graph(CLUSTER, a, *records[of], endpoint("A", "a1", 1), endpoint("B", "b1", 2))
    bad = {"b", "c"} if of == "another service" else {"b"}
    assert made.vips.keys() == {"A", "B", "C"} - {name.upper() for name in bad}
    wanted = {NOBODY: ("db", "cache")} if "c" in bad else {"10.1.9.3": ("cache",), NOBODY: ("db",)}
    assert names(made, "a1") == wanted
    assert [one.vip for one in config(made, "a1").policy.balance] == ([] if "c" in bad else [vip("C")])
    assert {p.split(":")[0] for p in made.problems} >= {f"service {name}" for name in bad}
    assert peers(made, "a1") == {"b1"}, "of a task with the same address nothing is believed"


def test_an_address_outside_the_mesh_is_nobodys() -> None:
    outside = replace(endpoint("B", "b1", 2), address=IPv4Address("192.0.2.77"))
    made = graph(
        CLUSTER, service("A", "a", ("b", "db")), service("B", "b", dnsrr=True), endpoint("A", "a1", 1), outside
    )
    assert made.problems == ("task b1: address 192.0.2.77 is outside 10.1.0.0/16: the task is not wired",)
    assert made.by_task.keys() == {"a1"}
    assert config(made, "a1").hosts == (HostEntry(vip("B"), ("db",)),)
    assert config(made, "a1").policy.balance == (Balance(vip("B"), (), "B"),), "which refuses"


@pytest.mark.parametrize("prefix", [0, 64, 95, 97, 128])
def test_prefix_with_ambiguous_twins_wires_nobody(prefix: int) -> None:
    cluster = replace(CLUSTER, subnet6=IPv6Network(("fd12::", prefix), strict=False))
    made = graph(cluster, service("A", "a", ("a", "x")), endpoint("A", "a1", 1), endpoint("A", "a2", 2))
    assert made.cluster is None
    assert interface(made, "a1") is None
    assert made.problems == (f"cluster: the IPv6 prefix {cluster.subnet6} is not a /96: nothing is wired",)


def test_device_name_fits_and_is_unique() -> None:
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
    assert {t: interface(again, t) for t in again.by_task} == {t: interface(made, t) for t in made.by_task}


def check_rule_1(made: LinkGraph) -> None:
    """No address, twin or key is twice among a device's peers, nor its own among them, nor is a VIP."""
    for own in made.by_task.values():
        found = interface(made, own.task)
        if found is None:
            continue
        every = [network for peer in found.peers for network in peer.allowed_ips]
        every += [address.network for address in found.addresses]
        every += [network for one in found.policy.balance for network in map(IPv4Network, (one.vip,))]
        assert max(Counter(every).values()) == 1
        assert max(Counter([own.public_key, *(peer.public_key for peer in found.peers)]).values()) == 1
        assert all(sorted(n.version for n in peer.allowed_ips) == [4, 6] for peer in found.peers)


def check_links(made: LinkGraph, found: dict[str, tuple[str, list[str]]]) -> None:
    """Peers are exactly those over a link, and each is the other's; names are exactly the links'."""
    for one in made.by_task.values():
        its_peers = peers(made, one.task)
        for other in made.by_task.values():
            linked = one.service in found and other.service in found
            if linked:
                (name, its), (other_name, others) = found[one.service], found[other.service]
                linked = other_name in its or name in others
            assert (other.task in its_peers) == (linked and other.task != one.task)
            assert (other.task in its_peers) == (one.task in peers(made, other.task))
        meant = interface(made, one.task)
        if one.service not in found:
            assert meant is None
            continue
        assert meant is not None
        given_names = {(entry.address, name) for entry in meant.hosts for name in entry.names}
        for name in NAMES:
            ids = [other for other, (its, _) in found.items() if its == name]
            able = [other for other in ids if any(e.ready and e.service == other for e in made.by_task.values())]
            wanted = {made.vips[other] for other in able or ids if other in made.vips}
            addresses = {address for address, alias in given_names if alias == f"to-{name}"}
            expected = (wanted or {nobody(CLUSTER.subnet)}) if name in found[one.service][1] else set()
            assert addresses == {address for v4 in expected for address in both(v4)}


# --- addresses and ports


@given(st.integers(24, 32), st.sets(st.integers(0, 255)), st.text(max_size=5))
def test_address_is_free_and_never_first_or_last(prefix: int, taken: set[int], hint: str) -> None:
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


# --- twins


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_each_address_has_its_own_ipv6_twin(cluster: str, other: str, one: int, two: int) -> None:
    prefix = ula(cluster)
    assert prefix.prefixlen == 96
    assert prefix.subnet_of(IPv6Network("fd00::/8"))
    assert (ula(other) == prefix) == (other == cluster)
    first, second = IPv4Address(one), IPv4Address(two)
    assert twin(prefix, first) in prefix
    assert (twin(prefix, first) == twin(prefix, second)) == (first == second)


# --- preshared keys


def test_each_pair_has_its_own_preshared_key() -> None:
    made = graph(
        CLUSTER,
        keyed(service("A", "a", ("b", "db")), "one"),
        service("B", "b", ("a", "web")),
        *(endpoint("A", "a1", 1), endpoint("A", "a2", 2), endpoint("B", "b1", 3)),
    )
    one, own = secret("one", 0), secret("b:a", 0)
    found = {task: {p.public_key: p.preshared_key for p in config(made, task).peers} for task in ("a1", "a2", "b1")}
    for task in ("a1", "a2"):
        ends = made.by_task[task].public_key, made.by_task["b1"].public_key
        expected = preshared_key([("one", one), ("b:a", own)], *ends)
        assert found[task] == {ends[1]: expected}
        assert found["b1"][ends[0]] == expected
    assert len(set(found["b1"].values())) == 2


def test_without_every_link_key_a_peer_has_none() -> None:
    made = graph(
        CLUSTER,
        keyed(service("A", "a", ("b", "db"), ("c", "c")), "one"),
        service("B", "b", ("a", "web")),
        service("C", "c"),
        *(endpoint("A", "a1", 1), endpoint("B", "b1", 2), endpoint("C", "c1", 3)),
    )
    held = LinkKeys({"one": secret("one", 0)})
    keys = {p.public_key: p.preshared_key for p in config(made, "a1", link_keys=held).peers}
    assert keys[made.by_task["b1"].public_key] is None
    assert keys[made.by_task["c1"].public_key] is not None
    both = held.with_secrets({"one": secret("one", 0), "b:a": secret("b:a", 0)})
    assert all(peer.preshared_key for peer in config(made, "a1", link_keys=both).peers)


def keyed(found: Service, key: str) -> Service:
    return replace(found, links=tuple(replace(link, key=key) for link in found.links))


def test_waiting_lasts_until_a_provider_is_ready() -> None:
    services = (service("A", "a"), service("B", "b"), service("C", "c"))
    tasks = (endpoint("B", "b1", 1, ready=False), endpoint("C", "c1", 2, ready=False), endpoint("C", "c2", 3))
    made = graph(CLUSTER, *services, *tasks)
    assert made.unready(("a", "b", "c", "nobody")) == ("a", "b", "nobody")
    assert made.unready(()) == ()


def test_waiting_for_a_provider_that_refuses_says_so() -> None:
    made = graph(CLUSTER, service("A", "a", ("!b", "db")), service("B", "b"), endpoint("B", "b1", 1))
    assert made.unready(("b",), "B") == ()
    assert made.unready(("b",), "A") == ("b (it does not allow the link)",)
