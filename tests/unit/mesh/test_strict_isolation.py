"""What is kept apart outside the mesh: by whom, on which networks, and from whose word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.records import Attachment, Record
from mesh.topology.link_graph import LinkGraph
from mesh.topology.policy import Exit
from mesh.topology.strict_isolation import Neighbour, in_order
from tests.support.link_graphs import CLUSTER, NOBODY, config, endpoint, graph, service

Here = dict[str, tuple[Attachment, ...]]


def at(network: str, *hosts: int | str) -> tuple[Attachment, ...]:
    """Addresses on a network."""
    return tuple(Attachment(network, ip_address(h) if isinstance(h, str) else _v4(h)) for h in hosts)


def _v4(host: int) -> IPv4Address:
    return IPv4Address("172.20.0.0") + host


def apart(made: LinkGraph, task: str, here: Here | None = None) -> list[str]:
    return [str(address) for address in config(made, task, here=here or NOBODY).policy.isolated]


def mesh(*, a: bool, b: bool, c: bool = False) -> LinkGraph:
    """Three wired services, each strict or not, all on `net`; `b` on another network too, `c` with a virtual IP."""
    return graph(
        CLUSTER,
        service("A", "a", ("b", "db"), strict=a),
        service("B", "b", strict=b),
        service("C", "c", strict=c, elsewhere=at("net", 100)),
        endpoint("A", "a1", 1, elsewhere=at("net", 1)),
        endpoint("A", "a2", 2, elsewhere=at("net", 2)),
        endpoint("B", "b1", 3, elsewhere=at("net", 3, "fd00::3") + at("other", 33)),
        endpoint("C", "c1", 4, elsewhere=at("net", 4)),
    )


# --- one rule at a time


def test_one_strict_side_isolates_and_none_does_not() -> None:
    own, theirs, third, third_vip = ["172.20.0.2"], ["172.20.0.3", "fd00::3"], ["172.20.0.4"], ["172.20.0.100"]
    cases = {(True, True): own, (True, False): own, (False, True): []}
    for (a, b), replicas in cases.items():
        made = mesh(a=a, b=b)
        rest = [*third, *third_vip] if a else []
        assert apart(made, "a1") == [*replicas, theirs[0], *rest, theirs[1]]
        assert apart(made, "b1") == ["172.20.0.1", "172.20.0.2", *(third + third_vip if b else [])]
    assert [apart(mesh(a=False, b=False), task) for task in ("a1", "b1", "c1")] == [[], [], []]
    assert apart(mesh(a=False, b=False, c=True), "a1") == ["172.20.0.4", "172.20.0.100"]


def test_strict_refuses_tasks_on_revoked_nodes() -> None:
    """Their endpoints are gone; their service's record has their addresses, which are none of its own."""
    for a, b in product((True, False), repeat=2):
        made = graph(
            CLUSTER,
            service("A", "a", ("b", "db"), strict=a),
            replace(service("B", "b", strict=b), revoked=at("net", 9)),
            *(endpoint("A", "a1", 1, elsewhere=at("net", 1)), endpoint("B", "b1", 3, elsewhere=at("net", 3))),
        )
        assert ("172.20.0.9" in apart(made, "a1")) == (a or b)
        assert ("172.20.0.9" in apart(made, "b1")) == b
        assert made.services["B"].elsewhere == (), "what its tasks send by, agent.firewall.source_guard"


def test_exit_isolates_strict_tasks_and_spares_others() -> None:
    exits = (Exit(IPv4Network("172.18.0.0/16"), IPv4Address("172.18.0.1")),)
    made = mesh(a=True, b=False)
    assert config(made, "a1", exits=exits).policy.exits == exits
    assert config(made, "b1", exits=exits).policy.exits == ()


def test_other_network_differs_even_with_same_addresses() -> None:
    made = graph(
        CLUSTER,
        *(service("A", "a", ("b", "db")), service("B", "b")),
        endpoint("A", "a1", 1, elsewhere=at("bridge of n1", 2)),
        endpoint("B", "b1", 2, elsewhere=at("bridge of n2", 3)),
        endpoint("B", "b2", 3, elsewhere=at("bridge of n1", 4) + at("x", 5)),
    )
    assert apart(made, "a1") == ["172.20.0.4"], "but not its address on a network that is not shared"
    assert apart(made, "b1") == []
    assert apart(made, "b2") == ["172.20.0.2"]


def test_task_is_never_isolated_from_itself() -> None:
    made = graph(
        CLUSTER,
        service("A", "a", ("a", "x"), elsewhere=at("net", 1)),
        endpoint("A", "a1", 1, elsewhere=at("net", 1)),
        endpoint("A", "a2", 2, elsewhere=at("net", 1, 2)),
    )
    assert apart(made, "a1") == ["172.20.0.2"]
    assert apart(made, "a2") == []
    assert apart(made, "a1", {"a1": at("net", 2)}) == []


