"""Who judges only what a change reaches believes what one believes who judges everything each time."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.index.baseline import WHOLE_S
from controller.swarm.list_cache import ListCache
from controller.swarm.model import Swarm, SwarmNode, SwarmTask
from controller.trust.node_judgement import BelievedSnapshots, Judged, Members
from mesh.crypto.signed_envelope import Keyring, Signer
from mesh.integrity.record_signing import RecordSigner
from mesh.integrity.signature_cache import SignatureCache
from mesh.model import codec, keyspace
from mesh.model.records import Cluster, Member, Node, Record, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.store.follower import Batch, MaterializedView, RecordChange
from mesh.topology.ipam import ula
from tests.support.signing import SIGNING_KEY
from tests.support.swarm_ca import CLUSTER
from tests.unit.controller.test_node_judgement import N1, N2, NOW, OWN_LINK, ROOT, SUBNET, Agent, member

SEAL = RecordSigner(Keyring(CLUSTER, (SIGNING_KEY.verify_key,)), {"controller": Signer(CLUSTER, SIGNING_KEY)})
NODES, TASKS = (N1, N2), ("t1", "t2")
PROVEN, APPROVED, STRANGER, OTHER = Agent(N1), Agent(N1), Agent(N1), Agent(N2)
AGENTS = (PROVEN, APPROVED, STRANGER, OTHER)
REPORTS = tuple(keyspace.report(node, task) for node in NODES for task in TASKS)
KEYS = (*map(keyspace.node, NODES), *map(keyspace.member, NODES), *REPORTS)


@cache
def spoken() -> tuple[tuple[str, bytes], ...]:
    """All that is ever written, signed once: what is written again is an earlier value."""
    found = []
    for agent in AGENTS:
        found.append(agent.signed(agent.record(proven=agent is PROVEN or agent is OTHER)))
        found += [agent.signed(agent.report(task)) for task in TASKS]
    PROVEN.counter = 2
    found += [PROVEN.signed(PROVEN.record()), PROVEN.signed(PROVEN.report("t1", wired=False))]
    members = [Member(N1, agent.sealing_key.public, agent.key.verify_key, n) for agent in AGENTS[:3] for n in (1, 2)]
    found += [written(one) for one in (*members, member(OTHER))]
    return tuple(found)


def written(record: Record) -> tuple[str, bytes]:
    key = keyspace.key_of(record)
    return key, SEAL.sign(key, 1, codec.encode(record))


def node(name: str, approved: Agent | None) -> SwarmNode:
    label = approved.record().statement(CLUSTER).fingerprint if approved is not None else None
    return SwarmNode(name, f"host-{name}", down=False, address=None, approved=label)


@dataclass(frozen=True, slots=True)
class Moves:
    """A task that runs on another node from now on; None: it has ended."""

    task: str
    to: str | None


@dataclass(frozen=True, slots=True)
class Joins:
    """A node as Swarm lists it from now on; `listed` False: it has left."""

    name: str
    approved: Agent | None
    listed: bool


@dataclass(frozen=True, slots=True)
class Passes:
    """Time."""

    seconds: float


Written = tuple[str, bytes | None]
keys = st.sampled_from(KEYS)
puts = st.integers(0, 19).map(lambda n: spoken()[n % len(spoken())])
actions = st.one_of(
    puts,
    puts,
    puts,
    keys.map(lambda key: (key, None)),
    keys.map(lambda key: (key, b"garbage")),
    st.builds(Moves, st.sampled_from(TASKS), st.sampled_from((*NODES, None))),
    st.builds(
        Joins,
        st.sampled_from(NODES),
        st.sampled_from((None, APPROVED, STRANGER)),
        st.sampled_from((True, True, False)),
    ),
    st.sampled_from((Passes(WHOLE_S), Passes(100.0), Passes(365 * 86400.0))),
    st.just("anew"),
)
histories = st.lists(st.lists(actions, min_size=1, max_size=2), max_size=12)


class World:
    """A store and a Swarm, as somebody sees them who follows both."""

    def __init__(self) -> None:
        self.picture = MaterializedView(SEAL)
        self.held: dict[str, tuple[bytes, int]] = {}
        self.lists = ListCache()
        self.tasks: dict[str, SwarmTask] = {}
        self.nodes = {name: node(name, None) for name in NODES}
        self.now = NOW
        self.put(*written(Cluster(CLUSTER, SUBNET, ula(CLUSTER))))
        self.listed()

    def put(self, key: str, raw: bytes | None) -> None:
        revision = self.picture.revision + 1
        self.picture.apply(Batch(revision, whole=False, changes=[RecordChange(key.encode(), raw, revision)]))
        self.held.pop(key, None)
        if raw is not None:
            self.held[key] = raw, revision

    def act(self, action: Written | Moves | Joins | Passes | str) -> None:
        match action:
            case (str() as key, raw):
                self.put(key, raw)
            case Moves(task, None):
                self.tasks.pop(task, None)
            case Moves(task, to):
                self.tasks[task] = SwarmTask(task, OWN_LINK.id, 1, str(to), "running", "running")
            case Joins(name, approved, True):
                self.nodes[name] = node(name, approved)
            case Joins(name, _, _):
                self.nodes.pop(name, None)
            case Passes(seconds):
                self.now += timedelta(seconds=seconds)
            case _:
                changes = [RecordChange(key.encode(), raw, revision) for key, (raw, revision) in self.held.items()]
                self.picture.replace(Batch(self.picture.revision, whole=True, changes=changes))
        self.listed()

    def listed(self) -> None:
        self.lists.update_services({OWN_LINK.id: OWN_LINK})
        self.lists.update_nodes(self.nodes)
        self.lists.update_tasks(self.tasks)

    def seen(self) -> tuple[Swarm, Snapshot]:
        return self.lists.swarm(CLUSTER, (ROOT.pem,)), self.picture.snapshot(complete=True)


def said(judged: Judged) -> tuple[object, ...]:
    stored = judged.stored
    return dict(stored.records), dict(stored.invalid), dict(judged.members), judged.steps, judged.problems


def differing(old: Snapshot, new: Snapshot) -> set[str]:
    records = {key for key in {*old.records, *new.records} if old.records.get(key) is not new.records.get(key)}
    return records | {key for key in {*old.invalid, *new.invalid} if old.invalid.get(key) != new.invalid.get(key)}


class Unforgetting(SignatureCache):
    """Keeps every generation: those of tasks that are over are else forgotten whenever everything is judged."""

    def drop_stale(self, present: Container[str], living: Container[str]) -> None:  # noqa: ARG002 - as Signatures'
        super().drop_stale(present, set(self._floors))


class Interrupted(BelievedSnapshots):
    """Has some judgements die before they have said what came of them."""

    dies = False

    def next(self, stored: Snapshot, left_out: Mapping[str, str | None]) -> Snapshot:
        if self.dies:
            raise InterruptedError
        return super().next(stored, left_out)


@settings(max_examples=300, deadline=None)
@given(histories, st.sets(st.integers(0, 6)))
def test_incremental_judgement_equals_a_full_one(
    history: list[list[Written | Moves | Joins | Passes | str]], dies: set[int]
) -> None:
    world = World()
    quick, plain = Members(), Members()
    quick._snapshots = interrupted = Interrupted()
    quick._beliefs.signatures, plain._beliefs.signatures = Unforgetting(CLUSTER), Unforgetting(CLUSTER)
    before: list[Judged] = []
    for number, step in enumerate([[], *history]):
        for action in step:
            world.act(action)
        swarm, stored = world.seen()
        if number in dies:
            interrupted.dies = True
            with contextlib.suppress(InterruptedError):
                quick.judge(swarm, stored, world.now)
            interrupted.dies = False
        judged = quick.judge(swarm, stored, world.now)
        whole = plain.judge(replace(swarm, trail=None), replace(stored, trail=None), world.now)
        assert said(judged) == said(whole)
        assert quick.accepted == plain.accepted
        for kind in (Cluster, Member, Node, TaskReport):
            assert list(judged.stored.all(kind)) == [
                v.record for v in judged.stored.records.values() if isinstance(v.record, kind)
            ]
        for earlier in before:
            changed = judged.stored.changed_since(earlier.stored)
            assert changed is None or changed >= differing(earlier.stored, judged.stored)
        before.append(judged)
