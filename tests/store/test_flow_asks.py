"""Flows of other nodes over a real etcd: who watches for whom, for how long, and who is believed.

No task runs here: each node's watcher tells what a test gives it. tests/netns/test_flows.py has the kernel's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from agent.asks import flow_answerer, flow_asker
from agent.asks.answerer import Answerer
from agent.asks.flow_answerer import FlowAnswerer
from agent.asks.flow_asker import FlowAsker
from agent.asks.writing import ShortLived
from agent.flows.batch import Batch, pack
from agent.flows.conntrack_events import Connection
from agent.flows.events import Begun, Counts, Event, Refusal, Seen
from agent.flows.link_lookup import Wanted
from agent.flows.watcher import Watcher
from agent.probes.examiner import Examiner
from agent.queries import flows
from agent.queries.flows import Flows
from agent.state.node_identity import Identity
from agent.wireguard.backend import probe
from mesh.errors import Retryable
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.model.asks.records import FlowAsk, Watched
from mesh.model.snapshot import Put, Snapshot
from mesh.store.client import Store
from mesh.topology.link_graph import index
from tests.store.etcd_server import EtcdServer
from tests.store.joining import joined
from tests.store.waiting import until
from tests.support.link_graphs import CLUSTER as MESH
from tests.support.link_graphs import endpoint, graph, service
from tests.support.signing import CLUSTER, KEYRING

Document = Mapping[str, Any]
WEB, DB = "10.1.0.1", "10.1.0.2"
GRAPH = graph(
    MESH,
    service("A", "shop_web", ("shop_db", "db")),
    service("B", "shop_db"),
    replace(endpoint("A", "web", 1), node="b"),
    replace(endpoint("B", "db", 2), node="c"),
)
"""web runs on b, db on c, and nothing on a."""


def connection(port: int) -> Connection:
    return Connection("tcp", IPv4Address(WEB), port, IPv4Address(DB), 5432, IPv4Address(DB))


def seen(task: str, port: int) -> Seen:
    return Seen(task, time.monotonic(), connection(port))


class Told(Watcher):
    """A watcher that tells what it is given, every fifth of a second, as often as it is asked."""

    def __init__(self) -> None:
        super().__init__(tuple, lambda: GRAPH)
        self.events: Callable[[], Sequence[Event]] = tuple
        self.tasks = 1
        self.running = 0

    def watch(self, wanted: Wanted, goes_on: Callable[[], bool]) -> Iterator[Event]:
        self.running += 1
        try:
            yield Begun(self.tasks, self.tasks)
            yield Counts(tasks=self.tasks)
            while goes_on():
                time.sleep(0.2)
                events = self.events()
                yield from events
                yield Counts(len(events), tasks=self.tasks)
        finally:
            self.running -= 1
        assert wanted("shop_web")


@dataclass
class Node:
    """An agent's part in this."""

    name: str
    store: Store
    written: ShortLived
    watcher: Told
    flows: Flows
    answerer: Answerer
    flow_answerer: FlowAnswerer
    identity: Identity


