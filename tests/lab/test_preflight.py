"""`docker linkwire install --check`: faults of nodes, each named for its node, before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.lab.deployment import Deployment
from tests.lab.node import Node

FIREWALL = """
add table inet guard
add chain inet guard input { type filter hook input priority 0; policy accept; }
add rule inet guard input udp dport 53819 counter drop
"""


@contextmanager
def filtered(node: Node) -> Iterator[None]:
    """A packet filter that drops the last of the UDP ports."""
    node.run(["nft", "-f", "-"], stdin=FIREWALL)
    try:
        yield
    finally:
        node.run(["nft", "delete", "table", "inet", "guard"])


@contextmanager
def routed(node: Node, network: str) -> Iterator[None]:
    """A device that leads to a network."""
    node.run(["ip", "link", "add", "clash", "type", "veth", "peer", "name", "clashed"])
    try:
        node.run(["ip", "link", "set", "clash", "up"])
        node.run(["ip", "route", "add", network, "dev", "clash"])
        yield
    finally:
        node.run(["ip", "link", "delete", "clash"])


@contextmanager
def networked(node: Node, subnet: str) -> Iterator[None]:
    """A network of Docker's."""
    node.docker("network", "create", "--subnet", subnet, "clashing")
    try:
        yield
    finally:
        node.docker("network", "rm", "clashing")


def rows(deployment: Deployment, *flags: str) -> tuple[dict[tuple[str, str], tuple[str, str]], int]:
    """What the check says: node and check to result and text; and its exit code."""
    done = deployment.try_linkwire("install", "--check", *flags, seconds=200)
    found = {}
    for line in done.stdout.splitlines():
        words = line.split(maxsplit=3)
        if len(words) == 4 and words[0].startswith("n") and words[2] in ("ok", "warning", "problem"):
            found[words[0], words[1]] = (words[2], words[3])
    assert found, done.stdout + done.stderr
    return found, done.returncode


def test_check_names_each_fault_by_node(stacks: Deployment) -> None:
    lab = stacks.lab
    before = {service["ID"]: service["Version"] for service in lab.manager.get("/services")}
    with ExitStack() as faults:
        faults.enter_context(filtered(lab.node("n2")))
        faults.enter_context(routed(lab.node("n3"), "100.96.77.0/24"))
        faults.enter_context(networked(lab.node("n1"), "100.96.128.0/20"))
        found, code = rows(stacks)
    checks = ("image", "engine", "WireGuard", "ports", "subnet", "MTU", "firewall", "clock")
    assert set(found) == {(node.name, check) for node in lab.nodes for check in checks}
    odd = {key: text for key, (level, text) in found.items() if level != "ok" and key[1] != "WireGuard"}
    assert set(odd) == {("n1", "subnet"), ("n2", "firewall"), ("n3", "subnet")}, odd
    assert "its network clashing (100.96.128.0/20)" in odd["n1", "subnet"]
    assert "inet guard input (input)" in odd["n2", "firewall"]
    assert "its route to 100.96.77.0/24 by clash" in odd["n3", "subnet"]
    assert all(
        text == "1500 bytes to n1" or "bytes to n" in text for key, (_, text) in found.items() if key[1] == "MTU"
    )
    assert code == 0, "they are warnings where Linkwire is installed"
    assert {service["ID"]: service["Version"] for service in lab.manager.get("/services")} == before
