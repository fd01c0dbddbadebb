"""Attacks on node encryption, on a real etcd: its records forged, replayed, copied; another node's key or address.

Each is first shown to work: on a reader that checks nothing, or on a controller that does not compare nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from controller.planning.node_encryption import NodeEncryptionPlan
from controller.swarm.model import SwarmNode
from mesh.crypto.keys import PrivateKey
from mesh.model import keyspace
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.records import Node
from mesh.store.client import Store
from tests.store.attacks import MALLORY, Attack, Gullible, what
from tests.store.etcd_server import EtcdServer
from tests.store.small_mesh import SmallMesh, Swarm, settled
from tests.store.test_node_encryption import KEYS, PATIENT, EncryptingReader, all_at, readers
from tests.store.test_signed import records
from tests.store.waiting import until
from tests.support.attacks import Attempts
from tests.support.swarm_world import home

PLACE = keyspace.underlay("n2")


class MovingReader(EncryptingReader):
    """An agent that may state another key, port or address than its own."""

    stated: Callable[[Node], Node] = staticmethod(lambda own: own)

    def own_record(self) -> Node:
        return self.stated(super().own_record())


@pytest.fixture
def mesh(etcd: EtcdServer, root: str, tmp_path: Path) -> SmallMesh:
    return SmallMesh(etcd.endpoint, root, tmp_path)


@pytest.fixture
def attack(etcd: EtcdServer, root: str) -> Attack:
    return Attack(etcd, root)


@contextmanager
def moving(mesh: SmallMesh) -> Iterator[tuple[MovingReader, MovingReader]]:
    with readers(mesh, MovingReader) as (one, other):
        assert isinstance(one, MovingReader)
        assert isinstance(other, MovingReader)
        yield one, other


def place_of(reader: MovingReader, node: str) -> Underlay | None:
    return reader.believed.get(keyspace.underlay(node), Underlay)


def forge_place(attack: Attack) -> None:
    """A node's place is forged: its overlay packets would go to him, under his key."""
    attack.sign(Underlay("n2", PrivateKey.generate().public, MALLORY))


def invent_node(attack: Attack) -> None:
    """A node is invented, as one more peer of all."""
    attack.sign(Underlay("n3", PrivateKey.generate().public, MALLORY))


def replay_place(attack: Attack) -> None:
    """A node's old place is put back, as it was signed: with the key that it had then."""
    assert attack.now()[PLACE] != attack.recorded[PLACE]
    attack.put(PLACE, attack.recorded[PLACE])


def swap_places(attack: Attack) -> None:
    """A node's place is copied over another's."""
    attack.put(PLACE, attack.now()[keyspace.underlay("n1")])


def delete_place(attack: Attack) -> None:
    """A node's place is deleted, so that packets to it go plain."""
    attack.delete(PLACE)


def forge_step(attack: Attack) -> None:
    """The step is set back by a forged record, so that all goes plain."""
    attack.sign(NodeEncryption("prefer", "accept", 4789, 99))


def replay_step(attack: Attack) -> None:
    """An old step is put back, as it was signed: nobody would refuse plain packets any more."""
    assert attack.now()[keyspace.ENCRYPTION] != attack.recorded[keyspace.ENCRYPTION]
    attack.put(keyspace.ENCRYPTION, attack.recorded[keyspace.ENCRYPTION])


def delete_step(attack: Attack) -> None:
    """The step is deleted: node encryption would be off."""
    attack.delete(keyspace.ENCRYPTION)


def checked_by_nobody(mesh: SmallMesh) -> dict[str, object]:
    store = Store([mesh.endpoint], Gullible(), root=mesh.root)
    try:
        return dict(records(store.load([""])))
    finally:
        store.close()


@pytest.mark.parametrize(
    "how",
    [forge_place, invent_node, replay_place, swap_places, delete_place, forge_step, replay_step, delete_step],
    ids=lambda how: how.__name__,
)
def test_forged_and_old_records_switch_nothing(
    mesh: SmallMesh, attack: Attack, how: Callable[[Attack], None], attempt: Attempts
) -> None:
    tried = attempt(f"etcd's owner: node encryption: {what(how)}")
    with moving(mesh) as agents:
        with mesh.controller(encryption="prefer"):
            settled(*agents)
            all_at(agents, "send")
            attack.record()
            later = PrivateKey.generate().public
            agents[1].stated = lambda own: replace(own, encryption_key=later) if own.encryption_key else own
            until(lambda: (place := place_of(agents[0], "n2")) is not None and place.public_key == later, PATIENT)
        with mesh.controller(encryption="strict"):
            all_at(agents, "enforce")
        one = agents[0]
        good = dict(records(one.believed))
        assert checked_by_nobody(mesh) == good
        how(attack)
        tried.works(checked_by_nobody(mesh) != good, "to a reader that checks nothing")
        # What is one too many is left out, and all else holds; else the node holds to what it had.
        until(lambda: one.look() and (one.trust.held or "peers/n3" in one.follower.snapshot.invalid))
        one.take_step()
        assert one.trust.held or how is invent_node
        tried.stopped(dict(records(one.believed)) == good and one.at() == "enforce")


class OpenSwarm(Swarm):
    """A Swarm that knows n2 by the address of n1 too, as an operator's wrong label has it."""

    def nodes(self) -> dict[str, SwarmNode]:
        known = super().nodes()
        return {**known, "n2": replace(known["n2"], known_at=(home("n1"), home("n2")))}


@pytest.mark.parametrize("stolen", ["key", "address"])
def test_a_worker_claims_anothers_key_or_address(
    mesh: SmallMesh, stolen: str, attempt: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WireGuard would take his device for the other's, and send him what is the other's."""
    tried = attempt(f"a node's root: its agent states another node's {stolen} for node encryption")

    def claiming(own: Node) -> Node:
        if own.encryption_key is None:
            return own
        return replace(own, encryption_key=KEYS["n1"].public) if stolen == "key" else replace(own, address=home("n1"))

    def claimed(place: Underlay | None) -> bool:
        found = None if place is None else place.public_key if stolen == "key" else place.endpoint.host
        return found == (KEYS["n1"].public if stolen == "key" else home("n1"))

    with moving(mesh) as agents:
        agents[1].stated = claiming
        with monkeypatch.context() as off:
            off.setattr(NodeEncryptionPlan, "_check_unique", lambda _plan, _place: None)
            mesh.swarm = OpenSwarm() if stolen == "address" else mesh.swarm
            with mesh.controller(encryption="prefer"):
                until(lambda: claimed(place_of(agents[0], "n2")), PATIENT)
            with mesh.controller():
                until(lambda: place_of(agents[0], "n2") is None, PATIENT)
        tried.works(seen=True, message="to a controller that does not compare nodes")
        with mesh.controller(encryption="prefer") as controller:
            problems = controller._decider.problems
            said = (
                "n2: it states the encryption key of n1"
                if stolen == "key"
                else f"n2: its address, {home('n1')}, is that of n1"
            )
            until(lambda: any(said in text for text in problems.open), PATIENT)
            tried.stopped(place_of(agents[0], "n2") is None)
