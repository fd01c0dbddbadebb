"""A wired task whose peers change: without a reading of its device where none is needed, and right in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.containers import start_gate
from agent.containers.docker_client import LocalTask
from agent.firewall import nft
from agent.firewall.ruleset import render
from agent.interface.schedule import CONFIRM_S
from agent.interface.task import TaskState
from agent.linux import hosts_file
from mesh.errors import Retryable
from mesh.model.net import IPNetwork, UdpEndpoint
from mesh.topology.wgtypes import DeviceChange, PeerChange, PeerConfig, resolved
from tests.netns.world import MESH, MESH6, Task, World
from tests.support import stage

if TYPE_CHECKING:
    from agent.linux.netns import TaskNetns
    from agent.wireguard.backend import Backend
    from mesh.topology.wgtypes import Device, InterfaceConfig


@dataclass
class Wired:
    """A wired task, and how often its device was read."""

    task: Task
    state: TaskState
    backend: Backend
    peers: tuple[PeerConfig, ...]
    reads: int = 0

    def config(self, *peers: PeerConfig) -> InterfaceConfig:
        return stage.interface(self.task.name, self.task, peers)

    def wire(self, config: InterfaceConfig, *, complete: bool = True) -> int:
        """How often the device was read for it."""
        before = self.reads
        self.state.wire(self.backend, config, complete=complete)
        assert self.state.error is None
        assert self.state.interface.applied == config
        return self.reads - before

    def due(self) -> float | None:
        """When its device must be read."""
        return self.state.schedule.confirm_at

    def confirm(self) -> int:
        """As the loop does when it is due."""
        assert self.state.interface.applied is not None
        assert self.state.schedule.confirm_at is not None
        self.state.schedule.confirm_at, self.state.schedule.dirty = None, True
        return self.wire(self.state.interface.applied)

    def there(self) -> dict[str, tuple[UdpEndpoint | None, frozenset[IPNetwork]]]:
        """The device's peers as they are, read by nobody whom this counts."""
        device = type(self.backend).read(self.backend, self.task.netns, self.task.name)
        return {str(key): (peer.endpoint, peer.allowed_ips) for key, peer in device.peers.items()}

    def is_as(self, config: InterfaceConfig) -> bool:
        table = nft.read(self.task.netns)
        assert table is not None
        assert table.rules == render(config.policy, config.name)
        assert resolved(hosts_file.read(self.state.local.hosts)) == resolved(config.hosts)
        return self.there() == {str(peer.public_key): (peer.endpoint, peer.allowed_ips) for peer in config.peers}

    def by_another(self, *peers: PeerChange) -> None:
        self.backend.apply(self.task.netns, self.task.name, DeviceChange(peers=peers))