@dataclass
class Nodes:
    """Makes nodes on one etcd, members of the mesh."""

    etcd: EtcdServer
    root: str
    controller: Store
    folder: Path
    made: list[Node] = field(default_factory=list)

    def add(self, name: str, *, answers: bool = True) -> Node:
        identity = joined(self.controller, name, self.folder / f"{name}{len(self.made)}")
        return self.start(name, identity, answers=answers)

    def start(self, name: str, identity: Identity, *, answers: bool = True) -> Node:
        """An agent of a node that is a member already."""
        store = Store([self.etcd.endpoint], RecordSigner.agent(KEYRING, identity.key), root=self.root)
        written, watcher = ShortLived(store, identity), Told()
        flow_answerer = FlowAnswerer(name, CLUSTER, store, written, watcher)
        examiner = Examiner({}, lambda: index(Snapshot()), probe(), (51820, 51899))
        answerer = Answerer(name, CLUSTER, store, written, examiner, beside=flow_answerer.heard)
        asked = Flows(name, watcher, lambda merge: FlowAsker(name, CLUSTER, store, written, merge))
        node = Node(name, store, written, watcher, asked, answerer, flow_answerer, identity)
        self.made.append(node)
        if answers:
            answerer.start()
        return node

    def records(self) -> list[str]:
        """All keys of asks for flows and of what is told for them."""
        return sorted(
            key for prefix in (keyspace.FLOW_ASKS, keyspace.WATCHED) for key in self.controller.revisions(prefix)
        )

    def are_quiet(self) -> bool:
        """Whether nobody asks, watches or tells any more."""
        return not self.records() and not any(
            node.watcher.running or node.flow_answerer._watches for node in self.made
        )


@pytest.fixture
def nodes(
    etcd: EtcdServer, root: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Nodes]:
    monkeypatch.setattr(flows, "ANSWER_S", 2.0)
    monkeypatch.setattr(flows, "END_S", 2.0)
    made = Nodes(etcd, root, store, tmp_path)
    yield made
    for node in made.made:
        node.answerer.stop()
        node.store.close()


def watch(node: Node, seconds: float = 2.0, **more: object) -> list[Document]:
    return list(node.flows.flows({"seconds": seconds, "nodes": [], **more}))


def kind(documents: Sequence[Document], name: str) -> list[Document]:
    return [document for document in documents if document["kind"] == name]


def test_all_nodes_flows_are_told_by_one(nodes: Nodes) -> None:
    a, b, c = (nodes.add(name) for name in "abc")
    ports = iter(range(1, 1000))
    b.watcher.events = lambda: [seen("web", next(ports))]
    c.watcher.events = lambda: [Refusal("db", time.monotonic(), "in", "A", 2)]
    told = watch(a)
    assert [told[0]["kind"], told[-1]["kind"]] == ["watched", "end"]
    assert (told[0]["tasks"], told[0]["nodes_not_watched"], told[0]["problems"]) == (3, [], [])
    assert [each["node"] for each in told[0]["nodes"]] == ["a", "b", "c"]
    opened, refused = kind(told, "connection"), kind(told, "refused")
    assert {(each["node"], each["consumer"], each["provider"]) for each in opened} == {("b", "shop_web", "shop_db")}
    assert {(each["node"], each["service"], each["other"]) for each in refused} == {("c", "shop_db", "shop_web")}
    assert len(opened) >= 5
    assert len(refused) >= 5
    times = [each["time"] for each in told if "time" in each]
    assert times == sorted(times)
    assert abs(times[0] - time.time()) < 60
    assert told[-1]["shown"] == len(opened)
    assert [each["left_out"] for each in told[-1]["nodes"]] == [0, 0, 0]
    until(nodes.are_quiet, 5)


def test_nothing_is_left_out_between_batches(nodes: Nodes) -> None:
    a, b, _ = (nodes.add(name) for name in "abc")
    ports = iter(range(1, 1000))
    given: list[int] = []

    def events() -> list[Event]:
        given.append(next(ports))
        return [seen("web", given[-1])]

    b.watcher.events = events
    told = watch(a, 4.0)
    assert sorted(each["source_port"] for each in kind(told, "connection")) == given


