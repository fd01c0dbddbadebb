"""Questions between agents over a real etcd: who answers for whom, and who is believed."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.asks import asker as asking
from agent.asks import packing
from agent.asks.answerer import Answerer
from agent.asks.asker import Asker
from agent.asks.writing import ShortLived
from agent.probes.examiner import MOST_OWN, Examiner
from agent.state.node_identity import Identity
from agent.wireguard.backend import probe
from mesh.diagnosis.link_facts import Listener, Look
from mesh.diagnosis.questions import Answer, Question
from mesh.errors import InvalidRecordError
from mesh.integrity.record_signing import RecordSigner
from mesh.model import keyspace
from mesh.model.asks.records import Ask, Told
from mesh.model.snapshot import Snapshot
from mesh.store.client import Store
from mesh.topology.link_graph import index
from tests.store.etcd_server import EtcdServer
from tests.store.joining import joined
from tests.store.waiting import until
from tests.support.signing import CLUSTER, KEYRING

BOMB = zlib.compress(bytes(1 << 22))
NO_LINK = "this node's records do not have this link"


@dataclass
class Node:
    """An agent's part in this: no task runs there, so what it says of each is that it has none."""

    name: str
    store: Store
    identity: Identity
    written: ShortLived
    asker: Asker
    answerer: Answerer


@dataclass
class Nodes:
    """Makes nodes on one etcd, members of the mesh."""

    etcd: EtcdServer
    root: str
    controller: Store
    folder: Path
    made: list[Node] = field(default_factory=list)

    def add(self, name: str, *, answers: bool = True) -> Node:
        identity = joined(self.controller, name, self.folder / name)
        store = Store([self.etcd.endpoint], RecordSigner.agent(KEYRING, identity.key), root=self.root)
        written = ShortLived(store, identity)
        examiner = Examiner({}, lambda: index(Snapshot()), probe(), (51820, 51899))
        answerer = Answerer(name, CLUSTER, store, written, examiner)
        node = Node(name, store, identity, written, Asker(name, CLUSTER, store, written), answerer)
        self.made.append(node)
        if answers:
            answerer.start()
        return node


@pytest.fixture
def nodes(
    etcd: EtcdServer, root: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Nodes]:
    monkeypatch.setattr(asking, "ANSWER_S", 1.5)
    made = Nodes(etcd, root, store, tmp_path)
    yield made
    for node in made.made:
        node.answerer.stop()
        node.store.close()


def question(node: str, number: int = 0) -> Question:
    return Question(node, f"task{number}", "peer")


def asked_nonce(nodes: Nodes, asker: str) -> str:
    """The nonce of what a node asks just now."""
    found: list[str] = []

    def is_there() -> bool:
        record = nodes.controller.load((keyspace.ASKS,)).get(keyspace.ask(asker), Ask)
        found[:] = [record.nonce] if record is not None else []
        return bool(found)

    until(is_there, 5)
    return found[0]


def in_background(work: Callable[[], dict[int, Answer]]) -> Callable[[], dict[int, Answer]]:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    pool = ThreadPoolExecutor(1)
    return pool.submit(work).result


def test_each_node_answers_its_own_questions(nodes: Nodes) -> None:
    a, _, _ = (nodes.add(name) for name in "abc")
    began = time.monotonic()
    answers = a.asker.ask([question("b"), question("c"), question("b", 1)])
    assert {number: answer.look.error for number, answer in answers.items()} == dict.fromkeys(range(3), NO_LINK)
    assert time.monotonic() - began < asking.ANSWER_S
    assert not list(nodes.controller.load((keyspace.ASKS,)).all(Ask)), "the questions stayed"
    again = a.asker.ask([question("b")])
    assert again[0].look.error == NO_LINK


def test_silent_node_is_left_out(nodes: Nodes) -> None:
    a, _, _ = nodes.add("a"), nodes.add("b"), nodes.add("c", answers=False)
    assert a.asker.ask([question("b"), question("c")]).keys() == {0}


