"""The audit log on a real etcd, by real controllers: what it tells, how long, and what becomes of tampering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import structlog

from agent.reporting.audit_log import AuditReader
from controller.swarm.model import Deploy
from mesh.crypto.signed_envelope import Signer, wrap
from mesh.integrity.record_signing import RecordSigner
from mesh.model import codec, keyspace
from mesh.model.audit import chain as chain_module
from mesh.model.audit import page as page_module
from mesh.model.audit.page import AuditPage, Event, packed
from mesh.model.labels.link_labels import LinkLabel, ServiceLabels
from mesh.store.client import Store
from tests.store.attacks import Attack, Gullible
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh, settled
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.signing import CLUSTER, RECORD_SIGNER, STRANGER

Line = Mapping[str, Any]


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallMesh:
    monkeypatch.setattr("controller.recovery.startup_barrier.HEAR_S", 3.0)
    return SmallMesh(etcd.endpoint, root, tmp_path)


@pytest.fixture
def attack(etcd: EtcdServer, root: str) -> Attack:
    return Attack(etcd, root)


def told(mesh: SmallMesh, signer: RecordSigner = RECORD_SIGNER) -> list[Line]:
    """The log as an agent on a node reads it for `docker linkwire events`."""
    store = Store([mesh.endpoint], signer, root=mesh.root)
    try:
        return list(AuditReader().news(store.load((keyspace.AUDIT,))))
    finally:
        store.close()


def kinds(lines: list[Line]) -> Counter[str]:
    return Counter(line.get("kind", "PROBLEM") for line in lines)


def of(lines: list[Line], kind: str) -> list[dict[str, str]]:
    return [line["details"] for line in lines if line.get("kind") == kind]


def relink(mesh: SmallMesh, labels: ServiceLabels, deploy: Deploy | None = None) -> None:
    web = replace(mesh.swarm.services_now["#web"], labels=labels, deploy=deploy or Deploy())
    mesh.swarm.services_now = {**mesh.swarm.services_now, "#web": web}
    mesh.wake()


def test_links_keys_and_nodes_are_told(mesh: SmallMesh) -> None:
    relink(mesh, mesh.swarm.services_now["#web"].labels, Deploy(7, "2026-11-28T17:00:00Z"))
    with mesh.controller(), mesh.reader("n1") as one, mesh.reader("n2") as two:
        settled(one, two)
        until(lambda: kinds(told(mesh))["task key made"] == 6)
        lines = told(mesh)
        assert kinds(lines)["PROBLEM"] == 0
        (created,) = of(lines, "link created")
        assert created == {
            "consumer": "web",
            "provider": "db",
            "key": "web:db",
            "id": "#web",
            "stack": "small",
            "version": "7",
            "updated": "2026-11-28T17:00:00Z",
        }
        assert {one["node"] for one in of(lines, "node accepted")} == {"n1", "n2"}
        assert [one["key"] for one in of(lines, "link key begun")] == ["web:db"]
        assert of(lines, "lead taken") == [{"controller": "test"}]
        relink(mesh, ServiceLabels((LinkLabel("db", ("base",), rotate=3600),)), Deploy(8, mark="pipeline 81"))
        until(lambda: bool(of(told(mesh), "link changed")))
        (changed,) = of(told(mesh), "link changed")
        assert (changed["aliases"], changed["rotate"]) == ("base", "1h")
        assert (changed["version"], changed["deploy"]) == ("8", "pipeline 81")
        relink(mesh, ServiceLabels())
        until(lambda: kinds(told(mesh))["task key dropped"] == 6)
    last = told(mesh)
    assert [one["provider"] for one in of(last, "link removed")] == ["db"]
    assert {one["service"] for one in of(last, "service left")} == {"web", "db"}
    assert [line["time"] for line in last] == sorted(line["time"] for line in last)


def test_it_goes_on_with_another_controller(mesh: SmallMesh) -> None:
    with mesh.reader("n1") as one, mesh.reader("n2") as two:
        for _ in range(2):
            with mesh.controller():
                settled(one, two)
                mesh.live(one, two)
        lines = told(mesh)
    assert kinds(lines)["PROBLEM"] == 0
    assert kinds(lines)["lead taken"] == 2
    assert kinds(lines)["link created"] == 1, "since when is known after a restart"
    assert kinds(lines)["audit log begun"] == 2, "one of each stream"
    assert kinds(lines)["task key made"] == 8


def test_what_is_refused_is_told(mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.diagnosis.steps.STARTING_S", 1.0)
    with (
        mesh.controller(),
        mesh.reader("n1") as one,
        mesh.reader("n2") as two,
        structlog.testing.capture_logs() as logs,
    ):
        settled(one, two)
        relink(mesh, ServiceLabels((LinkLabel("db", ("db",)), LinkLabel("nobody", ("nobody",)))))
        until(lambda: bool(of(told(mesh), "problem found")))
        assert any("nobody" in found["reason"] for found in of(told(mesh), "problem found"))
        relink(mesh, ServiceLabels((LinkLabel("db", ("db",)),)))
        until(lambda: bool(of(told(mesh), "problem solved")))

        def logged() -> set[str]:
            return {entry["kind"] for entry in logs if entry["event"] == "audit event recorded"}

        until(lambda: logged() == kinds(told(mesh)).keys())  # each event is in the controller's log too


def drop(attack: Attack, pages: list[str]) -> None:
    """A page is deleted."""
    attack.delete(pages[1])


def forge(attack: Attack, pages: list[str]) -> None:
    """A page is replaced by one of his own."""
    page = attack.read(pages[1])
    assert isinstance(page, AuditPage)
    ((_, raw),) = packed([Event.of("link created", consumer="innocent", provider="db")])
    mine = replace(page, packed=raw)
    attack.put(pages[1], wrap(Signer(CLUSTER, STRANGER), pages[1], 99, codec.encode(mine)))


def move(attack: Attack, pages: list[str]) -> None:
    """A page is put in another's place."""
    attack.put(pages[1], attack.now()[pages[2]])


