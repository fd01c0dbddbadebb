"""A task with NET_ADMIN that wears its neighbour's MAC address: whose namespace the neighbour's is taken for.

And what is left of a device that came into a wrong namespace all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.containers import netns_choice, start_gate
from agent.containers.docker_client import LocalTask
from agent.containers.netns_choice import Candidates
from agent.containers.netns_discovery import NetnsDiscovery
from agent.containers.watcher import LocalContainers
from agent.dns.responder_client import Responder
from agent.interface.task import TaskState
from agent.linux import interfaces
from agent.linux.netns import TaskNetns
from agent.local_tasks import LocalTasks
from agent.wireguard.backend import Backend
from mesh.topology.desired import device_name
from mesh.topology.wgtypes import InterfaceConfig
from tests.netns.world import World, ip, wait_for
from tests.support import stage
from tests.support.attacks import Attempts

ATTACKERS, VICTIMS = "02:42:ac:11:00:08", "02:42:ac:11:00:09"
"""Docker derives them from addresses, which it gives in order."""
SOON_S = 0.4


@dataclass
class Node:
    """A node's folder of namespaces, and what is found there."""

    world: World
    folder: Path
    found: dict[str, str] = field(default_factory=dict)
    guesses: list[bool] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    made: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.discovery = NetnsDiscovery(self._found, self.folder, lambda: self.said)

    def _found(self, container: str, path: str, *, is_guess: bool) -> None:
        self.found[container] = Path(path).name
        self.guesses.append(is_guess)

    def namespace(self, number: int) -> TaskNetns:
        """Make one as Docker does: first there is the namespace, then a device, then the device's address."""
        made = self.world.netns()
        (self.folder / f"{number:012x}").symlink_to(made.path)
        return made

    def wear(self, netns: TaskNetns, mac: str) -> None:
        """As Docker, or as a process there with NET_ADMIN."""
        self.made += 1
        name, device = Path(netns.path).name, f"d{self.made}"
        ip("-n", name, "link", "add", device, "type", "veth", "peer", "name", f"p{self.made}")
        ip("-n", name, "link", "set", device, "address", mac)

    def start(self, container: str, mac: str) -> None:
        self.discovery.announce(container)
        self.discovery.expect(container, mac)


@pytest.fixture
def nodes(world: World, tmp_path: Path) -> Iterator[Callable[[], Node]]:
    made: list[Node] = []

    def make() -> Node:
        made.append(Node(world, tmp_path / f"netns-{len(made)}"))
        return made[-1]

    yield make
    for node in made:
        for path in node.folder.iterdir():
            path.unlink()


def started_before(node: Node) -> None:
    """The attacker runs; nobody has looked since."""
    attackers = node.namespace(1)
    node.wear(attackers, ATTACKERS)
    time.sleep(0.1)
    node.wear(attackers, VICTIMS)
    node.start("victim", VICTIMS)


def without_address(node: Node) -> None:
    """The attacker's container is on no network, and so has no address by which it could be told."""
    node.start("victim", VICTIMS)
    node.start("attacker", "")
    node.wear(node.namespace(1), VICTIMS)


def heard_late(node: Node) -> None:
    """The attacker's start was over before its address was known."""
    node.start("victim", VICTIMS)
    node.discovery.announce("attacker")
    time.sleep(0.05)
    attackers = node.namespace(1)
    node.discovery.forget("attacker")
    node.wear(attackers, VICTIMS)


def in_two(node: Node) -> None:
    """Both of two namespaces have the address at once."""
    node.start("victim", VICTIMS)
    made = [node.namespace(number) for number in (1, 2)]
    time.sleep(0.05)
    with node.discovery._lock:  # so that it does not look in between
        for one in made:
            node.wear(one, VICTIMS)


@pytest.mark.parametrize("way", [started_before, without_address, heard_late, in_two])
def test_who_wears_anothers_address_is_not_found(
    nodes: Callable[[], Node],
    monkeypatch: pytest.MonkeyPatch,
    attempt: Attempts,
    way: Callable[[Node], None],
) -> None:
    tried = attempt("a task wears its neighbour's MAC address, and is taken for it")
    attackers = f"{1:012x}"
    with monkeypatch.context() as patch:
        patch.setattr(Candidates, "_rule_out", lambda *_: None)
        patch.setattr(netns_choice, "GAP_S", 60.0)
        node = nodes()
        way(node)
        wait_for(lambda: "victim" in node.found, 5)
        tried.works(node.found["victim"] in {attackers, f"{2:012x}"})
    if way is in_two:
        monkeypatch.setattr(netns_choice, "GAP_S", 60.0)  # it is not that it did not look
    node = nodes()
    way(node)
    time.sleep(SOON_S)
    tried.stopped("victim" not in node.found)


