"""New keys for all nodes of a Swarm with node encryption: what one rotation costs the store, the plan and each node.

    .venv/bin/python -m tests.bench.rotations 30 100 300

As in tests.bench.joins, with which it shares the nodes: no etcd, no other nodes' devices, and of wireguard-go's
processor time nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.node_encryption.key import HeldKey
from mesh.crypto.keys import PrivateKey
from mesh.model import keyspace
from mesh.model.encryption.records import EncryptionWanted
from mesh.model.encryption.status import EpochKey, KeyStatus
from mesh.model.records import Node, Record
from mesh.process.log_setup import configure
from tests.bench.joins import FIRST, PORTS, Agent, Swarm, signed
from tests.support import stage


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a rotation.

    Attributes:
        records: that the controller writes.
        size: of all of them, in bytes.
        planning: milliseconds of the controller's processor for the three plans that write.
        node: of each node's, to follow both changes of all places to its devices.
    """

    records: int
    size: int
    planning: float
    node: float


def cost(size: int) -> Cost:
    """Cost of one rotation in a Swarm of a size."""
    swarm, written, planning = Swarm(size), list[Record](), 0.0
    with stage.world() as (world, folder):
        home = world.netns()
        stage.address(home, "wire", FIRST + 1)
        agent = Agent(swarm, "n1", home, folder)
        try:
            agent.act(agent.view.whole())
            swarm.renewed = swarm.world.now + 100
            asked, took = swarm.settle()
            epoch = _epoch(swarm)
            own = _state(swarm, epoch)
            agent.keys.held += (HeldKey(epoch, 1, own["n1"]),)
            offered, offering = swarm.settle()
            node = agent.act(agent.view.changed(offered))
            devices = agent.device.read().devices
            assert [len(devices[slot].device.peers) for slot in (0, 1)] == [size - 1] * 2
            swarm.epochs = dict.fromkeys(swarm.keys, KeyStatus((0, epoch), ()))
            dropped, dropping = swarm.settle()
            node += agent.act(agent.view.changed(dropped))
            assert set(agent.device.read().devices) == {1}
            written, planning = [*asked, *offered, *dropped], took + offering + dropping
        finally:
            agent.close()
    return Cost(len(written), sum(len(signed(record, 1)) for record in written), planning, node)


def _epoch(swarm: Swarm) -> int:
    asked = swarm.store.snapshot().get(keyspace.ENCRYPTION_WANTED, EncryptionWanted)
    assert asked is not None
    return asked.epoch


def _state(swarm: Swarm, epoch: int) -> dict[str, PrivateKey]:
    """Each node's agent makes and states its next key."""
    made = {name: PrivateKey.generate() for name in swarm.keys}
    for node in swarm.store.all(Node):
        later = EpochKey(epoch, made[node.id].public, PORTS[1])
        swarm.store.write(replace(node, encryption_next=later))
    return made


def main(sizes: Iterable[int]) -> None:
    """Print a table."""
    configure("warning")
    print("| nodes | records | bytes | plans, ms | each node, ms |\n| --- | --- | --- | --- | --- |")
    for size in sizes:
        made = cost(size)
        print(f"| {size} | {made.records} | {made.size} | {made.planning:.0f} | {made.node:.0f} |")


if __name__ == "__main__":
    main(map(int, sys.argv[1:] or ("30", "100", "300")))
