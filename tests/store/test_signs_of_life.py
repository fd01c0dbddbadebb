"""An agent signs that it lives, whatever else it has to do, and a controller on a real etcd sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.trust.node_judgement import Members
from controller.trust.presence import SILENCE_S, Presence
from mesh.model import keyspace
from mesh.model.records import Status
from tests.store.etcd_server import EtcdServer
from tests.store.test_members import NODE, Party, started, stop
from tests.store.waiting import until
from tests.support.swarm_ca import CLUSTER


@pytest.fixture
def party(etcd: EtcdServer, root: str, tmp_path: Path) -> Iterator[Party]:
    party = started(etcd, root, tmp_path, Members())
    yield party
    stop(party)


def is_silent(party: Party, presence: Presence, seconds: float) -> bool:
    """Look for so long, or until the node counts as silent."""
    end = time.monotonic() + seconds
    while True:
        presence.observe(party.controller.load(("",)), party.members.accepted, time.monotonic())
        if presence.silent() or time.monotonic() > end:
            return presence.silent() == {NODE}
        time.sleep(0.5)


def test_an_agent_with_slow_devices_is_heard(party: Party) -> None:
    until(party.accepted)
    presence = Presence(CLUSTER)
    assert not is_silent(party, presence, 1.5 * SILENCE_S), "it has read none yet"
    party.reporter.status(Status(NODE, 5.0, ()))
    assert not is_silent(party, presence, 1.5 * SILENCE_S), "it read them once"
    status = party.controller.load((keyspace.status(NODE),)).get(keyspace.status(NODE), Status)
    assert status == Status(NODE, 5.0, ())
    party.reporter.stop()
    assert is_silent(party, presence, SILENCE_S + 2)
