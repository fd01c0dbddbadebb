"""Hostile consumers' lists of ports: a wired provider keeps its links, and who is refused is who came with them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.containers import start_gate
from agent.containers.docker_client import LocalTask
from agent.firewall import nft, port_lists, ruleset
from agent.firewall.port_lists import Bounds
from agent.interface.task import TaskState
from agent.linux.netns import TaskNetns
from agent.wireguard.backend import Backend
from mesh.model.labels.ports import PortRange
from mesh.topology.policy import Allow
from mesh.topology.wgtypes import InterfaceConfig
from tests.netns.world import World
from tests.support import stage
from tests.support.attacks import Attempts
from tests.support.policies import address

HONEST = Allow("honest", (address(20),), (PortRange("tcp", 5432, 5432),))


def scattered(count: int, first: int = 1) -> tuple[PortRange, ...]:
    """Ports none of which lies beside another."""
    return tuple(PortRange("tcp", port, port) for port in range(first, first + 2 * count, 2))


def hostile(number: int, ports: tuple[PortRange, ...]) -> Allow:
    return Allow(f"evil{number:04d}", (address(1000 + number),), ports)


def of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass
class Provider:
    state: TaskState
    backend: Backend
    netns: TaskNetns
    plain: InterfaceConfig
    worked: float = 0.0
    """Seconds of a processor that nft took for the last wiring."""

    def wire(self, *consumers: Allow) -> float:
        """Wire it with these consumers, as the agent's loop does; return the seconds."""
        policy = replace(self.plain.policy, inbound=tuple(sorted(consumers, key=lambda one: one.service)))
        applied = self.state.interface.applied
        bounded = self.state.bounds.within(policy, applied.policy if applied else None, time.monotonic())
        began, used = time.monotonic(), of_children()
        self.state.wire(self.backend, replace(self.plain, policy=bounded), complete=True)
        self.worked = of_children() - used
        return time.monotonic() - began

    @property
    def serves(self) -> set[str]:
        """Services that its rules let in."""
        table = nft.read(self.netns)
        applied = self.state.interface.applied
        if table is None or applied is None or table.rules != ruleset.render(applied.policy, applied.name):
            return set()
        return {allow.service for allow in applied.policy.inbound}


@pytest.fixture
def provider(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path / "gate")
    node, _ = world.nodes()
    task = world.task(node)
    config = stage.interface(task.name, task, stage.strangers(1))
    config = replace(config, policy=replace(config.policy, inbound=(), outbound=(), balance=()))
    hosts = stage.hosts_file(tmp_path, task.name)
    local = LocalTask("c", task.name, "s", "n", "running", task.netns.path, hosts, None, (), gated=False)
    made = Provider(TaskState(local), node.backend, task.netns, config)
    made.wire(HONEST)
    assert made.serves == {"honest"}
    return made


def test_refused_rules_cost_the_newcomer_alone(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, attempt: Attempts
) -> None:
    """A limit of nft's stands for whatever makes the kernel refuse them."""
    tried = attempt("a consumer's ports make a provider's rules too large, and all its links end")
    evil = hostile(1, scattered(8_192 * 2))
    monkeypatch.setattr(port_lists, "MOST_RANGES", 1 << 20)
    monkeypatch.setitem(nft._LIMITS, resource.RLIMIT_AS, 16 << 20)
    with monkeypatch.context() as patch:
        patch.setattr(Bounds, "fewer", lambda *_: None)
        provider.wire(HONEST, evil)
        tried.works(provider.serves == set() and provider.state.interface.applied is None)
    provider.state.error = None
    provider.wire(HONEST)
    assert provider.serves == {"honest"}
    other = Allow("other", (address(21),), None)
    provider.wire(HONEST, evil)
    tried.stopped(provider.serves == {"honest"})
    report = provider.state.report()
    assert report.wired
    assert report.error is not None
    assert "evil0001" in report.error
    provider.wire(HONEST, evil, other)
    assert provider.serves == {"honest", "other"}, "and nobody else waits for it"
    monkeypatch.setitem(nft._LIMITS, resource.RLIMIT_AS, 512 << 20)
    provider.state.bounds.until = 0.0
    provider.wire(HONEST, evil, other)
    assert provider.serves == {"honest", "other", "evil0001"}
    assert provider.state.report().error is None


def test_many_hostile_consumers_stall_nobody(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, attempt: Attempts, figure: Callable[[str], None]
) -> None:
    tried = attempt("many consumers' ports stall a provider's rules")
    evil = [hostile(number, scattered(4_000, 1 + number)) for number in range(8)]
    with monkeypatch.context() as patch:
        patch.setattr(port_lists, "MOST_RANGES", 1 << 30)
        _, unbounded = provider.wire(HONEST, *evil), provider.worked
    provider.wire(HONEST)
    provider.wire(HONEST, *evil)
    bounded, served = provider.worked, provider.serves
    tried.works(unbounded > 2 * bounded, f"{unbounded} s and {bounded} s")
    figure(f"8 consumers of 4,000 ports each: {unbounded:.1f} s of nft without a bound, {bounded:.1f} s with it")
    tried.stopped(served == {"honest", "evil0000"}, f"{served}")
    assert "links from" in (provider.state.report().error or "")


def test_equal_lists_are_there_once(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    same = [hostile(number, scattered(64)) for number in range(200)]
    seconds = provider.wire(HONEST, *same)
    assert len(provider.serves) == 201
    applied = provider.state.interface.applied
    assert applied is not None
    size = sum(map(len, ruleset.render(applied.policy, applied.name)))
    monkeypatch.setattr(port_lists, "INLINE", 1 << 16)
    alone = sum(map(len, ruleset.render(applied.policy, applied.name)))
    figure(f"200 consumers with the same 64 ports: {seconds:.1f} s, {size} bytes of rules, {alone} with each its own")
    assert size < alone / 2
