"""Links described at the cost of what differs: the same as by a plain walk, over changes of all that it rests on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from agent.queries.server import encoded
from agent.status.link_pairs import LinkPairs
from agent.status.link_status import SILENT_AFTER_S, PairsForm, Reader, inspect
from agent.status.link_totals import MOST, MOST_OF_LINK, IllPair, Totals, named
from agent.wireguard.peer_health import ANSWER_S, state
from compose_ext.swarm import link_states
from mesh.model import codec, device_readings, keyspace
from mesh.model.device_readings import DeviceReading, PeerReading
from mesh.model.pair_columns import with_pairs
from mesh.model.records import (
    BrokenPeers,
    DeviceStatus,
    Endpoint,
    PeerStatus,
    Record,
    Refused,
    Service,
    Status,
    TaskReport,
    View,
)
from mesh.model.snapshot import Snapshot, Versioned
from mesh.topology.link_graph import index
from tests.unit.agent.test_link_status import NOW, SHOP, endpoint, key, node, report, service

TASKS = range(1, 9)
SERVICES = ("shop_web", "shop_db", "shop_cache")
AGES = {1: 60.0, 2: 20.0, 3: 15.0, 4: 3.0}
"""Seconds since the store was at a revision."""
READ = 4
"""Revision of what nodes read."""
FORMS: tuple[PairsForm, ...] = ("objects", "columns", "totals", "states")
WORST_FIRST = ("broken", "unwired", "unknown")


def service_of(task: int) -> str:
    return SERVICES[task % len(SERVICES)]


def revision(record: Record) -> int:
    if isinstance(record, TaskReport):
        return 1 + int(record.task[1:]) % 3
    return READ if isinstance(record, Status) else 2


def taken(records: Iterable[Record]) -> Snapshot:
    return Snapshot(1, True, {keyspace.key_of(record): Versioned(record, revision(record)) for record in records})


def first() -> dict[str, Record]:
    linked = [service(name, *SERVICES, "nowhere") for name in SERVICES]
    ends = [endpoint(service_of(task), task, slot=task % 2) for task in TASKS]
    records: list[Record] = [SHOP[0], *linked, *ends, *(node(task) for task in TASKS)]
    records += (report(service_of(task), task) for task in TASKS)
    records += (read(Random(task), task) for task in TASKS)  # noqa: S311 - no secrets
    return {keyspace.key_of(record): record for record in records}


def read(random: Random, task: int) -> Status:
    """A reading of a task's device, in which some peers are missing or unanswered."""
    ages = (None, 0.0, 179.9, 180.0, 500.0)
    seen = [peer for peer in TASKS if peer != task and random.random() < 0.8]
    peers = tuple(
        PeerStatus(key(peer), random.choice(ages), random.getrandbits(9), random.getrandbits(9), None)
        for peer in seen
    )
    silent = tuple(BrokenPeers(f"t{task}", (key(peer),), 10.0 + peer) for peer in seen if random.random() < 0.2)
    return Status(f"n{task}", NOW - random.randrange(9), (DeviceStatus(f"t{task}", None, peers, ()),), broken=silent)


def change(random: Random, records: dict[str, Record]) -> None:
    """Change one record, as a node or the controller may."""
    task = random.choice(TASKS)
    end, told = endpoint(service_of(task), task, slot=task % 2), report(service_of(task), task)
    failing = replace(told, wired=random.random() < 0.5, error=random.choice((None, f"error {task}")))
    made = random.choice((read(random, task), told, failing, end, replace(end, suspect=True), node(task)))
    if random.random() < 0.2:
        records.pop(keyspace.key_of(made), None)
    else:
        records[keyspace.key_of(made)] = made