def test_answer_for_another_node_is_not_believed(nodes: Nodes) -> None:
    """As if it had that node's etcd user: only the signature tells then."""
    a, _, thief = nodes.add("a"), nodes.add("b", answers=False), nodes.add("thief", answers=False)
    answers = in_background(lambda: a.asker.ask([question("b")]))
    lie = packing.pack_answers({0: Answer(Look(0.0, error="a lie"))})
    thief.written.write(Told("b", "a", asked_nonce(nodes, "a"), lie))
    assert answers() == {}


def test_answer_to_other_questions_does_not_count(nodes: Nodes) -> None:
    a, b = nodes.add("a"), nodes.add("b", answers=False)
    answers = in_background(lambda: a.asker.ask([question("b")]))
    asked_nonce(nodes, "a")
    b.written.write(Told("b", "a", "0" * 32, packing.pack_answers({0: Answer(Look(0.0))})))
    assert answers() == {}


def test_node_answers_no_question_to_another(nodes: Nodes) -> None:
    a, b = nodes.add("a"), nodes.add("b", answers=False)
    nodes.add("c", answers=False)
    answers = in_background(lambda: a.asker.ask([question("c"), question("b")]))
    both = packing.pack_answers({number: Answer(Look(0.0)) for number in (0, 1, 2)})
    b.written.write(Told("b", "a", asked_nonce(nodes, "a"), both))
    assert answers().keys() == {1}


def test_questions_in_anothers_name_stay_unanswered(nodes: Nodes) -> None:
    nodes.add("a", answers=False)
    nodes.add("b")
    thief = nodes.add("thief", answers=False)
    thief.written.write(Ask("a", "1" * 32, packing.pack_questions([question("b")])))
    time.sleep(1.0)
    assert list(nodes.controller.load((keyspace.TOLD,)).all(Told)) == []


def test_many_questions_get_few_answers(nodes: Nodes) -> None:
    a, _ = nodes.add("a"), nodes.add("b")
    answers = a.asker.ask([question("b", number) for number in range(packing.MOST_QUESTIONS)])
    assert len(answers) == MOST_OWN
    with pytest.raises(ValueError, match="more than one ask holds"):
        a.asker.ask([question("b")] * (packing.MOST_QUESTIONS + 1))


def test_many_long_answers_come_compressed(nodes: Nodes) -> None:
    """Each is of a task with as many listeners as are told of."""
    a, b = nodes.add("a"), nodes.add("b", answers=False)
    answers = in_background(lambda: a.asker.ask([question("b", number) for number in range(MOST_OWN)]))
    listeners = tuple(Listener(port, "tcp", loopback=False) for port in range(1000, 1064))
    long = {number: Answer(Look(float(number), listeners=listeners)) for number in range(MOST_OWN)}
    b.written.write(Told("b", "a", asked_nonce(nodes, "a"), packing.pack_answers(long)))
    assert answers() == long


@pytest.mark.parametrize(
    "packed", [b"", b"[1]", b"[" * 9000, b'[{"node":1}]', b"x" * (packing.MAX_QUESTIONS + 1), BOMB]
)
def test_malformed_questions_are_refused(packed: bytes) -> None:
    with pytest.raises(InvalidRecordError):
        packing.unpack_questions(packed)


@pytest.mark.parametrize("packed", [b"", b"[[1]]", b'[[0,{"look":{}}]]', b"x" * (packing.MAX_ANSWERS + 1), BOMB])
def test_malformed_answers_are_refused(packed: bytes) -> None:
    with pytest.raises(InvalidRecordError):
        packing.unpack_answers(packed)


def test_malformed_ask_harms_nobody(nodes: Nodes) -> None:
    a, _ = nodes.add("a"), nodes.add("b")
    a.written.write(Ask("a", "1" * 32, b"nonsense"))
    time.sleep(0.3)
    assert a.asker.ask([question("b")])[0].look.error == NO_LINK
