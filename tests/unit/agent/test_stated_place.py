"""A node's encryption key: stated while the controller asks for it, and in no record otherwise."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from agent.desired_state import DesiredState
from agent.node_encryption.key import NodeKeys
from agent.reporting.metrics import Metrics
from agent.reporting.node_reports import NodeReports
from agent.reporting.reporter import Reporter
from agent.state.clock import WatchedClock
from mesh.model import codec, keyspace
from mesh.model.encryption.records import EncryptionWanted, Underlay
from mesh.model.net import UdpEndpoint
from mesh.model.records import Node
from mesh.model.snapshot import Snapshot, Versioned
from mesh.topology.link_graph import index
from tests.unit.mesh.test_codec import NODE


class Written:
    """A reporter that keeps what it is to write."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def node(self, node: Node) -> None:
        self.nodes.append(node)


class Knows:
    """The records that an agent acts on: its place, as far as it has one."""

    is_whole = True

    def __init__(self, place: Underlay | None = None) -> None:
        records = {keyspace.underlay(NODE.id): Versioned(place, 1)} if place is not None else {}
        self.verified = Snapshot(1, complete=True, records=dict(records))


def shown(*, asked: bool, complete: bool = True, epoch: int = 0, all_since: int = 0) -> Snapshot:
    request = {keyspace.ENCRYPTION_WANTED: Versioned(EncryptionWanted(1, epoch, all_since), 1)}
    return Snapshot(1, complete, dict(request) if asked else {})


def test_key_is_stated_while_it_is_asked_for(tmp_path: Path) -> None:
    identity: Any = None
    keys, nothing = NodeKeys(tmp_path, (51819, 51818)), Knows()
    reports = NodeReports(NODE, identity, Metrics("0", "kernel"), WatchedClock(tmp_path), keys)
    written = Written()
    assert b"encryption" not in codec.encode(reports.node), "a controller of an earlier version reads it"

    def look(snapshot: Snapshot) -> None:
        reports._state_keys(snapshot, cast("DesiredState", nothing), cast("Reporter", written))

    look(shown(asked=False))
    look(shown(asked=True, complete=False))
    assert written.nodes == []
    look(shown(asked=True))
    look(shown(asked=True))
    (stated,) = written.nodes
    assert (stated.encryption_key, stated.encryption_port) == (keys.stated[0].public_key, 51819)
    look(shown(asked=False, complete=False))
    assert written.nodes == [stated], "nothing is concluded from a part of the store"
    look(shown(asked=False))
    assert written.nodes[1:] == [replace(stated, encryption_key=None, encryption_port=0)]


def test_mode_all_is_known_only_when_asked(tmp_path: Path) -> None:
    """A controller of before that mode could not read the record."""
    identity: Any = None
    keys, nothing = NodeKeys(tmp_path, (51819, 51818)), Knows()
    reports = NodeReports(NODE, identity, Metrics("0", "kernel"), WatchedClock(tmp_path), keys)
    written = Written()
    for since in (0, 7, 0):
        snapshot = shown(asked=True, all_since=since)
        reports._state_keys(snapshot, cast("DesiredState", nothing), cast("Reporter", written))
    assert [node.encryption_all for node in written.nodes] == [False, True, False]
    assert [b"encryption_all" in codec.encode(node) for node in written.nodes] == [False, True, False]


def test_next_key_is_stated_until_placed_alone(tmp_path: Path) -> None:
    identity: Any = None
    keys = NodeKeys(tmp_path, (51819, 51818))
    reports = NodeReports(NODE, identity, Metrics("0", "kernel"), WatchedClock(tmp_path), keys)
    written, host = Written(), NODE.address

    def look(place: Underlay, epoch: int) -> Node:
        known = cast("DesiredState", Knows(place))
        reports._state_keys(shown(asked=True, epoch=epoch), known, cast("Reporter", written))
        return written.nodes[-1]

    first = keys.stated[0]
    place = Underlay(NODE.id, first.public_key, UdpEndpoint(host, first.port))
    assert look(place, 0).encryption_next is None
    later = look(place, 1001).encryption_next
    assert later is not None
    assert (later.epoch, later.port) == (1001, 51818)
    both = look(replace(place, next=later), 1001)
    assert (both.encryption_key, both.encryption_next) == (first.public_key, later)
    stated = look(Underlay(NODE.id, later.public_key, UdpEndpoint(host, later.port), 1001), 1001)
    own = (stated.encryption_epoch, stated.encryption_key, stated.encryption_port, stated.encryption_next)
    assert own == (1001, later.public_key, 51818, None)
    assert first.public_key not in {key.public_key for key in keys.stated}


def test_clock_rollback_spends_the_newest_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stated until the records ask for a key of another epoch, over restarts of the agent too."""
    identity: Any = None
    now, written = [5000.0], Written()
    monkeypatch.setattr(time, "time", lambda: now[0])

    def agent() -> NodeReports:
        keys = NodeKeys(tmp_path, (51819, 51818))
        return NodeReports(NODE, identity, Metrics("0", "kernel"), WatchedClock(tmp_path), keys)

    def look(reports: NodeReports, snapshot: Snapshot) -> int | None:
        for _ in range(2):  # the record says what the look before found
            reports._state_keys(snapshot, cast("DesiredState", Knows()), cast("Reporter", written))
            reports._look_at_clock((), index(Snapshot()))
        reports._clock.save()
        return written.nodes[-1].encryption_spent if reports.node.encryption_key is not None else None

    assert look(agent(), shown(asked=False)) is None
    now[0] -= 3600
    assert look(agent(), shown(asked=False)) is None, "nobody has seen that key"
    assert look(agent(), shown(asked=True)) is None
    now[0] -= 3600
    assert look(agent(), shown(asked=True)) == 0
    assert b"spent" in codec.encode(written.nodes[-1])
    now[0] += 7200
    assert look(reports := agent(), shown(asked=True)) == 0, "its peers have not forgotten"
    assert look(reports, shown(asked=True, epoch=1001)) is None
    assert b"spent" not in codec.encode(written.nodes[-1])


def test_full_disk_leaves_the_node_its_first_key(tmp_path: Path) -> None:
    """The agent wires tasks all the same, and tries again."""
    identity: Any = None
    keys, written = NodeKeys(tmp_path, (51819, 51818)), Written()
    reports = NodeReports(NODE, identity, Metrics("0", "kernel"), WatchedClock(tmp_path), keys)
    first = keys.stated[0]
    known = Knows(Underlay(NODE.id, first.public_key, UdpEndpoint(NODE.address, first.port)))
    in_the_way = tmp_path / "encryption-1-1001.key"
    in_the_way.mkdir()

    def look() -> Node:
        asked = shown(asked=True, epoch=1001)
        reports._state_keys(asked, cast("DesiredState", known), cast("Reporter", written))
        return written.nodes[-1]

    with capture_logs() as logs:
        stated = [look(), look()]
    assert [(node.encryption_key, node.encryption_next) for node in stated] == [(first.public_key, None)] * 2
    assert [entry["event"] for entry in logs] == ["node key not kept"], "said once"
    in_the_way.rmdir()
    assert look().encryption_next is not None