@pytest.fixture
def wired(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wired:
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    node, _ = world.nodes()
    task, backend = world.task(node), node.backend
    hosts = stage.hosts_file(tmp_path, "hosts")
    local = LocalTask("c", "t", "s", "n", "running", task.netns.path, hosts, None, (), gated=False)
    made = Wired(task, TaskState(local), backend, stage.strangers(5, keepalive=0))

    def read(netns: TaskNetns, name: str) -> Device:
        made.reads += 1
        return plain(netns, name)

    plain = backend.read
    monkeypatch.setattr(backend, "read", read)
    assert made.wire(made.config(*made.peers)) == 1
    assert made.due() is None
    return made


def moved(peer: PeerConfig, port: int = 9) -> PeerConfig:
    return replace(peer, endpoint=replace(peer.endpoint, port=port))


def test_changed_peer_is_set_without_reading_then_read(wired: Wired) -> None:
    first, second, *others = wired.peers
    roamed = PeerChange(second.public_key, moved(second).endpoint, update_only=True)
    wired.by_another(roamed)  # as a packet from there would
    config = wired.config(moved(first), second, *others)
    assert wired.wire(config) == 0
    there = wired.there()
    assert there[str(first.public_key)][0] == moved(first).endpoint
    assert there[str(second.public_key)][0] == moved(second).endpoint, "its record is the same"
    due = wired.due()
    assert due is not None
    assert wired.wire(wired.config(moved(first, 10), second, *others)) == 0
    assert wired.due() == due, "however many changes follow one another"
    assert CONFIRM_S <= 5
    assert wired.confirm() == 2
    assert wired.is_as(wired.config(moved(first, 10), second, *others)), "nobody is alive there"
    assert wired.due() is None
    assert not wired.state.schedule.dirty
    assert wired.wire(config) == 0
    assert wired.confirm() == 1
    assert wired.is_as(config)


def test_peers_come_and_go_with_rules_and_names(wired: Wired) -> None:
    for peers in (wired.peers[:-1], wired.peers, wired.peers[1:], ()):
        config = wired.config(*peers)
        config = replace(config, hosts=config.hosts if peers else ())
        assert wired.wire(config) == 0
        assert wired.confirm() == 1, "it is as it was set"
        if peers:
            assert wired.is_as(config)
    assert wired.there() == {}
    assert not hosts_file.read(wired.state.local.hosts)


def break_peers(wired: Wired) -> None:
    stray: frozenset[IPNetwork] = frozenset({IPv4Network(MESH[9]), IPv6Network(MESH6[9])})
    wired.by_another(
        PeerChange(wired.peers[1].public_key, remove=True),
        PeerChange(wired.peers[2].public_key, allowed_ips=stray),
        PeerChange(stage.strangers(1)[0].public_key, allowed_ips=frozenset()),
        PeerChange(wired.peers[0].public_key, remove=True),
    )


def test_next_reading_repairs_outside_device_changes(wired: Wired) -> None:
    break_peers(wired)
    config = wired.config(moved(wired.peers[0]), *wired.peers[1:])
    assert wired.wire(config) == 0
    assert str(wired.peers[0].public_key) not in wired.there(), "one that has gone is not made half"
    assert wired.confirm() == 2
    assert wired.is_as(config)


def test_vanished_device_is_remade_at_once(wired: Wired) -> None:
    assert wired.state.interface.netns is not None
    wired.backend.delete(wired.state.interface.netns, wired.task.name)
    config = wired.config(moved(wired.peers[0]), *wired.peers[1:])
    assert wired.wire(config) == 1
    assert wired.is_as(config)
    assert wired.due() is None


def lose_rules(wired: Wired) -> None:
    nft.remove(wired.task.netns)


def lose_names(wired: Wired) -> None:
    hosts_file.write(wired.state.local.hosts, ())


@pytest.mark.parametrize("lose", [lose_rules, lose_names])
def test_rules_and_names_that_vanished_return(wired: Wired, lose: Callable[[Wired], None]) -> None:
    lose(wired)
    config = wired.config(*wired.peers[1:])
    wired.wire(replace(config, hosts=config.hosts[:1]))
    assert wired.is_as(replace(config, hosts=config.hosts[:1]))


def test_device_others_may_have_changed_is_read(wired: Wired) -> None:
    one, other = (wired.config(moved(wired.peers[0], port), *wired.peers[1:]) for port in (9, 10))
    wired.state.schedule.dirty = True
    assert wired.wire(one) == 2
    assert wired.wire(replace(other, mtu=1300)) == 2
    assert wired.wire(replace(one, mtu=1300), complete=False) == 2
    assert wired.wire(replace(other, mtu=1300)) == 2, "what was left out of it then is done now"
    assert wired.wire(replace(one, mtu=1300)) == 0


def test_after_a_failure_it_is_read(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Retryable("not now")

    config = wired.config(moved(wired.peers[0]), *wired.peers[1:])
    with monkeypatch.context() as patch:
        patch.setattr(wired.backend, "apply", fail)
        wired.state.wire(wired.backend, config, complete=True)
    assert wired.state.error == "not now"
    assert wired.state.schedule.retry_at is not None
    assert wired.due() is None
    wired.state.schedule.dirty = False  # it is not by this that it knows
    assert wired.wire(config) == 2
    assert wired.is_as(config)
