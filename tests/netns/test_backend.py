"""What every backend must do, on real devices: LINKWIRE_TEST_BACKEND says which one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.errors import PortTakenError
from agent.holder import sockets
from agent.linux import interfaces
from agent.wireguard.backend import Backend, probe
from mesh.crypto.keys import PrivateKey, PublicKey
from mesh.errors import DeviceNotFoundError, NetnsGoneError, Terminal
from mesh.model.net import IPNetwork
from mesh.topology.wgtypes import Device, DeviceChange, PeerChange
from tests.netns.world import (
    Task,
    World,
    delete_netns,
    device_name,
    host,
    ip,
    is_free,
    make_backend,
    occupied,
    wait_for,
)

KEYS = [PublicKey(bytes([1, *number.to_bytes(2, "big"), *bytes(29)])) for number in range(1000)]


def peer(number: int, *networks: str) -> PeerChange:
    """Of every shape: IPv4 and IPv6 endpoints and networks, with and without keepalive."""
    allowed: set[IPNetwork] = {ip_network(network) for network in networks}
    if not networks:
        allowed = {ip_network(f"10.99.{number >> 8}.{number & 255}/32")}
        if number % 3 == 0:
            allowed |= {
                ip_network(f"fd00:99::{number:x}/128"),
                ip_network(f"10.100.{number >> 4}.{(number & 15) << 4}/28"),
            }
    endpoint = host(f"2001:db8::{number + 1:x}" if number % 2 else f"192.0.2.{number % 250 + 1}", 20000 + number)
    return PeerChange(KEYS[number], endpoint, frozenset(allowed), keepalive=25 if number % 5 else 0)


def as_changes(device: Device) -> dict[PublicKey, PeerChange]:
    """A device's peers in the form in which they were asked for."""
    return {
        key: PeerChange(key, seen.endpoint, seen.allowed_ips, keepalive=seen.keepalive)
        for key, seen in device.peers.items()
    }


@pytest.fixture
def task(world: World) -> Task:
    return world.task(world.node())


@pytest.fixture
def made(task: Task) -> Task:
    """With a device that has nothing yet."""
    task.node.backend.create(task.netns, task.name)
    return task


def test_a_backend_says_which_it_is(task: Task) -> None:
    wanted = os.environ.get("LINKWIRE_TEST_BACKEND")
    assert task.node.backend.name == (wanted or probe(task.node.netns.path).name)


def test_new_device_is_only_in_task_and_empty(made: Task) -> None:
    device = made.node.backend.read(made.netns, made.name)
    assert (device.name, device.public_key, device.peers) == (made.name, None, {})
    seen = interfaces.observe(made.netns, made.name)
    assert seen is not None
    assert (seen.up, seen.addresses, seen.routes) == (False, frozenset(), frozenset())
    assert interfaces.observe(made.node.netns, made.name) is None
    assert made.node.backend.found(made.netns) == (made.name,)
    assert made.node.backend.found(made.node.netns) == ()


def test_creating_it_again_keeps_it_as_it_is(made: Task) -> None:
    made.wire()
    before = (made.node.backend.read(made.netns, made.name), interfaces.observe(made.netns, made.name))
    made.node.backend.create(made.netns, made.name)
    assert (made.node.backend.read(made.netns, made.name), interfaces.observe(made.netns, made.name)) == before


def test_foreign_device_of_same_name_is_left_alone(task: Task) -> None:
    ip("-n", Path(task.netns.path).name, "link", "add", task.name, "type", "veth", "peer", "name", "other")
    with pytest.raises(Terminal, match="the task has a device of that name"):
        task.node.backend.create(task.netns, task.name)
    with pytest.raises(DeviceNotFoundError):
        task.node.backend.read(task.netns, task.name)
    task.node.backend.delete(task.netns, task.name)
    assert interfaces.kind(task.netns, task.name) == "veth"
    assert task.node.backend.found(task.netns) == ()


