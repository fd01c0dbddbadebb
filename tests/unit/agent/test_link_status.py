"""What `docker linkwire ps` is told: measured, or said to be unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from random import Random
from typing import Any

import pytest

from agent.status.link_status import SILENT_AFTER_S, Reader, inspect
from agent.wireguard.peer_health import REJECT_AFTER_S
from mesh.crypto.hpke import NodeKey
from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import SigningKey
from mesh.diagnosis.steps import STARTING_S
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.labels.ports import PortRange
from mesh.model.net import UdpEndpoint
from mesh.model.records import (
    BrokenPeers,
    Cluster,
    DeviceStatus,
    Endpoint,
    LinkKeyEpoch,
    Node,
    PeerStatus,
    Record,
    Refused,
    Service,
    Status,
    StoreSpace,
    TaskReport,
)
from mesh.model.snapshot import Snapshot, Versioned
from mesh.topology.ipam import ula
from tests.support.signing import holding

NOW = 1_000_000.0
VIPS = (
    "shop_web",
    "shop_db",
    "shop_cache",
    "shop_ring",
    "shop",
    "blog_web",
    "blog_db",
    "workshop_web",
    "workshop_db",
)
"""Services in the order of their VIPs."""


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "little"))


def service(name: str, *providers: str) -> Service:
    links = tuple(LinkLabel(provider, (f"to-{provider}",)) for provider in providers)
    vip = IPv4Address("10.1.9.0") + VIPS.index(name)
    return Service(f"#{name}", name, vip, links, None, strict=True, dnsrr=False, elsewhere=())


def endpoint(name: str, number: int, *, slot: int = 1) -> Endpoint:
    return Endpoint(
        service=f"#{name}",
        task=f"t{number}",
        slot=slot,
        node=f"n{number}",
        address=IPv4Address("10.1.0.0") + number,
        public_key=key(number),
        epoch=0,
        underlay=UdpEndpoint(IPv4Address("192.0.2.1"), 51820),
        ready=True,
        elsewhere=(),
    )


def node(number: int) -> Node:
    key_of_node = NodeKey(b"n" * 32).public
    return Node(
        id=f"n{number}",
        hostname=f"host{number}",
        sealing_key=key_of_node,
        report_key=SigningKey(bytes(32)).verify_key,
        counter=1,
        proof=None,
        unproven=None,
        address=IPv4Address("192.0.2.1"),
        first_port=1,
        last_port=9,
        backend="kernel",
        version="0.1.0",
    )


def report(name: str, number: int, *, wired: bool = True, error: str | None = None) -> TaskReport:
    return TaskReport(f"t{number}", f"#{name}", f"n{number}", "running", wired, error, None, ())


def status(number: int, *peers: tuple[int, float | None]) -> Status:
    found = tuple(PeerStatus(key(peer), age, 10 * peer, 20 * peer, "192.0.2.1:51820") for peer, age in peers)
    devices = (DeviceStatus("another", key(50), (), ()), DeviceStatus(f"t{number}", None, found, ()))
    return Status(f"n{number}", NOW - 2.04, devices)


def snapshot(*records: Record, invalid: dict[str, str] | None = None) -> Snapshot:
    found = {keyspace.key_of(record): Versioned(record, n) for n, record in enumerate(records, 1)}
    contents = holding(*records)
    found["manifest"] = Versioned(contents.record(), 1, 1)
    return Snapshot(len(found), True, found, invalid or {}, contents=contents)


SHOP: tuple[Record, ...] = (
    Cluster("cluster", IPv4Network("10.1.0.0/16"), ula("cluster")),
    service("shop_web", "shop_db"),
    service("shop_db"),
    endpoint("shop_web", 1),
    endpoint("shop_db", 2, slot=0),
    node(1),
    report("shop_web", 1),
    report("shop_db", 2),
)


def test_link_is_shown_with_its_measured_pairs() -> None:
    assert inspect(snapshot(*SHOP, status(1, (2, 12.5))), NOW) == {
        "version": 1,
        "links": [
            {
                "consumer": "shop_web",
                "provider": "shop_db",
                "aliases": ["to-shop_db"],
                "vip": "10.1.9.1",
                "vip6": "fd4b:4670:6393::a01:901",
                "ports": "all",
                "refused": {"consumer": {"in": 0, "out": 0}, "provider": {"in": 0, "out": 0}},
                "key": "shop_web:shop_db",
                "epoch": None,
                "allowed": True,
                "consumers": 1,
                "ready": 1,
                "pairs": [
                    {
                        "consumer_task": "shop_web.1.t1",
                        "consumer_node": "host1",
                        "provider_task": "shop_db.n2.t2",
                        "provider_node": "n2",
                        "state": "connected",
                        "for": None,
                        "handshake_age": 12.5,
                        "rx": 20,
                        "tx": 40,
                        "error": None,
                        "as_of": 2.0,
                    }
                ],
            }
        ],
        "apart": {},
        "problems": [],
        "unanswered": [],
        "unwired": [],
        "stacks": ["shop"],
    }


def test_links_key_is_shown_by_name_and_epoch() -> None:
    own = LinkKeyEpoch("shop_web:shop_db", 1_800_000_000, 1_800_000_000, ())
    (link,) = inspect(snapshot(*SHOP, own), NOW)["links"]
    assert (link["key"], link["epoch"]) == ("shop_web:shop_db", 1_800_000_000)
    keyed = replace(service("shop_web"), links=(LinkLabel("shop_db", ("db",), key="shop_shop"),))
    (link,) = inspect(snapshot(*SHOP, own, keyed), NOW)["links"]
    assert (link["key"], link["epoch"]) == ("shop_shop", None)


HTTP, DNS = PortRange("tcp", 80, 80), PortRange("udp", 53, 54)


@pytest.mark.parametrize(
    ("link", "expose", "dnsrr", "told"),
    [
        ((), None, False, {"vip": "10.1.9.1", "ports": "all"}),
        ((HTTP,), None, False, {"vip": "10.1.9.1", "ports": "80/tcp"}),
        ((HTTP,), (DNS,), False, {"vip": "10.1.9.1", "ports": "80/tcp"}),
        ((), (DNS, HTTP), True, {"vip": "10.1.9.1", "vip6": None, "ports": "80/tcp, 53-54/udp"}),
        ((), (), False, {"vip": "10.1.9.1", "ports": "none"}),
    ],
)
def test_what_a_link_leads_to(
    link: tuple[PortRange, ...], expose: tuple[PortRange, ...] | None, told: dict[str, Any], *, dnsrr: bool
) -> None:
    web = replace(service("shop_web"), links=(LinkLabel("shop_db", ("db",), link),))
    db = replace(service("shop_db"), expose=expose, dnsrr=dnsrr)
    (made,) = inspect(snapshot(*SHOP, web, db), NOW)["links"]
    assert {key: made[key] for key in told} == told


@pytest.mark.parametrize(("link", "ports"), [((), None), ((HTTP,), "80/tcp")])
def test_what_a_link_to_nobody_leads_to(link: tuple[PortRange, ...], ports: str | None) -> None:
    web = replace(service("shop_web"), links=(LinkLabel("shop_db", ("db",), link),))
    (made,) = inspect(snapshot(SHOP[0], web), NOW)["links"]
    assert (made["vip"], made["vip6"], made["ports"]) == (None, None, ports)


@pytest.mark.parametrize(
    ("tasks", "consumers", "ready"),
    [
        ((endpoint("shop_web", 1),), 1, 0),
        ((endpoint("shop_web", 1), endpoint("shop_web", 4, slot=2), endpoint("shop_db", 2)), 2, 1),
        ((endpoint("shop_web", 1), replace(endpoint("shop_db", 2), ready=False)), 1, 0),
        ((endpoint("shop_db", 2), endpoint("shop_db", 3, slot=2)), 0, 2),
    ],
    ids=["scaled to 0", "two consumers", "a task that is not ready", "no consumer"],
)
def test_tasks_of_both_sides_are_counted(tasks: tuple[Endpoint, ...], consumers: int, ready: int) -> None:
    (made,) = inspect(snapshot(SHOP[0], service("shop_web", "shop_db"), service("shop_db"), *tasks), NOW)["links"]
    assert (made["consumers"], made["ready"]) == (consumers, ready)


def refusing(number: int, *refused: Refused, node: int | None = None) -> Status:
    return Status(f"n{node or number}", NOW, (DeviceStatus(f"t{number}", None, (), refused),))


def test_refusals_are_shown_by_link_and_end() -> None:
    web, db = "#shop_web", "#shop_db"
    records = (
        *SHOP,
        service("blog_web", "shop_db"),
        endpoint("shop_web", 3),
        endpoint("blog_web", 4),
        refusing(1, Refused("in", db, 1), Refused("out", db, 20), Refused("out", "", 7), Refused("apart", "", 9)),
        refusing(3, Refused("out", db, 300), Refused("apart", "", 1), Refused("apart", db, 90)),
        refusing(2, Refused("in", web, 4000), Refused("out", web, 50000), Refused("in", "#blog_web", 600000)),
        refusing(4, Refused("apart", "", 8)),
    )
    made = inspect(snapshot(*records), NOW)
    assert {link["consumer"]: link["refused"] for link in made["links"]} == {
        "shop_web": {"consumer": {"in": 1, "out": 320}, "provider": {"in": 4000, "out": 50000}},
        "blog_web": {"consumer": {"in": 0, "out": 0}, "provider": {"in": 600000, "out": 0}},
    }
    assert made["apart"] == {"shop_web": 100, "blog_web": 8}
    assert inspect(snapshot(*records), NOW, "blog")["apart"] == {"blog_web": 8}


def test_self_linked_refusals_are_shown_once() -> None:
    ring = (service("shop_ring", "shop_ring"), endpoint("shop_ring", 1), refusing(1, Refused("in", "#shop_ring", 3)))
    (made,) = inspect(snapshot(*ring), NOW)["links"]
    assert made["refused"] == {"consumer": {"in": 3, "out": 0}, "provider": {"in": 0, "out": 0}}


def test_other_nodes_claims_on_refusals_are_ignored() -> None:
    (made,) = inspect(snapshot(*SHOP, refusing(1, Refused("in", "#shop_db", 3), node=2)), NOW)["links"]
    assert made["refused"]["consumer"] == {"in": 0, "out": 0}


@pytest.mark.parametrize(
    ("measured", "state"),
    [
        (status(1, (2, 0.0)), "connected"),
        (status(1, (2, REJECT_AFTER_S - 0.1)), "connected"),
        (status(1, (2, REJECT_AFTER_S)), "idle"),
        (status(1, (2, None)), "idle"),
        (status(1, (3, 1.0)), "unwired"),
        (status(1), "unwired"),
        (Status("n1", NOW, ()), "unknown"),
        (None, "unknown"),
    ],
)
def test_connected_means_a_recent_handshake_that_was_seen(measured: Status | None, state: str) -> None:
    made = inspect(snapshot(*SHOP, *((measured,) if measured else ())), NOW)
    (pair,) = made["links"][0]["pairs"]
    assert pair["state"] == state
    assert (pair["as_of"] is None) == (measured is None)
    json.dumps(made)


def test_unwired_task_shows_its_error_despite_old_measurements() -> None:
    error = "the subnet clashes with a route"
    made = inspect(snapshot(*SHOP, report("shop_web", 1, wired=False, error=error), status(1, (2, 1.0))), NOW)
    (pair,) = made["links"][0]["pairs"]
    assert (pair["state"], pair["error"]) == ("unwired", error)
    assert made["problems"] == [f"shop_web task t1 on host1: {error}"]


def test_slow_clock_gives_no_negative_age() -> None:
    made = inspect(snapshot(*SHOP, status(1, (2, 1.0))), NOW - 50)
    assert made["links"][0]["pairs"][0]["as_of"] == 0.0


def test_every_pair_is_shown_once_without_itself() -> None:
    tasks = [endpoint("shop_ring", n) for n in (1, 2, 3)]
    made = inspect(snapshot(service("shop_ring", "shop_ring"), *tasks), NOW)
    pairs = [(pair["consumer_task"], pair["provider_task"]) for pair in made["links"][0]["pairs"]]
    names = [f"shop_ring.1.t{n}" for n in (1, 2, 3)]
    assert sorted(pairs) == [(one, other) for one in names for other in names if one != other]


def test_problems_are_told_in_words() -> None:
    same = endpoint("shop_db", 1)
    unknown = TaskReport(
        "t9", "#gone", "n9", "created", wired=False, error="no namespace", port_taken=None, elsewhere=()
    )
    over = TaskReport("t8", "#shop_db", "n9", "gone", wired=False, error="old", port_taken=None, elsewhere=())
    records = (
        *SHOP,
        service("blog_web", "blog_db"),
        unknown,
        over,
        replace(same, task="t7", node="n7", public_key=key(70)),
    )
    made = inspect(snapshot(*records, invalid={"nodes/x": "nodes/x: not JSON"}), NOW)
    assert made["problems"] == [
        "store: nodes/x: not JSON",
        "task t1: address 10.1.0.1 or public key assigned twice: neither is wired",
        "task t7: address 10.1.0.1 or public key assigned twice: neither is wired",
        "service blog_web: links to blog_db, which does not exist (yet)",
        "task t9 on n9: no namespace",
    ]


@pytest.mark.parametrize(
    ("age", "told"), [(None, True), (STARTING_S - 1, False), (STARTING_S + 1, True)], ids=["unknown", "new", "old"]
)
def test_absent_provider_is_told_once_it_lasts(age: float | None, told: bool) -> None:
    """A stack is deployed service by service, the consumer perhaps first."""
    seen = snapshot(service("blog_web", "blog_db"), endpoint("blog_web", 1))
    revision = seen.revision_of(keyspace.service("#blog_web"))
    reader = Reader(age=lambda asked: age if asked == revision else None)
    text = "service blog_web: links to blog_db, which does not exist (yet)"
    assert inspect(seen, NOW, reader=reader)["problems"] == ([text] if told else [])


def test_node_with_silent_agent_is_named_with_services() -> None:
    silent = replace(endpoint("shop_db", 2), suspect=True)
    stray = replace(endpoint("nowhere", 5), suspect=True)
    records = (service("shop_web", "shop_db"), service("shop_db"), endpoint("shop_web", 1), silent, stray)
    text = "node n2: its agent is silent; its tasks of shop_db are used where they answer"
    for stack, expected in ((None, [text]), ("shop", [text]), ("blog", [])):
        assert inspect(snapshot(*records), NOW, stack)["problems"] == expected


def test_a_stack_is_told_alone() -> None:
    records = (
        *SHOP,
        service("blog_web", "shop_db"),
        service("workshop_web", "workshop_db"),
        service("shop", "other"),
        report("shop_db", 2, wired=False, error="bad"),
    )
    made = inspect(snapshot(*records), NOW, "shop")
    assert [(link["consumer"], link["provider"]) for link in made["links"]] == [
        ("blog_web", "shop_db"),
        ("shop_web", "shop_db"),
    ]
    assert made["problems"] == ["shop_db task t2 on n2: bad"], "and nothing of workshop_web"
    assert made["unwired"] == made["problems"]
    nothing: dict[str, Any] = {
        "version": 1,
        "links": [],
        "apart": {},
        "problems": [],
        "unanswered": [],
        "unwired": [],
        "stacks": ["blog", "shop", "workshop"],
    }
    assert inspect(snapshot(*records), NOW, "none") == nothing
    assert inspect(snapshot(*records), NOW, "(") == nothing


def test_the_order_of_the_records_does_not_show() -> None:
    errors = [report("shop_db", n, wired=False, error=f"error {n}") for n in range(3, 9)]
    records = [*SHOP, *(endpoint("shop_db", n) for n in range(3, 9)), *errors, status(1, (2, 1.0))]
    invalid = {f"tasks/{n}": f"tasks/{n}: not JSON" for n in range(5)}
    made = inspect(snapshot(*records, invalid=invalid), NOW)
    for seed in range(5):
        Random(seed).shuffle(records)  # noqa: S311 - an order is no secret
        again = dict(sorted(invalid.items(), reverse=bool(seed % 2)))
        assert inspect(snapshot(*records, invalid=again), NOW) == made


def test_store_short_of_space_is_a_problem() -> None:
    def told(short: bool) -> str:
        space = StoreSpace(size=1900 * 1024**2, in_use=1800 * 1024**2, quota=2 * 1024**3, short=short)
        return " ".join(inspect(snapshot(space), NOW)["problems"])

    assert "1800 MiB of 2048 MiB" in told(short=True)
    assert "short of space" not in told(short=False)


def test_barred_node_is_a_problem() -> None:
    space = StoreSpace(size=1, in_use=1, quota=9, short=False, barred=("n7",))
    (problem,) = [line for line in inspect(snapshot(space), NOW)["problems"] if "filled etcd" in line]
    assert problem.startswith("node n7 filled etcd and may not write to it for an hour")


@pytest.mark.parametrize("teller", ["consumer", "provider"])
def test_either_end_tells_a_broken_link(teller: str) -> None:
    own, other = (1, 2) if teller == "consumer" else (2, 1)
    broken = replace(status(own, (other, 5.0)), broken=(BrokenPeers(f"t{own}", (key(other),), 12.5),))
    read = () if own == 1 else (status(1, (2, 5.0)),)
    made = inspect(snapshot(*SHOP, broken, *read), NOW)
    (pair,) = made["links"][0]["pairs"]
    assert (pair["state"], pair["for"], pair["handshake_age"]) == ("broken", 12.5, 5.0)
    (problem,) = made["problems"]
    assert problem.startswith(
        "shop_web.1.t1 on node host1 gets no answer from shop_db.n2.t2 on node n2 for 12 s: see "
    )


@pytest.mark.parametrize(
    ("reported", "age", "told"),
    [
        (None, 60.0, ("unwired", None)),
        (report("shop_db", 2, wired=False), 60.0, ("unwired", None)),
        (report("shop_db", 2), 5.0, ("idle", None)),
        (report("shop_db", 2), 18.0, ("broken", 15.0)),
        (report("shop_db", 2), 600.0, ("broken", 40.0)),
    ],
)
def test_starting_task_is_awaited_before_it_alarms(
    reported: TaskReport | None, age: float, told: tuple[str, float | None]
) -> None:
    """Such as one whose image is pulled for minutes: others' handshakes with it begin with its record."""
    unheard = replace(status(1, (2, None)), broken=(BrokenPeers("t1", (key(2),), 40.0),))
    records = {keyspace.key_of(each): Versioned(each, 1) for each in (*SHOP, unheard)}
    records.pop(keyspace.report("n2", "t2"))
    if reported is not None:
        records[keyspace.key_of(reported)] = Versioned(reported, 2)
    records[keyspace.status("n1")] = Versioned(unheard, 3)
    reader = Reader(age={1: 600.0, 2: age, 3: 3.0}.get)
    made = inspect(Snapshot(3, True, records), NOW, None, reader)
    (pair,) = made["links"][0]["pairs"]
    assert (pair["state"], pair["for"]) == told
    assert bool(made["unanswered"]) == (told[0] == "broken")


