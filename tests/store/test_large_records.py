"""Large labels of one service hold up nobody else: neither a record too large for etcd, nor many in one plan."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.status.link_status import signers
from controller.swarm.model import SwarmService
from controller.trust.signed_writer import SignedWriter
from mesh.crypto.signed_envelope import Keyring, SigningKey
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels
from mesh.model.labels.ports import PortRange
from mesh.model.records import Recall, Service
from mesh.model.snapshot import Op
from mesh.store import packing
from mesh.store.etcd_channel import ChannelPool
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh, endpoints, settled, swarm_service
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.signing import CLUSTER, SIGNING_KEY


@pytest.fixture
def mesh(etcd: EtcdServer, tmp_path: Path, root: str) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


def with_ports(name: str, ranges: int) -> SwarmService:
    """A service of no task that links to `db` with so many port ranges, some 45 bytes each in its record.

    `labels.decode` reads no such labels; this is about what writes records.
    """
    ports = tuple(PortRange("tcp", 20_000 + n, 20_000 + n) for n in range(0, 2 * ranges, 2))
    found = swarm_service(name)
    return replace(found, labels=ServiceLabels((LinkLabel("db", ("db",), ports),)), replicas=0)


def problems(logs: Sequence[Any], event: str = "problem found") -> list[str]:
    return [entry["reason"] for entry in logs if entry["event"] == event and "bad" in entry["reason"]]


@pytest.mark.parametrize(
    ("what", "services", "ranges"),
    [
        ("one service's labels, too large for etcd", 1, 22_000),
        ("labels of several services, too large together", 5, 12_000),
    ],
)
def test_large_labels_stop_nobody_elses_wiring(  # noqa: PLR0917 - pytest names them
    mesh: SmallMesh, attempt: Attempts, monkeypatch: pytest.MonkeyPatch, what: str, services: int, ranges: int
) -> None:
    """The defence is off in a controller that packs steps by their number alone, as earlier versions did."""
    tried = attempt(f"may create services: {what}, keep every task of the Swarm from being wired")
    mesh.swarm.services_now |= {f"#bad{n}": with_ports(f"bad{n}", ranges) for n in range(services)}
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        with monkeypatch.context() as off, capture_logs() as logs:
            off.setattr(packing, "keyspace", SimpleNamespace(limit=lambda _: sys.maxsize))
            off.setattr(packing, "MAX_BYTES", sys.maxsize)
            with mesh.controller():
                until(lambda: [entry["event"] for entry in logs].count("controller pass failed, retrying") >= 2, 20)
                tried.works(not endpoints(one.believed))
        with mesh.controller():
            settled(one, two)
            tried.stopped(len(endpoints(one.believed)) == len(mesh.swarm.tasks_now))


def test_a_service_too_large_is_one_problem(mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[Sequence[Op]] = []
    commit = SignedWriter.commit

    def counted(ledger: SignedWriter, ops: Sequence[Op], *, sign: bool = True) -> int | None:
        commits.append(ops)
        return commit(ledger, ops, sign=sign)

    monkeypatch.setattr(SignedWriter, "commit", counted)
    parts = [with_ports("bad", 22_000)]
    mesh.swarm.services_now |= {service.id: service for service in parts}
    with capture_logs() as logs, mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller():
        settled(one, two)
        mesh.live(one, two)
        written = len(commits)
        for _ in range(5):
            mesh.wake()
            until(lambda: one.verified() and two.verified())
        assert len(commits) == written, "written again and again"
        (problem,) = problems(logs)
        assert problem.startswith("service bad: its labels are not applied: services/#bad: ")
        assert one.believed.get(keyspace.service("#bad"), Service) is None
        assert not [entry for entry in logs if entry["event"] == "controller pass failed, retrying"]
        mesh.swarm.services_now |= {"#bad": with_ports("bad", 10)}
        mesh.wake()
        until(lambda: one.verified() and one.believed.get(keyspace.service("#bad"), Service) is not None)
        until(lambda: problems(logs, "problem solved") == [problem])


def test_tasks_of_an_unwritten_service_get_no_endpoint(mesh: SmallMesh) -> None:
    mesh.swarm.services_now |= {"#bad": with_ports("bad", 22_000)}
    task = mesh.swarm.start("bad")
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller():
        settled(one, two)
        assert not [key for key in one.believed.records if task in key]
        mesh.swarm.services_now |= {"#bad": with_ports("bad", 10)}
        mesh.wake()
        settled(one, two, tasks=7)


def test_the_old_key_goes_despite_a_large_service(mesh: SmallMesh) -> None:
    new = SigningKey.generate()
    both = Keyring(CLUSTER, (SIGNING_KEY.verify_key, new.verify_key))
    mesh.swarm.services_now |= {"#bad": with_ports("bad", 22_000)}
    with mesh.reader("n1", keyring=both) as one, mesh.reader("n2", keyring=both) as two:
        with mesh.controller():
            settled(one, two)
        with mesh.controller(new, both):
            until(lambda: signers(one.store.load([""])) == [new.verify_key.id.hex()])


def test_records_too_large_together_are_written(mesh: SmallMesh) -> None:
    mesh.swarm.services_now |= {f"#large{n}": with_ports(f"large{n}", 12_000) for n in range(5)}
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller():
        settled(one, two)
        assert len(list(one.believed.all(Service))) == 7


def test_large_records_come_back_after_a_wipe(mesh: SmallMesh, etcd: EtcdServer) -> None:
    mesh.swarm.services_now |= {f"#large{n}": with_ports(f"large{n}", 9_500) for n in range(4)}
    with mesh.reader("n1") as one, mesh.reader("n2") as two, mesh.controller():
        settled(one, two)
        before = {key: one.believed.records[key].record for key in one.believed.contents.entries}
        generation = one.believed.records["manifest"].generation
        with closing(ChannelPool([etcd.target], 5.0)) as line, line.use() as link:
            link.commit([], [], [key.encode() for key in etcd.keys(mesh.root) if not key.endswith(keyspace.LEADER)])
        mesh.wake()
        until(lambda: one.verified() and one.believed.records["manifest"].generation > generation)
        settled(one, two)
        assert {key: one.believed.records[key].record for key in before} == before
        until(lambda: one.store.load([""]).get(keyspace.RECALL, Recall) is None)
