"""An agent as it is, but for its last adapters: no Docker below it names containers, and no kernel has them.

What is not simulated: the store's connection, the checking of every signature and of the manifest, the index, what
each task's interface is meant to be, opening sealed keys and link keys, reports and their signatures, the lease. What
is: the containers (as a program says), and the namespaces, devices, rules and hosts files (what is meant counts as
done at once). The status of the devices is written once and not every three seconds, since its cost is the devices'.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import Any

from agent import local_tasks
from agent.containers import start_gate
from agent.containers.docker_client import LocalTask, NodeIdentity
from agent.desired_state import DesiredState
from agent.interface.task import TaskState
from agent.linux import interfaces
from agent.linux.netns import TaskNetns
from agent.loop import Agent
from agent.node_encryption.key import NodeKeys
from agent.queries.answers import Answers, Running
from agent.reporting.metrics import Metrics
from agent.reporting.node_record import node_record
from agent.reporting.node_reports import NodeReports
from agent.state.clock import WatchedClock
from agent.state.key_file import load_or_make_node_key
from agent.state.node_identity import Identity
from agent.state.verified_state import VerifiedState
from agent.wireguard.backend import Backend
from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import Keyring, SigningKey
from mesh.integrity.record_signing import RecordSigner
from mesh.model.net import IPAddress
from mesh.model.records import DeviceStatus, PeerStatus
from mesh.store.client import Store
from mesh.topology.underlay import ports_beside
from mesh.topology.wgtypes import InterfaceConfig
from tests.bench.scale.world import CLUSTER, World, hostname
from tests.support.told import FakeContainers

SIGNING_KEY = SigningKey(bytes(32))
KEYRING = Keyring(CLUSTER, (SIGNING_KEY.verify_key,))
PORTS = (51820, 53819)
_ENDPOINT = "10.128.0.1:51820"
_RANDOM = Random()  # noqa: S311 - numbers of packets, no secrets


class _NoTable:
    """Stands where `agent.firewall.node_table.NodeTable` stands: this machine is no node."""

    is_given_up = False

    def start(self, _changed: Callable[[], None]) -> None:
        pass

    def refuse(self, _networks: object) -> None:
        pass

    def holds(self) -> bool:
        return False

    def stop(self) -> None:
        pass


class _NoKeeper:
    """Stands where `agent.node_encryption.keeper.Keeper` stands, for the same reason."""

    device_names, status, keys = frozenset({"lwnode"}), None, None

    def start(self, _changed: Callable[[], None]) -> None:
        pass

    def want(self, _wanted: object) -> None:
        pass

    def stop(self) -> None:
        pass


class _InMemory(TaskState):
    """A task whose namespace is this object: what is meant is done at once, and reads back as it was set."""

    __slots__ = ()

    def wire(self, _backend: Backend, desired: InterfaceConfig, *, complete: bool) -> None:  # noqa: ARG002 - as TaskState's
        self.schedule.tried = self.interface.applied = desired
        self.error = None
        SEEN.note(desired)
        self.schedule.succeed()

    def unwire(self, _backend: Backend, *, is_linked: bool = False) -> None:  # noqa: ARG002 - as the other's
        self.interface.applied = None
        self.schedule.succeed()

    def status(self, _backend: Backend) -> DeviceStatus | None:
        applied = self.interface.applied
        if applied is None:
            return None
        return device(self.local.task, applied.private_key.public, [peer.public_key for peer in applied.peers])


def device(task: str, key: PublicKey, peers: Iterable[PublicKey]) -> DeviceStatus:
    """What is read of a device whose links carry traffic: numbers that are other ones each time."""
    return DeviceStatus(task, key, tuple(_peer(peer) for peer in peers), ())


def _peer(key: PublicKey) -> PeerStatus:
    age, received, sent = round(_RANDOM.random() * 120, 1), _RANDOM.getrandbits(34), _RANDOM.getrandbits(34)
    return PeerStatus(key, age, received, sent, _ENDPOINT)


class _Seen:
    """When which peer was first configured, by the clock that all processes of a machine share."""

    def __init__(self) -> None:
        self._first: dict[str, dict[str, float]] = {}
        self._had: dict[str, frozenset[str]] = {}
        self.wirings = 0

    def note(self, config: InterfaceConfig) -> None:
        now = time.monotonic()
        peers = frozenset(str(peer.public_key) for peer in config.peers)
        for key in peers - self._had.get(config.name, frozenset()):
            self._first.setdefault(key, {})[config.name] = now
        self._had[config.name] = peers
        self.wirings += 1

    def of(self, key: str) -> list[float]:
        """When each device here got a peer."""
        return list(self._first.get(key, {}).values())


SEEN = _Seen()


class _Backend:
    """The devices that are not there."""

    name = "simulated"

    def largest(self, room: int) -> int:
        return room

    def served(self) -> tuple[str, ...]:
        return ()

    def prepare(self, name: str) -> None:
        pass

    def discard(self, name: str) -> None:
        pass


def _route_mtu(_home: TaskNetns, _destinations: Iterable[IPAddress], *, learned: bool = True) -> int:  # noqa: ARG001
    """Stand where `interfaces.route_mtu` stands: every way here takes what Ethernet does."""
    return 1500


class SimulatedNode:
    """One node with an agent."""

    def __init__(self, world: World, node: str, endpoint: str, folder: Path) -> None:
        """Prepare; `start` starts the agent."""
        for module, name, stand_in in (
            (local_tasks, "TaskState", _InMemory),
            (interfaces, "route_mtu", _route_mtu),
            (start_gate, "FOLDER", folder / "gate"),
        ):
            setattr(module, name, stand_in)  # the last adapters
        key = load_or_make_node_key(folder)
        self._identity = Identity(folder, folder / "none", CLUSTER, node, key.public)
        self.fingerprint = self._identity.statement.fingerprint
        self.containers = FakeContainers(local(one.id, one.service, "running") for one in world.on(node))
        self._store = Store([endpoint], RecordSigner.agent(KEYRING, self._identity.key))
        address = IPv4Address("10.128.0.1") + int(node[4:])
        backend: Any = _Backend()
        here = NodeIdentity(node, hostname(node), address)
        record = node_record(here, self._identity, backend, PORTS, address, "0")
        told: Any = self.containers
        self._stopped = threading.Event()
        metrics, trust, clock = Metrics("0", backend.name), VerifiedState(folder), WatchedClock(folder)
        trust.recover(self._store.opened)
        table: Any = _NoTable()
        desired = DesiredState(node, key, trust, backend)
        reports = NodeReports(record, self._identity, metrics, clock, NodeKeys(folder, ports_beside(*PORTS)))
        keeper: Any = _NoKeeper()
        self.agent = Agent(told, self._store, desired, reports, table, keeper=keeper)
        running = Running(desired, lambda: reports.status, self.agent.age)
        self.answers = Answers(self._store, CLUSTER, folder, folder / "none", running)
        self._thread = threading.Thread(target=self.agent.run, args=(self._stopped, lambda: None), daemon=True)

    def start(self) -> None:
        """Start the agent."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopped.set()
        self.agent.stop()
        self._thread.join(10)
        self._store.close()


def local(task: str, service: str, state: Any) -> LocalTask:  # noqa: ANN401 - a TaskState
    return LocalTask(
        container=task,
        task=task,
        service=service,
        name=task,
        state=state,
        netns=f"/simulated/{task}",
        hosts=f"/simulated/{task}.hosts",
        problem=None,
        elsewhere=(),
        gated=False,
    )