def nothing() -> None:
    """Called back, and need not do a thing."""


def whole(task: Task) -> DeviceChange:
    return DeviceChange(task.key, task.port, (peer(0), peer(1)))


@pytest.mark.parametrize("prepared", [True, False])
def test_device_made_early_has_no_peers_until_allowed(task: Task, *, prepared: bool) -> None:
    backend, before = task.node.backend, []
    if prepared:
        backend.prepare(task.name)

    def ready() -> None:
        try:
            before.append(backend.read(task.netns, task.name))
        except DeviceNotFoundError:  # on its way
            before.append(Device(task.name, None, 0, {}))

    there: list[bool | None] = []
    backend.make(
        task.netns, task.name, whole(task), ready, lambda: there.append(interfaces.is_up(task.netns, task.name))
    )
    assert there == [False], "it is told that it is placed once, and it is down then"
    assert [(device.public_key, device.peers) for device in before] == [(None, {})]
    device = backend.read(task.netns, task.name)
    assert (device.public_key, device.listen_port) == (task.key.public, task.port)
    assert device.peers.keys() == {KEYS[0], KEYS[1]}
    assert interfaces.is_up(task.netns, task.name) is False


def test_failed_rules_leave_new_device_without_peers(task: Task) -> None:
    backend = task.node.backend
    backend.prepare(task.name)

    def refused() -> None:
        raise Terminal("no rules")

    with pytest.raises(Terminal, match="no rules"):
        backend.make(task.netns, task.name, whole(task), refused, nothing)
    assert backend.read(task.netns, task.name).peers == {}


def test_remaking_keeps_own_device_and_reports_foreign_one(made: Task, world: World) -> None:
    made.wire()
    before = interfaces.observe(made.netns, made.name)
    made.node.backend.make(made.netns, made.name, whole(made), nothing, nothing)
    assert interfaces.observe(made.netns, made.name) == before
    assert len(made.node.backend.read(made.netns, made.name).peers) == 2
    other = world.task(made.node)
    ip("-n", Path(other.netns.path).name, "link", "add", other.name, "type", "veth", "peer", "name", "other")
    made.node.backend.prepare(other.name)
    with pytest.raises(Terminal, match="the task has a device of that name"):
        made.node.backend.make(other.netns, other.name, whole(other), nothing, nothing)
    made.node.backend.discard(other.name)


def test_deleting_leaves_nothing_and_may_be_done_twice(made: Task) -> None:
    made.node.backend.delete(made.netns, made.name)
    assert interfaces.observe(made.netns, made.name) is None
    assert sockets.process(made.name) is None
    with pytest.raises(DeviceNotFoundError):
        made.node.backend.read(made.netns, made.name)
    with pytest.raises(DeviceNotFoundError):
        made.node.backend.apply(made.netns, made.name, DeviceChange(listen_port=made.port))
    made.node.backend.delete(made.netns, made.name)


def test_dead_device_is_not_found_and_is_remade(made: Task) -> None:
    made.wire()
    if pid := sockets.process(made.name):
        os.kill(pid, signal.SIGKILL)
    else:
        ip("-n", Path(made.netns.path).name, "link", "delete", made.name)
    backend = made.node.backend
    wait_for(lambda: backend.found(made.netns) == ())
    with pytest.raises(DeviceNotFoundError):
        backend.read(made.netns, made.name)
    made.wire()
    assert backend.read(made.netns, made.name).public_key == made.key.public


def test_the_device_itself(made: Task) -> None:
    backend = made.node.backend
    backend.apply(made.netns, made.name, DeviceChange(made.key, made.port))
    backend.apply(made.netns, made.name, DeviceChange())
    device = backend.read(made.netns, made.name)
    assert (device.public_key, device.listen_port) == (made.key.public, made.port)


