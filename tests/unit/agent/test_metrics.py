"""What Prometheus is told: sums by service that never go back, whatever happens to the tasks that were counted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.reporting import metrics
from agent.reporting.metrics import KEEP_UPDATES, Metrics
from mesh.crypto.keys import PublicKey
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.net import UdpEndpoint
from mesh.model.records import (
    BrokenPeers,
    Cluster,
    DeviceStatus,
    Endpoint,
    PeerStatus,
    Record,
    Refused,
    Service,
    Status,
    TaskReport,
)
from mesh.model.snapshot import Snapshot, Versioned
from mesh.topology.ipam import ula
from mesh.topology.link_graph import LinkGraph, index

NAMES = ("web", "db")


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "little"))


def graph(*tasks: tuple[str, int], services: Sequence[str] = NAMES, complete: bool = True) -> LinkGraph:
    """Web, linked to db, and (service, number) for each task."""
    records: list[Record] = [Cluster("c", IPv4Network("10.1.0.0/16"), ula("c"))]
    for number, name in enumerate(services):
        links = (LinkLabel("db", ("db",)),) if name == "web" else ()
        vip = IPv4Address("10.1.9.0") + number
        records.append(Service(f"#{name}", name, vip, links, None, strict=True, dnsrr=False, elsewhere=()))
    for name, number in tasks:
        underlay = UdpEndpoint(IPv4Address("192.0.2.1"), 50000 + number)
        address = IPv4Address("10.1.0.0") + number
        records.append(
            Endpoint(f"#{name}", f"t{number}", 1, "n1", address, key(number), 0, underlay, ready=True, elsewhere=())
        )
    found = {keyspace.key_of(record): Versioned(record, n) for n, record in enumerate(records, 1)}
    return index(Snapshot(1, complete, found))


def peer(number: int, rx: int = 0, tx: int = 0, age: float | None = 1.0) -> PeerStatus:
    return PeerStatus(key(number), age, rx, tx, "192.0.2.1:51820")


def device(number: int, *peers: PeerStatus, refused: Iterable[Refused] = ()) -> DeviceStatus:
    return DeviceStatus(f"t{number}", key(number), peers, tuple(refused))


def status(*devices: DeviceStatus) -> Status:
    return Status("n1", 1.0, devices)


def report(number: int, *, wired: bool = True, error: str | None = None, gone: bool = False) -> TaskReport:
    return TaskReport(f"t{number}", "#web", "n1", "gone" if gone else "running", wired, error, None, ())


def values(measured: Metrics) -> dict[str, float]:
    lines = [line for line in measured.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def value(measured: Metrics, name: str) -> float | None:
    return values(measured).get(f"linkwire_{name}")


RECEIVED = 'link_receive_bytes_total{peer_service="db",service="web"}'
SENT = 'link_transmit_bytes_total{peer_service="db",service="web"}'


def refused(direction: str, service: str = "db") -> str:
    return f'refused_packets_total{{direction="{direction}",peer_service="{service}",service="web"}}'


SHOP = graph(("web", 1), ("web", 2), ("db", 3), ("db", 4))


@pytest.mark.parametrize(("ready", "age", "told"), [(False, None, 0), (True, None, 1), (False, 5.0, 1)])
def test_peer_that_starts_is_not_broken(told: int, age: float | None, *, ready: bool) -> None:
    measured = Metrics("0.1.0", "kernel")
    unanswered = (BrokenPeers("t1", (key(4),), 20.0),)
    starting = replace(SHOP, by_task={**SHOP.by_task, "t4": replace(SHOP.by_task["t4"], ready=ready)})
    measured.update(starting, replace(status(device(1, peer(4, 0, 300, age))), broken=unanswered), {})
    assert value(measured, 'peers{state="broken"}') == told


def test_all_of_it() -> None:
    measured = Metrics("0.1.0", "kernel")
    one = device(1, peer(3, 10, 20, 190.0), peer(4, 1, 2, None), refused=[Refused("out", "#db", 7)])
    other = device(2, peer(3, 100, 200, 5.0), refused=[Refused("in", "", 3), Refused("apart", "", 2)])
    reports = [report(1), report(2, error="odd"), report(5, wired=False), report(6, gone=True)]
    unanswered = (BrokenPeers("t1", (key(4),), 20.0), BrokenPeers("t9", (key(3),), 20.0))
    measured.update(SHOP, replace(status(one, other), broken=unanswered), {r.task: r for r in reports})
    assert values(measured) == {
        'linkwire_agent_info{backend="kernel",version="0.1.0"}': 1,
        "linkwire_store_complete": 1,
        "linkwire_store_unverified": 0,
        'linkwire_tasks{state="wired"}': 1,
        'linkwire_tasks{state="unwired"}': 1,
        'linkwire_tasks{state="error"}': 1,
        'linkwire_peers{state="connected"}': 1,
        'linkwire_peers{state="idle"}': 1,
        'linkwire_peers{state="broken"}': 1,
        'linkwire_peer_last_handshake_seconds{peer_service="db",service="web"}': 190,
        f"linkwire_{refused('out')}": 7,
        f"linkwire_{refused('in')}": 0,
        f"linkwire_{refused('in', '')}": 3,
        f"linkwire_{refused('apart', '')}": 2,
        'linkwire_refused_links{direction="in",service="web"}': 0,
        'linkwire_refused_links{direction="out",service="web"}': 0,
        f"linkwire_{RECEIVED}": 111,
        f"linkwire_{SENT}": 222,
    }


def test_before_first_update_metrics_show_no_error() -> None:
    measured = Metrics("0.1.0", "userspace")
    assert value(measured, "store_complete") == 0
    assert value(measured, 'tasks{state="wired"}') == 0
    assert value(measured, RECEIVED) is None


@pytest.mark.parametrize("complete", [True, False])
def test_whether_the_store_is_known(*, complete: bool) -> None:
    measured = Metrics("0.1.0", "kernel")
    measured.update(graph(complete=complete), status(), {})
    assert value(measured, "store_complete") == complete
    measured.update(index(Snapshot(1, complete=True)), status(), {})
    assert value(measured, "store_complete") == 0, "no controller has taken it into use"


def test_ended_tasks_counts_remain() -> None:
    measured = Metrics("0.1.0", "kernel")
    for now in (
        status(
            device(1, peer(3, 10, 1), refused=[Refused("in", "#db", 2)]),
            device(2, peer(3, 100, 10), refused=[Refused("in", "#db", 5)]),
        ),
        status(device(2, peer(3, 150, 10), refused=[Refused("in", "#db", 6)])),
        status(),
    ):
        measured.update(SHOP, now, {})
    assert value(measured, RECEIVED) == 160
    assert value(measured, SENT) == 11
    assert value(measured, refused("in")) == 8
    assert value(measured, 'peers{state="connected"}') == 0


def test_task_unreadable_for_a_while_counts_once() -> None:
    measured = Metrics("0.1.0", "kernel")
    seen = status(device(1, peer(3, 10, 1)))
    measured.update(SHOP, seen, {})
    for _ in range(KEEP_UPDATES):
        measured.update(SHOP, status(), {})
    measured.update(SHOP, seen, {})
    assert value(measured, RECEIVED) == 10


def test_what_ended_is_not_remembered_for_ever() -> None:
    measured = Metrics("0.1.0", "kernel")
    measured.update(SHOP, status(device(1, peer(3, 10, 1), refused=[Refused("in", "", 1)])), {})
    for _ in range(KEEP_UPDATES + 1):
        measured.update(SHOP, status(), {})
    assert [totals._last for totals in (measured._received, measured._sent, measured._refused)] == [{}, {}, {}]


def test_remade_device_counts_from_zero() -> None:
    measured = Metrics("0.1.0", "kernel")
    for rx in (1000, 30, 50):
        measured.update(SHOP, status(device(1, peer(3, rx))), {})
    assert value(measured, RECEIVED) == 1050


def test_unattributed_counts_are_added_once_attributed() -> None:
    measured = Metrics("0.1.0", "kernel")
    seen = status(device(1, peer(3, 10), refused=[Refused("out", "#db", 4)]))
    for known in (graph(("db", 3)), graph(("web", 1)), graph(("web", 1), ("db", 3), services=["web"])):
        measured.update(known, seen, {})
        assert value(measured, RECEIVED) is None
    measured.update(SHOP, seen, {})
    assert value(measured, RECEIVED) == 10
    assert value(measured, refused("out")) == 4
    measured.update(graph(), status(device(1, peer(3, 15), refused=[Refused("out", "#db", 9)])), {})
    assert value(measured, RECEIVED) == 15, "what has been known stays so"
    assert value(measured, refused("out")) == 9


@given(st.lists(st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(0, 9)), max_size=3), max_size=12))
def test_no_counter_ever_goes_back(history: list[list[tuple[int, int]]]) -> None:
    measured = Metrics("0.1.0", "kernel")
    before: dict[str, float] = {}
    for step in history:
        devices = [device(n, peer(3, rx, rx), refused=[Refused("in", "#db", rx)]) for n, rx in dict(step).items()]
        measured.update(SHOP, status(*devices), {})
        now = {name: v for name, v in values(measured).items() if "_total{" in name}
        assert all(now[name] >= v for name, v in before.items())
        before = now


def test_no_label_holds_a_key_or_an_address() -> None:
    measured = Metrics("0.1.0", "kernel")
    measured.update(SHOP, status(device(1, peer(3, 10, 20))), {})
    assert str(key(3)) not in measured.text
    assert "10.1." not in measured.text
    assert "192.0.2" not in measured.text


def test_series_are_bounded_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many services a node's tasks talk to, and however many come and go."""
    monkeypatch.setattr(metrics, "MOST_LINKS", 4)
    measured = Metrics("0.1.0", "kernel")
    names = [f"db{n}" for n in range(1, 11)]
    many = graph(("web", 20), *((name, n) for n, name in enumerate(names, 1)), services=("web", *names))
    peers = [peer(n, 10, 1) for n in range(1, 11)]
    measured.update(many, status(device(20, *peers, refused=[Refused("in", "#db9", 3)])), {})
    received = {name: v for name, v in values(measured).items() if "link_receive" in name}
    assert len(received) == 5
    assert received['linkwire_link_receive_bytes_total{peer_service="(others)",service="(others)"}'] == 60
    assert sum(received.values()) == 100
    assert value(measured, 'refused_packets_total{direction="in",peer_service="(others)",service="(others)"}') == 3
    for _ in range(KEEP_UPDATES + 1):
        measured.update(many, status(), {})
    measured.update(many, status(device(20, *peers[4:8])), {})
    own = [name for name in values(measured) if "link_receive" in name and "others" not in name]
    assert {re.findall(r'peer_service="(\w+)"', name)[0] for name in own} == set(names[4:8])