def test_a_reader_that_goes_leaves_nothing(nodes: Nodes) -> None:
    a, b, c = (nodes.add(name) for name in "abc")
    stream = a.flows.flows({"seconds": 60, "nodes": []})
    assert next(iter(stream))["kind"] == "watched"
    assert (b.watcher.running, c.watcher.running) == (1, 1)
    assert nodes.records()
    stream.close()  # type: ignore[attr-defined]
    until(nodes.are_quiet, 5)


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_asker_that_dies_is_forgotten(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, *, is_kept: bool) -> None:
    """Also where somebody keeps its record alive, which needs no right but to write."""
    monkeypatch.setattr(flow_answerer, "EXPIRES_S", 2.0)
    a, b = nodes.add("a", answers=False), nodes.add("b")
    ask = FlowAsk("a", 0, "1" * 32, "", (), ending=False)
    put = a.store.sign(Put(ask, None), a.identity.generation())
    a.store.commit((put,))
    until(lambda: b.watcher.running == 1, 5)
    began = time.monotonic()
    while b.watcher.running and time.monotonic() < began + 10:
        if is_kept:
            a.store.commit((put,))
        time.sleep(0.5)
    assert 1.0 < time.monotonic() - began < 6
    time.sleep(1.0)
    assert (b.watcher.running, nodes.records()) == (0, ["askflows/a/0"])


def test_a_node_without_answer_is_named(nodes: Nodes) -> None:
    """As an agent of an earlier version, which does not hear the ask."""
    a, _, _ = nodes.add("a"), nodes.add("b"), nodes.add("c", answers=False)
    told = watch(a, 1.0)
    assert told[0]["nodes_not_watched"] == ["c"]
    assert told[-1]["nodes_not_watched"] == ["c"]
    assert told[-1]["problems"] == []


def test_several_nodes_ask_at_once(nodes: Nodes) -> None:
    a, b, c = (nodes.add(name) for name in "abc")
    ports = iter(range(1, 1000))
    b.watcher.events = lambda: [seen("web", next(ports))]
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(watch, node) for node in (a, a, c)]
        for job in asked:
            told = job.result()
            assert told[0]["nodes_not_watched"] == []
            assert len(kind(told, "connection")) >= 3
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(watch, a) for _ in range(flow_answerer.MOST_SLOTS)]
        until(lambda: b.watcher.running == flow_answerer.MOST_SLOTS, 5)
        with pytest.raises(Retryable, match="already"):
            watch(a)
        for job in running:
            job.result()
    until(nodes.are_quiet, 5)


def test_more_askers_than_a_node_serves_are_told(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_answerer, "MOST_WATCHES", 1)
    a, b, c = (nodes.add(name) for name in "abc")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(watch, c, 5.0)
        until(lambda: b.watcher.running == 1, 5)
        told = watch(a, 1.0)
        assert told[0]["nodes_not_watched"] == []
        assert next(each for each in told[0]["nodes"] if each["node"] == "b")["problems"] == [flow_answerer.BUSY]
        assert first.result()[0]["tasks"] == 2


def test_chosen_nodes_alone_are_asked(nodes: Nodes) -> None:
    a, b, c = (nodes.add(name) for name in "abc")
    told = watch(a, 1.0, nodes=["c"])
    assert [each["node"] for each in told[0]["nodes"]] == ["c"]
    assert (a.watcher.running, b.watcher.running) == (0, 0)
    assert told[-1]["nodes_not_watched"] == []
    assert c.watcher.running == 0


def test_an_earlier_plugin_gets_one_node(nodes: Nodes) -> None:
    a, b, _ = (nodes.add(name) for name in "abc")
    told = list(a.flows.flows({"seconds": 0.5}))
    assert (told[0]["tasks"], told[0]["nodes_not_watched"]) == (1, ["b", "c"])
    assert nodes.records() == []
    assert b.watcher.running == 0


def test_nothing_is_written_without_other_nodes(nodes: Nodes) -> None:
    a, _ = nodes.add("a"), nodes.add("b")
    before = nodes.controller.load((keyspace.MEMBERS,)).revision
    assert watch(a, 0.5, name="blog")[0]["nodes_not_watched"] == []
    assert nodes.controller.load((keyspace.MEMBERS,)).revision == before