def test_nodes_own_tasks_are_known_before_the_store() -> None:
    made = graph(
        CLUSTER,
        *(service("A", "a", ("b", "db"), strict=False), service("B", "b"), service("C", "c", strict=False)),
        *(endpoint("A", "a1", 1), endpoint("B", "b1", 2), endpoint("C", "c1", 3, elsewhere=at("bridge", 9))),
    )
    here = {"a1": at("bridge", 1), "b1": at("bridge", 2) + at("gone", 3), "somebody else's": at("bridge", 4)}
    assert apart(made, "a1", here) == ["172.20.0.2"]
    assert apart(made, "b1", here) == ["172.20.0.1", "172.20.0.9"]
    assert apart(made, "c1", here) == ["172.20.0.2"]
    assert apart(made, "a1", {"b1": at("bridge", 2)}) == [], "on which network the task itself is, nobody has said"


def test_conflicting_unwired_task_is_isolated_all_the_same() -> None:
    made = graph(
        CLUSTER,
        *(service("A", "a", ("b", "db"), strict=False), service("B", "b")),
        endpoint("A", "a1", 1, elsewhere=at("net", 1)),
        endpoint("B", "b1", 2, elsewhere=at("net", 2)),
        endpoint("B", "b2", 2, key=3, elsewhere=at("net", 3)),
        endpoint("D", "d1", 4, elsewhere=at("net", 4)),
    )
    assert set(made.by_task) == {"a1", "d1"}
    assert apart(made, "a1") == ["172.20.0.2", "172.20.0.3", "172.20.0.4"], (
        "a service that is not known may be strict"
    )


def test_attachments_are_in_one_order_each_once() -> None:
    found = at("b", 2, 10, "fd00::1") + at("a", "fd00::9", 200) + at("b", 10)
    expected = (*at("a", 200, "fd00::9"), *at("b", 2, 10, "fd00::1"))
    assert in_order(found) == in_order(reversed(found)) == in_order(expected) == expected


# --- any tasks anywhere

strictness = st.fixed_dictionaries({name: st.booleans() for name in "ABC"})
places = st.lists(
    st.tuples(
        st.sampled_from("ABC"),
        st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3"]), st.booleans(), st.booleans()), max_size=4),
    ),
    max_size=6,
)
vips = st.fixed_dictionaries({name: st.sets(st.sampled_from(["n1", "n2", "n3"])) for name in "ABC"})


@settings(deadline=None)
@given(strictness, places, vips)
def test_strict_pairs_sharing_a_network_are_isolated_only(
    strict: dict[str, bool], tasks: list[tuple[str, list[tuple[str, bool, bool]]]], given_vips: dict[str, set[str]]
) -> None:
    records: list[Record] = [CLUSTER]
    where: dict[str, list[Attachment]] = {}
    here: Here = {}
    for n, (name, networks) in enumerate(tasks, 1):
        found = [
            Attachment(network, IPv6Address("fd00::") + n * 16 + k if is_v6 else _v4(n * 16 + k))
            for k, (network, is_v6, _) in enumerate(networks)
        ]
        task = f"t{n}"
        where[task] = found
        told = [local for _, _, local in networks]
        here[task] = tuple(a for a, local in zip(found, told, strict=True) if local)
        stored = in_order(a for a, local in zip(found, told, strict=True) if not local)
        records.append(endpoint(name, task, n, elsewhere=stored))
    virtual = {
        name: [Attachment(network, _v4(4096 + 16 * ord(name) + k)) for k, network in enumerate(sorted(its))]
        for name, its in given_vips.items()
    }
    records += [
        service(name, name.lower(), ("b", "x"), strict=strict[name], elsewhere=in_order(virtual[name]))
        for name in "ABC"
    ]
    made = graph(*records)
    service_of = {f"t{n}": name for n, (name, _) in enumerate(tasks, 1)}
    seen = {task: set(config(made, task, here=here).policy.isolated) for task in where}
    for one, own in where.items():
        nets = {a.network for a in own}
        expected = {
            a.address
            for other, its in where.items()
            for a in its
            if other != one and a.network in nets and (strict[service_of[one]] or strict[service_of[other]])
        }
        expected |= {
            a.address
            for name, its in virtual.items()
            for a in its
            if a.network in nets and (strict[service_of[one]] or strict[name])
        }
        assert seen[one] == expected
    for one, other in product(where, where):
        for mine, its in product(where[one], where[other]):
            if mine.network == its.network and one != other:
                assert (its.address in seen[one]) == (mine.address in seen[other]), "who keeps away is kept away from"


class _Watched(dict[str, tuple[Neighbour, ...]]):
    """Notes which networks are looked at, and allows no look at all of them."""

    asked: tuple[str, ...] = ()

    def get(self, key: str, default: object = None) -> Any:  # noqa: ANN401 - as dict has it
        self.asked += (key,)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("every network was looked at")

    items = keys = values = __iter__  # type: ignore[assignment]  # none of them is to be used


def test_networks_without_the_task_are_ignored() -> None:
    tasks = [endpoint("B", f"b{n}", n, elsewhere=at(f"net{n}", n)) for n in range(2, 50)]
    made = graph(
        CLUSTER, service("A", "a"), service("B", "b"), endpoint("A", "a1", 1, elsewhere=at("net7", 1)), *tasks
    )
    watched = _Watched(made.networks.neighbours)
    assert replace(made.networks, neighbours=watched).isolated_addresses(made.by_task["a1"], {}) == (_v4(7),)
    assert watched.asked == ("net7",)
