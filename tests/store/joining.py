"""Joining of a node to a mesh on a real etcd, as the controller writes it."""

from __future__ import annotations

from pathlib import Path

from agent.state.node_identity import Identity
from mesh.crypto.hpke import NodeKey
from mesh.model.records import Member
from mesh.model.snapshot import Put
from mesh.store.client import Store
from tests.support.signing import CLUSTER


def joined(controller: Store, name: str, folder: Path) -> Identity:
    """Make a node's keys in a new folder, and have the controller call it a member."""
    key = NodeKey.generate()
    folder.mkdir()
    identity = Identity(folder, folder / "none", CLUSTER, name, key.public)
    controller.commit((Put(Member(name, key.public, identity.key.verify_key, 1), None),))
    return identity