def test_an_agent_that_may_not_ask_says_so(nodes: Nodes) -> None:
    a, _ = nodes.add("a"), nodes.add("b")
    reader = Store([nodes.etcd.endpoint], RecordSigner.reader(KEYRING), root=nodes.root)
    written = ShortLived(reader, a.identity)
    asked = Flows("a", a.watcher, lambda merge: FlowAsker("a", CLUSTER, a.store, written, merge))
    told = list(asked.flows({"seconds": 1.0, "nodes": []}))
    reader.close()
    assert (told[0]["tasks"], told[0]["nodes_not_watched"]) == (1, ["b", "c"])
    for document in (told[0], told[-1]):
        assert "other nodes cannot be asked: " in document["problems"][0]


class Liar:
    """A member that writes for an ask of a's whatever a test says."""

    def __init__(self, nodes: Nodes, name: str) -> None:
        self._nodes = nodes
        self.node = nodes.add(name, answers=False)

    def write(self, node: str, *events: Seen) -> None:
        """Write a batch under a node's key, signed by this one."""
        found: list[FlowAsk] = []

        def is_asked() -> bool:
            found[:] = self._nodes.controller.load((keyspace.FLOW_ASKS,)).all(FlowAsk)
            return bool(found)

        until(is_asked, 5)
        packed = pack(Batch(time.monotonic(), Begun(1, 1), seen=events))[0]
        self.node.written.write(Watched(node, "a", found[0].slot, 0, found[0].nonce, secrets.token_hex(8), 0, packed))


def test_a_node_tells_nothing_of_anothers_tasks(nodes: Nodes) -> None:
    a, _, liar = nodes.add("a"), nodes.add("b"), Liar(nodes, "c")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(watch, a)
        liar.write("c", seen("web", 6), seen("db", 7))
        told = asked.result()
    assert [(each["node"], each["source_port"]) for each in kind(told, "connection")] == [("c", 7)]
    assert [each["not_believed"] for each in told[-1]["nodes"]] == [0, 0, 1]


def test_what_another_node_signs_is_not_believed(nodes: Nodes) -> None:
    """As if it had that node's etcd user: only the signature tells then."""
    a, _, liar = nodes.add("a"), nodes.add("b", answers=False), Liar(nodes, "c")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(watch, a)
        liar.write("b", seen("web", 6))
        told = asked.result()
    assert kind(told, "connection") == []
    assert "b" in told[-1]["nodes_not_watched"]


def test_an_ask_in_anothers_name_stays_unanswered(nodes: Nodes) -> None:
    nodes.add("a", answers=False)
    b, thief = nodes.add("b"), nodes.add("thief", answers=False)
    thief.written.write(FlowAsk("a", 0, "1" * 32, "", (), ending=False))
    time.sleep(1.5)
    assert (b.watcher.running, b.flow_answerer._watches) == (0, {})
    assert nodes.records() == ["askflows/a/0"]


def test_an_agent_that_starts_anew_is_heard_again(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_asker, "RENEW_S", 1.0)
    a, b, _ = (nodes.add(name) for name in "abc")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(watch, a, 7.0)
        until(lambda: b.watcher.running == 1, 5)
        b.answerer.stop()
        anew = nodes.start("b", b.identity)
        ports = iter(range(1, 1000))
        anew.watcher.events = lambda: [seen("web", next(ports))]
        told = asked.result()
    assert len(kind(told, "connection")) >= 5


def test_a_node_that_joins_later_is_watched(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_asker, "RENEW_S", 1.0)
    a, _ = nodes.add("a"), nodes.add("b", answers=False)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(watch, a, 7.0)
        time.sleep(3.5)
        c = nodes.add("c")
        ports = iter(range(1, 1000))
        c.watcher.events = lambda: [seen("db", next(ports))]
        told = asked.result()
    assert told[0]["nodes_not_watched"] == ["b", "c"]
    assert told[-1]["nodes_not_watched"] == ["b"]
    assert {each["node"] for each in kind(told, "connection")} == {"c"}
