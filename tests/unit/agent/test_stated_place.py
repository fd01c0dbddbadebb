"""A node's encryption key: stated while the controller asks for it, and in no record otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from agent.reporting.metrics import Metrics
from agent.reporting.node_reports import NodeReports
from agent.reporting.reporter import Reporter
from agent.state.clock import WatchedClock
from mesh.model import codec, keyspace
from mesh.model.encryption.records import EncryptionWanted
from mesh.model.records import Node
from mesh.model.snapshot import Snapshot, Versioned
from tests.support.swarm_world import private_key
from tests.unit.mesh.test_codec import NODE


class Written:
    """A reporter that keeps what it is to write."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def node(self, node: Node) -> None:
        self.nodes.append(node)


def shown(*, asked: bool, complete: bool = True) -> Snapshot:
    request = {keyspace.ENCRYPTION_WANTED: Versioned(EncryptionWanted(1), 1)}
    return Snapshot(1, complete, dict(request) if asked else {})


def test_key_is_stated_while_it_is_asked_for(tmp_path: Path) -> None:
    identity: Any = None
    able = replace(NODE, encryption_key=private_key(1).public, encryption_port=51819)
    reports = NodeReports(able, identity, Metrics("0", "kernel"), WatchedClock(tmp_path))
    written = Written()
    assert b"encryption" not in codec.encode(reports.node), "a controller of an earlier version reads it"

    def look(snapshot: Snapshot) -> None:
        reports._state_place(snapshot, cast("Reporter", written))

    look(shown(asked=False))
    look(shown(asked=True, complete=False))
    assert written.nodes == []
    look(shown(asked=True))
    look(shown(asked=True))
    (stated,) = written.nodes
    assert (stated.encryption_key, stated.encryption_port) == (private_key(1).public, 51819)
    look(shown(asked=False, complete=False))
    assert written.nodes == [stated], "nothing is concluded from a part of the store"
    look(shown(asked=False))
    assert written.nodes[1:] == [replace(stated, encryption_key=None, encryption_port=0)]
