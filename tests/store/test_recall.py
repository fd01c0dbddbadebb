"""An emptied etcd is filled again with what was signed: nothing changes for anybody, and nothing is slipped in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import ClassVar

import pytest

from agent.state.recovery import recalled
from controller.planning.planner import NO_ENCRYPTION, Planner
from controller.steps import Allocate, EncryptionGoal, OpenVault, Plan
from controller.swarm.model import Swarm
from mesh.crypto.hpke import NodePublicKey
from mesh.integrity.verification import verify_snapshot
from mesh.model import keyspace
from mesh.model.records import Address, Endpoint, Kept, Port, Recall, Recalled, Service, Status
from mesh.model.snapshot import Put, Snapshot
from mesh.store.client import Store
from tests.store.attacks import Attack, Gullible, what
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import Reader, SmallMesh, endpoints, settled
from tests.store.waiting import until
from tests.support.attacks import Attempts


@pytest.fixture
def mesh(etcd: EtcdServer, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, "/recall/v1/", tmp_path)


def signed(*readers: Reader) -> Mapping[str, object]:
    """All that was signed for these nodes, but for how often it was."""
    return {
        key: found.record
        for reader in readers
        for key, found in reader.believed.records.items()
        if keyspace.covered(key) or key.startswith(keyspace.sealed_key(reader.node, ""))
    }


def test_after_a_wipe_everything_is_as_it_was(mesh: SmallMesh, etcd: EtcdServer) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller():
        settled(one, two)
        mesh.live(one, two)
        before, generation = signed(one, two), one.believed.records["manifest"].generation
        assert sum(key.startswith("keys/") for key in before) == 6
        one.everything.clear()
        etcd.wipe()
        mesh.wake()
        until(lambda: one.verified() and one.believed.records["manifest"].generation > generation, 30)
        settled(one, two)
        assert signed(one, two) == before
        assert all(set(seen.records) >= set(one.believed.contents.entries) for seen in one.everything)
        mesh.live(one, two)  # what comes after it goes on as ever
        until(lambda: one.store.load([""]).get(keyspace.RECALL, Recall) is None)
        until(lambda: not list(one.store.load([""]).all(Recalled)))
        stored = one.store.load([""])
        held = {address.holder for address in stored.all(Address) if address.holder}
        tasks = {endpoint.task for endpoint in stored.all(Endpoint)}
        assert held == {f"service/{s.id}" for s in stored.all(Service)} | {f"task/{task}" for task in tasks}
        assert {port.task for port in stored.all(Port)} == tasks


def test_controller_started_after_wipe_knows_of_it(mesh: SmallMesh, etcd: EtcdServer) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with mesh.controller():
            settled(one, two)
        before = signed(one, two)
        etcd.wipe()
        with mesh.controller():
            until(lambda: one.verified() and two.verified(), 30)
            settled(one, two)
            assert signed(one, two) == before


def test_from_old_backup_it_continues_with_newest_state(mesh: SmallMesh, etcd: EtcdServer) -> None:
    """With the tasks that came since, and without those that ended."""
    attack = Attack(etcd, mesh.root)
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with mesh.controller():
            settled(one, two)
            attack.record()
            mesh.swarm.start("web")
            mesh.swarm.start("db")
            mesh.swarm.end(next(iter(mesh.swarm.tasks_now)))
            mesh.wake()
            settled(one, two, tasks=7)
        before = signed(one, two)
        one.everything.clear()
        attack.restore()
        until(lambda: bool(one.look()) and "an old state" in one.trust.held)
        with mesh.controller():
            until(lambda: one.verified() and two.verified(), 30)
            settled(one, two, tasks=7)
            until(lambda: signed(one, two) == before)  # what was private to an ended task is taken away at last
            assert {len(endpoints(seen)) for seen in one.everything} == {7}


class Liar(Reader):
    """Has seen what it says, and brings back something else."""

    lie: Callable[[Kept], Kept | None]
    told: Mapping[str, bytes] = {}

    def answered(self, answer: Sequence[Recalled]) -> Iterator[Put]:
        for part in answer:
            values = tuple(kept for told in part.values if (kept := type(self).lie(told)) is not None)
            self.told = {**self.told, **{kept.key: kept.value for kept in values}}
            yield Put(replace(part, values=values), None)


class Forger(Liar):
    """An endpoint is forged in what a node brings back after a wipe."""

    @staticmethod
    def lie(told: Kept) -> Kept | None:
        changed = told.key.startswith(keyspace.ENDPOINTS)
        return replace(told, value=told.value.replace(b"192.0.2.2", b"192.0.2.9")) if changed else told


class Withholder(Liar):
    """All endpoints are left out of what a node brings back after a wipe."""

    @staticmethod
    def lie(told: Kept) -> Kept | None:
        return None if told.key.startswith(keyspace.ENDPOINTS) else told


class Mute(Reader):
    says: Sequence[Recalled] = ()

    def answered(self, _: Sequence[Recalled]) -> Iterator[Put]:
        return (Put(part, None) for part in self.says)


@pytest.mark.parametrize("kind", [Forger, Withholder, Mute])
def test_who_brings_back_something_else_is_passed_over(
    mesh: SmallMesh, etcd: EtcdServer, kind: type[Reader], monkeypatch: pytest.MonkeyPatch, attempt: Attempts
) -> None:
    """Both have seen the newest; of two the one whose name comes last is asked first."""
    monkeypatch.setattr("controller.recovery.startup_barrier.HEAR_S", 3.0)
    with mesh.reader("n1") as one, mesh.reader("n2", kind=kind) as two, mesh.controller():
        settled(one, two)
        before = signed(one)
        one.everything.clear()
        etcd.wipe()
        until(lambda: one.verified() and two.verified(), 30)
        settled(one, two)
        assert signed(one) == before
        if isinstance(two, Liar):
            tried = attempt(f"a node's root: {what(kind)}")
            gullible = Store([etcd.endpoint], Gullible(), root=mesh.root)
            fooled = endpoints(gullible.opened(two.told.items()))
            tried.works(fooled != endpoints(one.believed), "to a controller that takes what it is given")
            tried.stopped(all(len(endpoints(seen)) == 6 for seen in one.everything))
            gullible.close()
        assert [r.underlay for s in one.everything for r in s.all(Endpoint) if "192.0.2.9" in str(r.underlay)] == []


def test_a_state_of_before_is_not_put_back(
    mesh: SmallMesh, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch, attempt: Attempts
) -> None:
    """Its own signature holds, and it is whole: but a newer one has been seen."""
    tried = attempt("a node's root: it brings back an old state after a wipe")
    monkeypatch.setattr("controller.recovery.startup_barrier.HEAR_S", 3.0)
    with mesh.reader("n1") as one, mesh.reader("n2", kind=Mute) as two, mesh.controller():
        settled(one, two)
        old, ended = one.believed, next(iter(mesh.swarm.tasks_now))
        mesh.swarm.end(ended)
        mesh.wake()
        settled(one, two, tasks=5)
        before = signed(one)
        one.everything.clear()
        monkeypatch.setattr(Mute, "says", recalled(Recall("n2"), "n2", old))
        etcd.wipe()
        until(lambda: one.verified() and two.verified(), 30)
        settled(one, two, tasks=5)
        assert signed(one) == before
        tried.works(verify_snapshot(old).verified, "to who asks no more than whether it is whole and signed")
        tried.stopped(not [e for seen in one.everything for e in seen.all(Endpoint) if e.task == ended])


def test_new_controller_hears_nodes_before_signing_on_backup(mesh: SmallMesh, etcd: EtcdServer) -> None:
    """In the backup is what the nodes said then, too: nothing in the store says that it is old."""
    attack = Attack(etcd, mesh.root)
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with mesh.controller():
            settled(one, two)
            until(lambda: all(saw_newest(reader, attack) for reader in (one, two)))
            attack.record()
            mesh.swarm.start("web")
            mesh.wake()
            settled(one, two, tasks=7)
        before = signed(one, two)
        for reader in (one, two):
            reader.hush()
        attack.restore()
        for key in ("vitals/n1", "vitals/n2"):
            attack.put(key, attack.recorded[key])
        with mesh.controller() as controller:
            until(lambda: controller._startup.waiting)
            assert attack.now()["manifest"] == attack.recorded["manifest"]
            one.speaks = two.speaks = True
            until(lambda: one.verified() and two.verified(), 30)
            settled(one, two, tasks=7)
            assert signed(one, two) == before


def saw_newest(reader: Reader, attack: Attack) -> bool:
    """Whether what lies in the store says that a node has seen what lies in the store."""
    status = reader.store.load([""]).get(keyspace.status(reader.node), Status)
    return reader.verified() and status is not None and status.manifest == attack.now()["manifest"]


class Shown(Planner):
    """Keeps the first plan that is made."""

    first: ClassVar[Plan | None] = None

    def plan(  # noqa: PLR0917 - as the planner's
        self,
        swarm: Swarm,
        stored: Snapshot,
        subnet: IPv4Network,
        now: int,
        members: Mapping[str, NodePublicKey],
        vault: OpenVault | None = None,
        encryption: EncryptionGoal = NO_ENCRYPTION,
    ) -> Plan:
        plan = super().plan(swarm, stored, subnet, now, members, vault, encryption)
        Shown.first = Shown.first or plan
        return plan


def test_plan_waits_for_nodes_and_runs_when_heard(mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.recovery.startup_barrier.HEAR_S", 600.0)
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with mesh.controller():
            settled(one, two)
        one.hush()
        two.hush()
        before, count = signed(one), one.believed.contents.total.count
        mesh.swarm.start("web")
        monkeypatch.setattr("controller.decider.Planner", Shown)
        monkeypatch.setattr(Shown, "first", None)
        with mesh.controller():
            until(lambda: Shown.first is not None, 30)
            assert Shown.first is not None
            assert [type(step) for step in Shown.first.steps] == [Allocate]
        stored = one.store.load([""])  # what it was about to do it has done by now
        assert {key: stored.records[key].record for key in before} == before
        assert stored.contents.total.count == count
        with mesh.controller():
            for reader in (one, two):
                reader.speaks = True
            settled(one, two, tasks=7)


def test_resting_address_rests_again_after_wipe(mesh: SmallMesh, etcd: EtcdServer) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller():
        settled(one, two)
        ended = max(mesh.swarm.tasks_now)
        (freed,) = (e.address for e in one.believed.all(Endpoint) if e.task == ended)
        mesh.swarm.end(ended)
        mesh.wake()
        settled(one, two, tasks=5)
        rests = Address(freed, None, "small")
        until(lambda: one.store.load([""]).get(keyspace.address(freed), Address) == rests)
        etcd.wipe()
        until(lambda: one.verified() and two.verified(), 30)
        until(lambda: one.store.load([""]).get(keyspace.address(freed), Address) == rests)
        settled(one, two, tasks=5)


class Moody(Reader):
    """Brings nothing back when it does not feel like it."""

    willing = True

    def answered(self, answer: Sequence[Recalled]) -> Iterator[Put]:
        return (Put(part, None) for part in answer if self.willing)


def test_node_that_brought_nothing_is_asked_again(
    mesh: SmallMesh, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.recovery.startup_barrier.HEAR_S", 3.0)
    with mesh.reader("n1", kind=Moody) as one, mesh.reader("n2", kind=Moody) as two, mesh.controller() as controller:
        assert isinstance(one, Moody)
        assert isinstance(two, Moody)
        settled(one, two)
        two.willing = False
        etcd.wipe()
        until(lambda: one.verified() and two.verified(), 30)
        mesh.live(one, two)
        assert controller._restore.passed_over == set()
        before = signed(one)
        one.willing, two.willing = False, True
        etcd.wipe()
        until(lambda: one.verified() and two.verified(), 30)
        settled(one, two)
        shared = {key: record for key, record in before.items() if keyspace.covered(key)}
        assert {key: record for key, record in signed(one).items() if keyspace.covered(key)} == shared


def test_a_restore_survives_deletion_of_the_leaders_record(
    mesh: SmallMesh, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease lives on, so that only the failed commits of the restore itself can tell the leader."""
    monkeypatch.setattr("controller.recovery.startup_barrier.HEAR_S", 600.0)
    with mesh.reader("n1", kind=Moody) as one, mesh.reader("n2", kind=Moody) as two, mesh.controller():
        assert isinstance(one, Moody)
        assert isinstance(two, Moody)
        settled(one, two)
        until(lambda: sum(key.startswith("keys/") for key in signed(one, two)) == 6)
        before = signed(one, two)
        one.willing = two.willing = False
        etcd.wipe()
        attack = Attack(etcd, mesh.root)
        until(lambda: keyspace.RECALL in attack.now(), 30)
        attack.delete(keyspace.LEADER)
        one.willing = two.willing = True
        until(lambda: one.verified() and two.verified() and keyspace.LEADER in attack.now(), 30)
        settled(one, two)
        assert signed(one, two) == before