def test_starting_task_is_found_and_gates_word_counts(
    nodes: Callable[[], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns_choice, "GAP_S", 5.0)  # however busy this machine is
    node = nodes()
    node.start("victim", VICTIMS)
    time.sleep(0.05)
    started = node.namespace(1)
    node.wear(started, "02:42:ac:11:00:77")
    time.sleep(0.05)
    node.wear(started, VICTIMS)
    wait_for(lambda: node.found == {"victim": f"{1:012x}"}, 2)
    node.start("gated", "02:42:ac:11:00:0a")
    node.namespace(2)
    node.said["gated"] = str(node.folder / f"{2:012x}")
    wait_for(lambda: node.found.get("gated") == f"{2:012x}", 2)
    assert node.guesses == [True, False]


def devices(backend: Backend, netns: TaskNetns) -> tuple[str, ...]:
    return interfaces.of_kind(netns, "tun" if backend.name == "userspace" else "wireguard")


def test_renamed_device_is_taken_back_and_rekeyed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: Attempts
) -> None:
    """Docker's word comes after the task was wired in the attacker's namespace, where the device has a new name."""
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    tried = attempt("a task keeps the device and the key that came into its namespace by a wrong guess")
    node, _ = world.nodes()
    for is_off in (True, False):
        victim, attackers = world.task(node), world.netns()
        config = stage.interface(victim.name, victim, stage.strangers(2))
        hosts = stage.hosts_file(tmp_path, victim.name)
        task = victim.name.removeprefix("lw")
        assert device_name(task) == victim.name
        local = LocalTask("c", task, "s", "n", "created", attackers.path, hosts, None, (), gated=False, is_guess=True)
        state = TaskState(local)
        state.wire(node.backend, config, complete=True)
        assert state.error is None
        assert devices(node.backend, attackers) == (victim.name,)
        ip("-n", Path(attackers.path).name, "link", "set", victim.name, "down")
        ip("-n", Path(attackers.path).name, "link", "set", victim.name, "name", "mine0")
        with monkeypatch.context() as patch:
            if is_off:
                patch.setattr(TaskState, "_take_back", lambda *_: None)
            state.local = replace(local, state="running", netns=victim.netns.path, is_guess=False)
            state.schedule.dirty = True
            state.wire(node.backend, config, complete=True)
        if is_off:
            tried.works(devices(node.backend, attackers) == ("mine0",) and state.exposed is None)
            node.backend.take_back(attackers, victim.name, config.private_key.public)
        else:
            tried.stopped(devices(node.backend, attackers) == () and state.exposed == config.private_key.public)
            wait_until_wired(state, node.backend, config)
            assert devices(node.backend, victim.netns) == (victim.name,)
        state.close()


def wait_until_wired(state: TaskState, backend: Backend, config: InterfaceConfig) -> None:
    def wired() -> bool:
        state.wire(backend, config, complete=True)
        return state.error is None

    wait_for(wired, 10)


def test_confirmed_guess_exposes_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    node, _ = world.nodes()
    task = world.task(node)
    config = stage.interface(task.name, task, stage.strangers(2))
    hosts = stage.hosts_file(tmp_path, task.name)
    name = task.name.removeprefix("lw")
    local = LocalTask("c", name, "s", "n", "created", task.netns.path, hosts, None, (), gated=False, is_guess=True)
    state = TaskState(local)
    for known in (local, replace(local, state="running", is_guess=False)):
        state.local = known
        state.wire(node.backend, config, complete=True)
        assert state.error is None
    assert state.exposed is None
    state.close()


def test_unconfirmed_guess_is_taken_back_at_the_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container never started, so Docker named no namespace: nothing of its task stays in that one."""
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    node, _ = world.nodes()
    task, others = world.task(node), world.netns()
    config = stage.interface(task.name, task, stage.strangers(2))
    hosts = stage.hosts_file(tmp_path, task.name)
    name = task.name.removeprefix("lw")
    local = LocalTask("c", name, "s", "n", "created", others.path, hosts, None, (), gated=False, is_guess=True)
    tasks = LocalTasks(Responder(able=False), node.backend)
    tasks.update(LocalContainers({"c": local}, 1, (), frozenset()))
    state = tasks.by_container["c"]
    state.wire(node.backend, config, complete=True)
    assert devices(node.backend, others) == (task.name,)
    tasks.update(LocalContainers({}, 1, (), frozenset()))
    assert devices(node.backend, others) == ()
    assert not state.is_wired_still()
