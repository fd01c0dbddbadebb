"""Views, questions and answers that no node of the Swarm owns: a controller deletes them, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.recovery import upkeep
from mesh.model import keyspace
from mesh.model.snapshot import Holds, Write
from mesh.store.client import Store
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh
from tests.store.waiting import until
from tests.support import cluster

OWNED = {"views/n1/0", "views/n2/7", "asks/n1", "told/n1/n2", "askflows/n1/0", "watched/n1/n2/0/3"}
PLANTED = {
    *("views/ID", "views/n1", "views/gone/0", "asks/gone", "asks/n1/n2", "told/gone/n1", "told/n1"),
    *("askflows/gone/0", "askflows/n1", "watched/gone/n1/0/3", "watched/n1/n2/0"),
}
SWARM, TOKEN = cluster.swarm(60), Holds("leader", 0)
PREFIXES = (keyspace.VIEWS, keyspace.ASKS, keyspace.TOLD, keyspace.FLOW_ASKS, keyspace.WATCHED)


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


def keys(store: Store) -> set[str]:
    return {key for prefix in PREFIXES for key in store.revisions(prefix)}


def test_ownerless_records_are_deleted_and_no_others(
    mesh: SmallMesh, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has a lease here, as whoever plants them: only an owner counts."""
    monkeypatch.setattr(upkeep, "LOOK_S", 1.0)
    store.commit([Write(key, 1, b"planted", None) for key in sorted(OWNED | PLANTED)])

    def is_clean() -> bool:
        mesh.wake()
        return keys(store) == OWNED

    with mesh.reader("n1"), mesh.reader("n2"), mesh.controller():
        until(is_clean, 30)


def test_record_that_is_written_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node may have joined since Swarm's list was made."""
    monkeypatch.setattr(upkeep, "LOOK_S", 1.0)
    looked = upkeep.OwnerlessRecords(store)
    for now in (0.0, 2.0, 4.0):
        store.commit([Write("asks/new", 1, str(now).encode(), None)])
        looked.look(SWARM, TOKEN, now)
    assert keys(store) == {"asks/new"}
    looked.look(SWARM, TOKEN, 4.5)
    assert keys(store) == {"asks/new"}, "too early"
    looked.look(SWARM, TOKEN, 6.0)
    assert keys(store) == set()