def test_other_nodes_claims_of_broken_links_are_ignored() -> None:
    liar = Status("n3", NOW, (), broken=(BrokenPeers("t1", (key(2),), 12.5),))
    made = inspect(snapshot(*SHOP, status(1, (2, 5.0)), liar), NOW)
    assert made["links"][0]["pairs"][0]["state"] == "connected"


def test_silent_nodes_tasks_are_unknown_and_named() -> None:
    silent = replace(endpoint("shop_web", 1), suspect=True)
    reader = Reader(hostnames={"n2": "host2"}, age=lambda _revision: 52.0)
    made = inspect(snapshot(*SHOP, silent, status(1, (2, 5.0))), NOW, None, reader)
    (pair,) = made["links"][0]["pairs"]
    assert (pair["state"], pair["for"]) == ("unknown", 52.0 + SILENT_AFTER_S)
    assert pair["provider_node"] == "host2", "its record is gone, its name is not"


@pytest.mark.parametrize(("age", "told"), [(STARTING_S - 1, False), (STARTING_S, True), (None, True)])
def test_error_of_starting_task_alarms_nobody(age: float | None, *, told: bool) -> None:
    failing = report("shop_web", 1, wired=False, error="no namespace (yet)")
    made = inspect(snapshot(*SHOP, failing), NOW, None, Reader(age=lambda _revision: age))
    assert (made["problems"] != []) == told
    assert made["links"][0]["pairs"][0]["error"] == "no namespace (yet)"


@pytest.mark.parametrize(
    ("written", "age", "told"),
    [
        (NOW - 3600, 3.0, "its clock is 59 min behind that of the node that was asked"),
        (NOW + 7200, 10.0, "its clock is 2 h ahead of that of the node that was asked"),
        (NOW - 3600, None, ""),
        (NOW - 3600, 3590.0, ""),
        (NOW - 100, 3.0, ""),
    ],
)
def test_wrong_clock_is_named(written: float, age: float | None, told: str) -> None:
    """When the store had them is known without that node's clock; nobody knows of what was there before."""
    said = replace(status(2), written=written)
    made = inspect(
        snapshot(*SHOP, said), NOW, None, Reader(hostnames={"n2": "host2"}, exact_age=lambda _revision: age)
    )
    clocks = [text for text in made["problems"] if "clock" in text]
    assert [told in text and text.startswith("node host2: ") for text in clocks] == [True] * bool(told)
