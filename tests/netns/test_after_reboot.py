"""Plain overlay packets are refused from a node's start on, by the gate's wrapper, as its agent will refuse them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.containers import after_reboot
from agent.firewall import nft
from agent.linux.netns import TaskNetns
from agent.linux.nft_json import Rules
from agent.node_encryption import device as node_device
from agent.node_encryption import ruleset
from compose_ext.commands.encryption_prepare import script
from mesh.model.encryption.status import STEPS
from tests.netns.gate_machine import DOCKER, WRAPPER, Machine
from tests.netns.overlay_nodes import VXLAN_PORT, Cluster, Pinging, Wire
from tests.netns.world import World

ASKED = f"{DOCKER}/volumes/linkwire_agent/_data/{after_reboot.FILE}"
ANSWER = f"/run/docker/linkwire/{after_reboot.FILE}"


def asked_version(machine: Machine, netns: TaskNetns) -> Rules | None:
    """What the node's table is after dockerd, in that namespace, has asked for the version; None for no table."""
    with open(netns.path) as place:  # noqa: PTH123 - of which a path is needed that the machine has too
        entered = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{place.fileno()}")
        said = machine.run(*entered, WRAPPER, "--version").stdout
    assert said == machine.run("runc", "--version").stdout
    table = nft.read(netns, ruleset.NAME)
    return None if table is None else table.rules


def test_plain_packets_are_refused_before_the_agent(machine: Machine, world: World) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    netns = world.netns()
    assert asked_version(machine, netns) is None
    machine.write(ASKED, "4790 lwnode lwnode2\n")
    assert asked_version(machine, netns) == ruleset.render(node_device.NAMES, 4790)
    assert machine.sh(f"cat {ANSWER}") == f"{boot} 4790 lwnode lwnode2\n"
    nft.remove(netns, ruleset.NAME)
    assert asked_version(machine, netns) is None, "once a start of the node: the rest is the agent's"
    machine.write(ANSWER, "another-boot 4790 lwnode lwnode2\n")
    for _ in range(2):
        assert asked_version(machine, netns) == ruleset.render(node_device.NAMES, 4790)
        machine.sh(f"rm {ANSWER}")
    machine.sh(f"rm {ASKED}")
    nft.remove(netns, ruleset.NAME)
    assert asked_version(machine, netns) is None


@pytest.mark.parametrize("asked", ["4789; } lwnode", "4789 lw$node", "lwnode", "", "4789", "4789 lw*", "47x9 lwnode"])
def test_what_the_agent_never_asks_is_not_done(machine: Machine, world: World, asked: str) -> None:
    machine.write(ASKED, f"{asked}\n")
    assert asked_version(machine, world.netns()) is None
    assert machine.run("ls", ANSWER).returncode != 0


def test_refusal_finds_dockers_data_elsewhere(machine: Machine, world: World) -> None:
    machine.write("/etc/linkwire/gate", "LINKWIRE_DATA='/var/lib/a b/docker'\n")
    machine.write(ASKED.replace(DOCKER, "/var/lib/a b/docker"), "4789 lwnode lwnode2\n")
    assert asked_version(machine, world.netns()) == ruleset.render(node_device.NAMES, 4789)


def test_node_that_cannot_refuse_says_why(machine: Machine, world: World) -> None:
    machine.write(ASKED, "4789 lwnode lwnode2\n")
    machine.sh('mount --bind /dev/null "$(command -v nft)"')
    assert asked_version(machine, world.netns()) is None
    assert "nft: Permission denied" in machine.sh(f"cat {ANSWER}")


@pytest.mark.parametrize("asked", [True, False])
def test_rebooted_node_sends_plain_without_the_gate(machine: Machine, world: World, asked: bool) -> None:
    """Of a node that has come up nothing is there but its tasks, and the gate that was asked or was not."""
    with Cluster(world, 2) as cluster:
        one, other = cluster.nodes
        for node in cluster.nodes:
            node.start()
        for step in STEPS:
            cluster.switch("strict", step)
        assert one.keeper is not None
        one.keeper.stop()
        node_device.remove(one.netns, one.device.backend, one.device.names[0])
        if asked:
            machine.write(ASKED, f"{VXLAN_PORT} {' '.join(one.device.names)}\n")
        asked_version(machine, one.netns)
        with Wire(cluster, f"src host {one.address} and udp port {VXLAN_PORT}") as wire, Pinging(one, other):
            pass
        assert (wire.packets == 0) == asked
        one.restart()
        cluster.switch("strict", "enforce")
        with Wire(cluster) as wire, Pinging(one, other) as there:
            pass
        assert (there.result.lost, wire.packets) == (0, 0)


@pytest.mark.parametrize("prepared", [True, False])
def test_prepared_machine_sends_nothing_plain_before_its_agent(world: World, prepared: bool) -> None:
    """It has tasks, and their neighbours' addresses, before its agent, which takes the same rules over."""
    with Cluster(world, 2) as cluster:
        one, other = cluster.nodes
        for _ in range(2 * prepared):
            one.do(script(VXLAN_PORT, one.device.names))
        sent = f"src host {one.address} and udp port {VXLAN_PORT}"
        with Wire(cluster, sent) as wire, Pinging(one, other) as there:
            pass
        assert ((wire.packets, there.result.received) == (0, 0)) == prepared
        if prepared:
            before = one.device.refused()
            assert one.device.read().table == ruleset.render(one.device.names, VXLAN_PORT)
            assert before >= there.result.sent > 10
        other.start()
        one.start()
        with Wire(cluster, sent) as wire:
            cluster.switch("strict", "enforce")
        assert wire.packets == 0
        if prepared:
            assert one.device.refused() >= before, "the rules and their counters stayed"
        with Pinging(one, other) as there:
            pass
        assert there.result.lost == 0


def test_script_for_a_machine_has_the_agents_names() -> None:
    assert script(4790) == script(4790, node_device.NAMES)