def test_thousand_peers_read_back_as_set(made: Task) -> None:
    wanted = {KEYS[number]: peer(number) for number in range(1000)}
    change = DeviceChange(made.key, made.port, tuple(wanted.values()))
    for _ in range(2):  # an upsert of what is there changes nothing
        made.node.backend.apply(made.netns, made.name, change)
        device = made.node.backend.read(made.netns, made.name)
        assert as_changes(device) == wanted
    assert all(seen.last_handshake is None and not seen.tx_bytes for seen in device.peers.values())
    assert shown(made, "endpoints") == {str(key): str(change.endpoint) for key, change in wanted.items()}
    assert shown(made, "persistent-keepalive") == {
        str(key): str(change.keepalive or "off") for key, change in wanted.items()
    }
    assert {key: frozenset(map(ip_network, text.split())) for key, text in shown(made, "allowed-ips").items()} == {
        str(key): change.allowed_ips for key, change in wanted.items()
    }


def test_peer_with_more_networks_than_one_message(made: Task) -> None:
    many = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(5000)]
    changes = (peer(0, *many), peer(1, "fd00:99::1/128"))
    made.node.backend.apply(made.netns, made.name, DeviceChange(peers=changes))
    device = made.node.backend.read(made.netns, made.name)
    assert as_changes(device) == {change.public_key: change for change in changes}
    fewer = PeerChange(KEYS[0], allowed_ips=frozenset({ip_network("10.0.1.0/24")}), replace_allowed_ips=True)
    made.node.backend.apply(made.netns, made.name, DeviceChange(peers=(fewer,)))
    assert made.node.backend.read(made.netns, made.name).peers[KEYS[0]].allowed_ips == fewer.allowed_ips


def test_changes_touch_what_they_name_and_nothing_else(made: Task) -> None:
    backend = made.node.backend
    first, second = peer(1, "10.99.0.1/32"), peer(2, "10.99.0.2/32")

    def after(*changes: PeerChange) -> dict[PublicKey, PeerChange]:
        backend.apply(made.netns, made.name, DeviceChange(peers=changes))
        return as_changes(backend.read(made.netns, made.name))

    def networks(*changes: PeerChange) -> list[set[str]]:
        seen = after(*changes)
        return [set(map(str, seen[key].allowed_ips or ())) for key in (first.public_key, second.public_key)]

    assert after(first, second) == {first.public_key: first, second.public_key: second}
    moved = host("192.0.2.200", 1)
    assert after(PeerChange(first.public_key, moved))[first.public_key].endpoint == moved
    assert after(PeerChange(first.public_key, keepalive=7))[first.public_key].endpoint == moved
    added = PeerChange(first.public_key, allowed_ips=frozenset({ip_network("10.99.0.3/32")}))
    assert networks(added) == [{"10.99.0.1/32", "10.99.0.3/32"}, {"10.99.0.2/32"}]
    taken = PeerChange(second.public_key, allowed_ips=frozenset({ip_network("10.99.0.3/32")}))
    assert networks(taken) == [{"10.99.0.1/32"}, {"10.99.0.2/32", "10.99.0.3/32"}]
    none = PeerChange(second.public_key, allowed_ips=frozenset(), replace_allowed_ips=True)
    assert networks(none) == [{"10.99.0.1/32"}, set()]
    before = after()
    assert after(PeerChange(KEYS[9], moved, update_only=True), PeerChange(KEYS[8], remove=True)) == before
    assert set(after(PeerChange(first.public_key, remove=True))) == {second.public_key}


def test_another_backend_finds_and_reads_what_one_made(made: Task) -> None:
    made.wire()
    made.node.backend.apply(made.netns, made.name, DeviceChange(peers=(peer(0),)))
    before = made.node.backend.read(made.netns, made.name)
    made.node.backend.close()
    made.node.backend = make_backend(made.node.netns.path)
    assert made.node.backend.found(made.netns) == (made.name,)
    assert made.node.backend.read(made.netns, made.name) == before
    made.node.backend.create(made.netns, made.name)
    assert made.node.backend.read(made.netns, made.name) == before


