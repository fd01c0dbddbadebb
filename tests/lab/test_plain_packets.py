"""Overlay packets in plain while a node starts, again or for the first time, and after etcd was emptied."""

from __future__ import annotations

import time

import pytest

from agent.containers import after_reboot
from agent.node_encryption.policy_routing import TABLE
from agent.node_encryption.ruleset import NAME
from tests.lab import process, swarm
from tests.lab.capture import Capture
from tests.lab.deployment import Deployment
from tests.lab.node import Node
from tests.lab.test_node_encryption import (
    ENCRYPTED,
    PLAIN,
    SECONDS,
    Figure,
    deploy_plain,
    leftovers,
    status,
    wires,
)
from tests.support.effort import in_long_form, of_long_form

SENDER = """
version: "3.8"
services:
  sink:
    image: {busybox}
    command: [sleep, "86400"]
    stop_grace_period: 0s
    deploy: {{endpoint_mode: dnsrr, placement: {{constraints: [node.hostname == n1]}}}}
  sender:
    image: {busybox}
    command: [sh, -c, "while :; do ping -c 1 -W 1 sink >/dev/null || sleep 0.05; done"]
    stop_grace_period: 0s
    deploy:
      placement: {{constraints: [node.hostname == n2]}}
      restart_policy: {{delay: 0s}}
"""
"""The sender's first packets leave as soon as it has the other's address, which Swarm's gossip brings."""


def agents(stacks: Deployment, change: str) -> None:
    """Add or remove (`rm`) a constraint by which n2 has no agent, and wait for that."""
    manager, two = stacks.lab.manager, stacks.lab.node("n2")
    manager.docker("service", "update", "--detach", f"--constraint-{change}", "node.hostname!=n2", "linkwire_agent")
    process.wait_for("n2's agent", lambda: (stacks.agent(two) is None) == (change == "add"), seconds=90, every=0.5)


def is_whole(stacks: Deployment, name: str) -> bool:
    """Whether a node does its part."""
    found = [node for node in status(stacks)["nodes"] if node["hostname"] == name]
    return [(node["step"], node["ready"], node["problem"]) for node in found] == [("enforce", 2, "")]


@pytest.mark.parametrize("asked", [True, of_long_form(False)])
def test_rebooted_node_sends_nothing_in_plain(stacks: Deployment, figure: Figure, asked: bool) -> None:
    """Its tasks start before its agent, which here takes its time, and the kernel has forgotten all rules."""
    lab, two = stacks.lab, stacks.lab.node("n2")
    deploy_plain(stacks, "burst", SENDER)
    stacks.wait_running("burst_sender", 1)
    file = two.folder / f"data/volumes/linkwire_agent/_data/{after_reboot.FILE}"
    stacks.linkwire("node", "encryption", "on", "--mode", "strict")
    try:
        agents(stacks, "add")
        with Capture(lab, size=128, only=f"{PLAIN} or {ENCRYPTED}") as capture:
            lab.stop_node("n2")
            if not asked:
                file.unlink()
            lab.start_node("n2")
            process.wait_for("n2's task", lambda: bool(stacks.tasks("burst_sender")), seconds=60, every=0.2)
            time.sleep(SECONDS)
            agents(stacks, "rm")
            process.wait_for("n2 to do its part", lambda: is_whole(stacks, "n2"), seconds=90, every=0.5)
            time.sleep(SECONDS)
        plain, encrypted = capture.count(PLAIN), capture.count(f"{ENCRYPTED} and host {two.address}")
        capture.close()
        figure(f"n2 rebooted, refusal kept: {asked}; {plain} plain packets, {encrypted} encrypted")
        assert encrypted > 10
        assert (plain == 0) == asked
    finally:
        if stacks.agent(two) is None:
            agents(stacks, "rm")
        stacks.linkwire("node", "encryption", "off")
    assert not file.exists()
    assert leftovers(two) == []


def forget(node: Node) -> None:
    """Take everything of Linkwire off a node that is in no Swarm, as if it were a new machine."""
    tasks = node.docker("ps", "--all", "--quiet", "--filter", "label=com.docker.swarm.task.id").stdout.split()
    node.docker("rm", "--force", *tasks, check=False)
    rules = "for at in 4792 4791 4790 4789; do while ip rule del pref $at 2>/dev/null; do :; done; done"
    devices = "for name in lwnode lwnode2; do ip link delete $name; done"
    done = (f"nft delete table inet {NAME}", rules, devices, f"ip route flush table {TABLE}")
    node.run(["sh", "-c", "; ".join(done)], check=False)
    node.docker("volume", "rm", "--force", "linkwire_agent", check=False)


@in_long_form
def test_emptied_etcd_in_strict_lets_nothing_plain_pass(stacks: Deployment, figure: Figure) -> None:
    """Node encryption is off afterwards, and then the same capture finds what is plain."""
    lab = stacks.lab
    deploy_plain(stacks, "burst", SENDER)
    stacks.wait_running("burst_sender", 1)
    stacks.linkwire("node", "encryption", "on", "--mode", "strict")
    try:
        with Capture(lab, size=128, only=f"{PLAIN} or {ENCRYPTED}") as capture:
            lab.wipe_etcd()
            process.wait_for("all nodes to do their part", lambda: is_whole(stacks, "n2"), seconds=120, every=0.5)
            time.sleep(SECONDS)
        plain, encrypted = capture.count(PLAIN), capture.count(ENCRYPTED)
        capture.close()
    finally:
        stacks.linkwire("node", "encryption", "off")
    off, _ = wires(stacks)
    figure(f"etcd emptied: {plain} plain packets, {encrypted} encrypted; {off} plain in {SECONDS:.0f} s when off")
    assert (plain, encrypted > 10, off > 10) == (0, True, True)


@pytest.mark.parametrize("prepared", [of_long_form(True), of_long_form(False)])
def test_joining_node_sends_nothing_plain_if_prepared(stacks: Deployment, figure: Figure, prepared: bool) -> None:
    """A machine that has just joined knows of no refusal until its agent runs, or has it from before."""
    lab, three = stacks.lab, stacks.lab.node("n3")
    deploy_plain(stacks, "burst", SENDER.replace("n2", "n3"))
    stacks.wait_running("burst_sender", 1)
    stacks.linkwire("node", "encryption", "on", "--mode", "strict")
    try:
        with Capture(lab, size=128, only=f"{PLAIN} or {ENCRYPTED}") as capture:
            three.docker("swarm", "leave", "--force")
            forget(three)
            if prepared:
                three.run(["sh"], stdin=stacks.linkwire("node", "encryption", "prepare"))
            swarm.form(lab.nodes, lab.layout.managers, print)
            began = time.monotonic()
            process.wait_for("n3 to do its part", lambda: is_whole(stacks, "n3"), seconds=180, every=0.5)
            took = time.monotonic() - began
            time.sleep(SECONDS)
        own = capture.count(f"{PLAIN} and src host {three.address}")
        others, encrypted = capture.count(f"{PLAIN} and not src host {three.address}"), capture.count(ENCRYPTED)
        capture.close()
        figure(
            f"n3 anew, prepared: {prepared}, at enforce {took:.1f} s after it joined; "
            f"plain: {own} of its own, {others} of others; {encrypted} encrypted"
        )
        assert (others, encrypted > 10) == (0, True)
        assert (own == 0) == prepared
    finally:
        stacks.linkwire("node", "encryption", "off")
    assert leftovers(three) == []