@pytest.mark.parametrize("how", [drop, forge, move], ids=lambda how: how.__name__)
def test_tampering_shows(
    mesh: SmallMesh, attack: Attack, how: Callable[[Attack, list[str]], None], attempt: Attempts
) -> None:
    tried = attempt(f"etcd's owner: audit log: {how.__doc__}")
    with mesh.controller(), mesh.reader("n1") as one, mesh.reader("n2") as two:
        settled(one, two)
        for _ in range(2):
            mesh.live(one, two)
    before = told(mesh)
    assert kinds(before)["PROBLEM"] == 0
    how(attack, sorted(key for key in attack.now() if key.startswith("audit/routine/")))

    def without_problems(lines: list[Line]) -> list[Line]:
        return [line for line in lines if "kind" in line]

    tried.works(without_problems(told(mesh, Gullible())) != without_problems(before))
    problems = [line["problem"] for line in told(mesh) if "problem" in line]
    tried.stopped(any("routine" in text for text in problems), str(problems))
    with mesh.controller(), mesh.reader("n1") as one, mesh.reader("n2") as two:
        settled(one, two)
        until(lambda: bool(of(told(mesh), "audit log damaged")))


def test_a_wiped_store_begins_and_says_so(mesh: SmallMesh, attack: Attack) -> None:
    with mesh.controller(), mesh.reader("n1") as one, mesh.reader("n2") as two:
        settled(one, two)
        mesh.live(one, two)
        newest = max(line["page"] for line in told(mesh) if line["stream"] == "routine")
        for key in attack.now():
            attack.delete(key)
        until(lambda: bool(of(told(mesh), "restore ended")), 30)
        settled(one, two)
        mesh.live(one, two)
        lines = told(mesh)
    assert kinds(lines)["restore begun"] == 1
    assert min(line["page"] for line in lines if line.get("stream") == "routine") > newest, "the numbers go on"
    assert any("pages are missing" in line.get("problem", "") for line in lines)


def test_the_ring_is_bounded(mesh: SmallMesh, attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = MappingProxyType({"decisions": 64, "routine": 4})
    for module in (page_module, chain_module):
        monkeypatch.setattr(module, "SLOTS", slots)
    with mesh.controller(), mesh.reader("n1") as one, mesh.reader("n2") as two:
        settled(one, two)
        old = attack.now()
        for _ in range(4):
            mesh.live(one, two)
        lines = told(mesh)
        assert len([key for key in attack.now() if key.startswith("audit/routine/")]) == 4
        assert kinds(lines)["PROBLEM"] == 0
        key = next(key for key in sorted(old) if key.startswith("audit/routine/") and old[key] != attack.now()[key])
        attack.put(key, old[key])
        assert any("put back" in line.get("problem", "") for line in told(mesh))