def by_walk(stored: Snapshot) -> list[list[dict[str, Any]]]:
    """The pairs of each link, each described from the records alone."""
    graph, links = index(stored), []
    silent = {each.node for each in graph.by_task.values() if each.suspect}
    for consumer in sorted(graph.services.values(), key=lambda each: each.name):
        for link in consumer.links:
            providers = [graph.services[one] for one in graph.by_name.get(link.provider, ())]
            links.append(
                [
                    _pair(stored, silent, (consumer, mine), (provider, theirs))
                    for mine in graph.endpoints.get(consumer.id, ())
                    for provider in providers
                    for theirs in graph.endpoints.get(provider.id, ())
                    if theirs.task != mine.task
                ]
            )
    return links


def _pair(
    stored: Snapshot, silent: set[str], one: tuple[Service, Endpoint], other: tuple[Service, Endpoint]
) -> dict[str, Any]:
    names = []
    for owner, end in (one, other):
        record = stored.get(keyspace.node(end.node), type(node(1)))
        hostname = record.hostname if record else end.node
        names += [f"{owner.name}.{end.slot or hostname}.{end.task}", hostname]
    mine, theirs = one[1], other[1]
    status = stored.get(keyspace.status(mine.node), Status)
    device = next((d for d in status.devices if d.task == mine.task), None) if status else None
    peer = next((p for p in device.peers if p.public_key == theirs.public_key), None) if device else None
    broken = [_broken(stored, mine, theirs), _broken(stored, theirs, mine)]
    seconds = max((each for each in broken if each is not None), default=None)
    reports = [stored.get(keyspace.report(end.node, end.task), TaskReport) for end in (mine, theirs)]
    unwired = [each for each in reports if each is not None and not each.wired]
    errors = [each.error for each in (*unwired, *reports) if each is not None and each.error]
    told, lasts = ("unwired", None) if unwired else ("", None)
    if not told and (device is None or mine.node in silent):
        told, lasts = "unknown", AGES[2] + SILENT_AFTER_S if mine.node in silent else None
    elif not told:
        began = peer is not None and (peer.handshake_age is not None or None not in reports)
        told, lasts = (state(peer.handshake_age, seconds), seconds) if peer and began else ("unwired", None)
    return {
        "consumer_task": names[0],
        "consumer_node": names[1],
        "provider_task": names[2],
        "provider_node": names[3],
        "state": told,
        "for": lasts,
        "handshake_age": peer.handshake_age if peer else None,
        "rx": peer.rx_bytes if peer else 0,
        "tx": peer.tx_bytes if peer else 0,
        "error": errors[0] if errors else None,
        "as_of": round(NOW - status.written, 1) if status else None,
    }


def _broken(stored: Snapshot, mine: Endpoint, theirs: Endpoint) -> float | None:
    """For how long one end got no answer since both said that they were wired; None where that is no fault yet."""
    status = stored.get(keyspace.status(mine.node), Status)
    found = [b.seconds for b in status.broken if theirs.public_key in b.peers] if status else []
    for end in (mine, theirs):
        report_key = keyspace.report(end.node, end.task)
        said = stored.get(report_key, TaskReport)
        found += [AGES[stored.revision_of(report_key)] - AGES[READ]] if said and found else []
    return min(found) if found and min(found) >= ANSWER_S else None


@pytest.mark.parametrize("seed", range(30))
def test_links_are_described_as_by_a_walk(seed: int) -> None:
    random, records = Random(seed), first()  # noqa: S311 - no secrets
    for _ in range(15):
        change(random, records)
        stored = taken(records.values())
        reader = Reader(age=AGES.get, verified=stored)
        made, summed, counted = (
            inspect(stored, NOW, None, reader, form=each) for each in ("objects", "totals", "states")
        )
        walked = by_walk(stored)
        assert [link.pop("pairs") for link in made["links"]] == walked
        states = [dict(sorted(Counter(pair["state"] for pair in pairs).items())) for pairs in walked]
        assert [link.pop("states") for link in counted["links"]] == states
        assert [link.pop("states") for link in summed["links"]] == states
        assert [link.pop("totals") for link in summed["links"]] == list(map(totals, walked))
        for pairs, worst in zip(walked, [link.pop("worst") for link in summed["links"]], strict=True):
            ill = [pair for pair in pairs if pair["state"] in WORST_FIRST]
            ranked = sorted((pair["state"] for pair in ill), key=WORST_FIRST.index)
            assert [pair["state"] for pair in worst] == ranked[:3]
            assert all(pair in ill for pair in worst)
        assert made == summed == counted, "but for their pairs they are the same"
        assert {text.split(" on node")[0] for text in made["unanswered"]} <= {
            pair["consumer_task"] for pairs in walked for pair in pairs if pair["state"] == "broken"
        }
        assert bool(made["unanswered"]) == any(pair["state"] == "broken" for pairs in walked for pair in pairs)