KILLED = """
import os, signal, sys
from agent.linux.netns import TaskNetns
from mesh.topology.wgtypes import DeviceChange
from tests.netns.world import make_backend
home, path, name, port = sys.argv[1:]
backend, netns = make_backend(home), TaskNetns(path)
backend.create(netns, name)
backend.apply(netns, name, DeviceChange(listen_port=int(port)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_device_outlives_the_process_that_made_it(task: Task) -> None:
    arguments = [task.node.netns.path, task.netns.path, task.name, str(task.port)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    backend = task.node.backend
    assert backend.found(task.netns) == (task.name,)
    assert backend.read(task.netns, task.name).listen_port == task.port
    task.wire()
    assert backend.read(task.netns, task.name).public_key == task.key.public
    backend.delete(task.netns, task.name)
    assert interfaces.observe(task.netns, task.name) is None


def test_taken_port_is_refused_device_keeps_its_own(made: Task) -> None:
    made.wire()
    with occupied(made.node.netns, made.port + 1), pytest.raises(PortTakenError):
        made.node.backend.apply(made.netns, made.name, DeviceChange(listen_port=made.port + 1))
    assert made.node.backend.read(made.netns, made.name).listen_port == made.port
    made.node.backend.apply(made.netns, made.name, DeviceChange(listen_port=made.port + 1))
    assert made.node.backend.read(made.netns, made.name).listen_port == made.port + 1


def test_port_taken_before_device_comes_up(task: Task) -> None:
    with occupied(task.node.netns, task.port), pytest.raises(PortTakenError):
        task.wire()
    task.wire()
    wait_for(lambda: not is_free(task.node.netns, task.port))


def test_tasks_of_one_node_cannot_share_a_port(world: World) -> None:
    node = world.node()
    first, second = world.task(node), world.task(node)
    first.wire()
    wait_for(lambda: not is_free(node.netns, first.port))
    with pytest.raises(PortTakenError):
        second.wire(port=first.port)
    first.wire()  # its own port is not taken for it


def test_every_call_reports_a_vanished_namespace(made: Task) -> None:
    backend, netns, name = made.node.backend, made.netns, made.name
    made.wire()
    delete_netns(netns)
    calls: list[Callable[[], object]] = [
        lambda: backend.create(netns, name),
        lambda: backend.read(netns, name),
        lambda: backend.apply(netns, name, DeviceChange(listen_port=made.port)),
        lambda: backend.delete(netns, name),
        lambda: backend.found(netns),
    ]
    for call in calls:
        with pytest.raises(NetnsGoneError):
            call()
    netns.close()
    wait_for(lambda: is_free(made.node.netns, made.port))  # the device has gone with it
    wait_for(lambda: sockets.process(name) is None)


def test_the_home_namespace_may_be_the_own_one(world: World) -> None:
    netns, backend, name = world.netns(), probe_as_wanted(), device_name()
    backend.create(netns, name)
    assert backend.found(netns) == (name,)
    backend.delete(netns, name)
    backend.close()


def test_fifty_tasks_leave_no_file_open(world: World) -> None:
    node = world.node()
    counts = []
    for _ in range(50):
        task = world.task(node)
        node.backend.create(task.netns, task.name)
        node.backend.apply(task.netns, task.name, DeviceChange(PrivateKey.generate(), task.port, (peer(0),)))
        interfaces.set_up(task.netns, task.name)
        node.backend.read(task.netns, task.name)
        node.backend.delete(task.netns, task.name)
        task.netns.close()
        delete_netns(task.netns)
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts == counts[:1] * 50


def probe_as_wanted() -> Backend:
    return make_backend("/proc/self/ns/net")


def shown(task: Task, what: str) -> dict[str, str]:
    """What wireguard-tools read of the peers; nothing secret is asked for."""
    lines = task.command("wg", "show", task.name, what).splitlines()
    return {key: value for key, _, value in (line.partition("\t") for line in lines)}