def totals(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the pairs of a link come to."""
    ages = [pair["handshake_age"] for pair in pairs if pair["handshake_age"] is not None]
    received, sent = sum(pair["rx"] for pair in pairs), sum(pair["tx"] for pair in pairs)
    return {"rx": received, "tx": sent, "handshake_age": min(ages, default=None)}


def test_few_pairs_are_named_the_worst_links_first() -> None:
    def ill(state: str) -> IllPair:
        return IllPair(state, 0, 1, None, None, None)

    links = [Totals() for _ in range(MOST)]
    for number, one in enumerate(links):
        one.name(ill("broken" if number % 2 else "unknown") for _ in range(9))
    chosen = list(named(links))
    assert [len(pairs) for pairs in chosen[1::2]] == [MOST_OF_LINK] * (MOST // MOST_OF_LINK) + [0] * 10
    assert not any(chosen[::2]), "no room is left for those that are less bad"


def test_sums_fit_whatever_nodes_say() -> None:
    one = Totals()
    one.count([PeerReading("", None, 2**64 - 1, 2**64 - 1)] * 2)
    assert one.described() == {"rx": 2**64 - 1, "tx": 2**64 - 1, "handshake_age": None}


def viewed(records: Mapping[str, Record], numbers: dict[str, tuple[object, int]]) -> Snapshot:
    """The records as in the store: devices in views, and a generation that grows when a record is another."""
    stored: list[Record] = []
    for record in records.values():
        if isinstance(record, Status):
            stored += device_readings.pack(record.node, record.written, record.devices)
        stored.append(replace(record, devices=()) if isinstance(record, Status) else record)
    for record in stored:
        key_of = keyspace.key_of(record)
        last, number = numbers.get(key_of, (None, 0))
        numbers[key_of] = record, number + (last != record)
    found = {
        keyspace.key_of(each): Versioned(each, revision(each), numbers[keyspace.key_of(each)][1]) for each in stored
    }
    return Snapshot(1, True, found)


@pytest.mark.parametrize("by_view", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_kept_pairs_equal_pairs_described_anew(seed: int, *, by_view: bool) -> None:
    """What an agent keeps between two questions is never seen in an answer."""
    random, records = Random(seed), first()  # noqa: S311 - no secrets
    kept, numbers = LinkPairs(), dict[str, tuple[object, int]]()
    graph, graphed = index(taken(records.values())), dict[str, Service | Endpoint]()
    for turn in range(20):
        if turn % 3:  # else asked again, with nothing else to say
            change(random, records)
        stored = viewed(records, numbers) if by_view else taken(records.values())
        controllers = {key: each for key, each in records.items() if isinstance(each, Service | Endpoint)}
        if controllers != graphed:
            graph, graphed = index(stored), controllers
        form = random.choice(FORMS)
        reader, now = Reader(age=AGES.get, verified=stored), NOW + turn
        told = inspect(stored, now, None, reader, graph, form=form, pairs=kept)
        assert plain(told) == plain(inspect(stored, now, None, reader, form=form))


def test_unchanged_views_are_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, unpacked = dict[str, tuple[object, int]](), list[str]()
    records = {key: replace(each, broken=()) if isinstance(each, Status) else each for key, each in first().items()}
    unpack = device_readings.unpack

    def noted(view: View) -> tuple[DeviceReading, ...]:
        unpacked.append(view.node)
        return unpack(view)

    monkeypatch.setattr(device_readings, "unpack", noted)
    kept, graph = LinkPairs(), index(taken(records.values()))
    for _ in range(3):
        stored = viewed(records, numbers)
        inspect(stored, NOW, None, Reader(verified=stored), graph, form="columns", pairs=kept)
    assert sorted(unpacked) == [f"n{task}" for task in TASKS]
    records[keyspace.status("n3")] = replace(read(Random(99), 3), broken=())  # noqa: S311 - no secrets
    stored = viewed(records, numbers)
    inspect(stored, NOW, None, Reader(verified=stored), graph, form="columns", pairs=kept)
    assert unpacked[len(TASKS) :] == ["n3"]


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """A document as whoever asked for it gets it."""
    read: dict[str, Any] = json.loads(encoded(document))
    return read


@pytest.mark.parametrize("name", ["plain", "Zürich", "\ud800"])
def test_columns_say_the_same_as_objects(name: str) -> None:
    records = first()
    records[keyspace.node("n1")] = replace(node(1), hostname=name)
    stored = taken(records.values())
    columns = plain(inspect(stored, NOW, form="columns"))
    assert with_pairs(columns) == plain(inspect(stored, NOW))
    assert len(columns["measured"]) == len(TASKS)


@pytest.mark.parametrize("seed", range(5))
def test_views_say_the_same_as_statuses(seed: int) -> None:
    """The devices come from views in the store, and from the status that the own agent has read last."""
    random, records = Random(seed), first()  # noqa: S311 - no secrets
    for _ in range(20):
        change(random, records)
    statuses = [record for record in records.values() if isinstance(record, Status)]
    views = [view for each in statuses for view in device_readings.pack(each.node, each.written, each.devices)]
    others = [record for record in records.values() if not isinstance(record, Status)]
    stored = [codec.decode(keyspace.key_of(view), codec.encode(view)) for view in views]
    bare = [replace(each, devices=(), written=1.0) for each in statuses]
    by_view, by_status = taken([*others, *bare, *stored]), taken([*others, *statuses])
    assert inspect(by_view, NOW, None, Reader(verified=by_view)) == inspect(
        by_status, NOW, None, Reader(verified=by_status)
    )


@pytest.mark.parametrize("text", ["plain", "Zürich", "a\u2028b", "\ud800", '"\\\n'])
def test_documents_are_ascii(text: str) -> None:
    made = encoded({"text": text, "number": 1.5, "none": None, "rows": ({"x": 2**63},)})
    assert made.isascii()
    assert json.loads(made) == {"text": text, "number": 1.5, "none": None, "rows": [{"x": 2**63}]}


@pytest.mark.parametrize("form", FORMS)
def test_no_node_makes_the_answer_unreadable(form: PairsForm) -> None:
    """A node may sign any number; a reader refuses an answer with one that no counter can have."""
    records, most = first(), 2**63 - 1
    for task in TASKS:
        peers = tuple(PeerStatus(key(peer), 2.0**53, most, most, None) for peer in TASKS if peer != task)
        refused = tuple(Refused(way, f"#{name}", most) for way in ("in", "out", "apart") for name in SERVICES)
        broken = (BrokenPeers(f"t{task}", tuple(key(peer) for peer in TASKS if peer != task), 1e300),)
        devices = (DeviceStatus(f"t{task}", None, peers, refused),)
        records[keyspace.status(f"n{task}")] = Status(f"n{task}", NOW, devices, broken=broken)
    stored = viewed(records, {})
    told = plain(inspect(stored, NOW, None, Reader(verified=stored), form=form))
    links = link_states.judged(told).links
    assert {state for link in links for state in link.states} == {"broken"}
    assert max(link.refused or 0 for link in links) > most
