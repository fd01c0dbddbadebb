"""`docker linkwire test`: true where all is well, and the right words where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.lab import process
from tests.lab.deployment import Deployment
from tests.lab.node import Node

EVERYTHING = {
    *("TCP, IPv4", "TCP, IPv4, 1 MiB", "UDP, IPv4", "UDP, IPv4, a full packet", "UDP, IPv4, 4000 bytes in fragments"),
    *("TCP, IPv6", "TCP, IPv6, 1 MiB", "UDP, IPv6", "UDP, IPv6, a full packet", "UDP, IPv6, 4000 bytes in fragments"),
    *("a port that the link does not allow, IPv4", "a port that the link does not allow, IPv6"),
    *("a virtual IP, IPv4", "a virtual IP, IPv6", "a service without a link, by its address on the mesh"),
    "a service without a link, on the same node, beside it",
}


def ask_for_it(stacks: Deployment, *flags: str) -> tuple[int, dict[str, Any]]:
    done = stacks.try_linkwire("test", "--format", "json", *flags, seconds=400)
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)


@contextmanager
def dropping(node: Node, rule: str) -> Iterator[None]:
    """A firewall on a node that drops what a rule selects of what comes in."""
    chain = "{ type filter hook prerouting priority -350; }"
    node.run(["nft", f"add table inet fault; add chain inet fault in {chain}; add rule inet fault in {rule} drop"])
    try:
        yield
    finally:
        node.run(["nft", "delete", "table", "inet", "fault"])


def nothing_stays(stacks: Deployment) -> bool:
    """Whether nothing is left of the stack anywhere, but for tasks that Docker is still stopping."""
    manager = stacks.lab.manager
    of_stack = ["--filter", "label=com.docker.stack.namespace=linkwire-test", "--quiet"]
    left = [line for kind in ("service", "network") for line in manager.docker(kind, "ls", *of_stack).stdout.split()]
    assert not left
    running = [node for node in stacks.lab.nodes if node.docker("ps", "--all", *of_stack).stdout]
    return not running


def test_links_are_tried_and_nothing_stays(stacks: Deployment, figure: Callable[[str], None]) -> None:
    code, document = ask_for_it(stacks)
    assert (code, document["ok"], document["failures"], document["problems"]) == (0, True, [], [])
    assert set(document["nodes"]) == {"n1", "n2", "n3"}
    cases = {case["name"]: case for case in document["cases"]}
    assert cases.keys() == EVERYTHING
    assert all(case["ok"] == case["tried"] > 0 for case in cases.values())
    assert all(cases[name]["tried"] == 9 for name in EVERYTHING if name.startswith(("TCP", "UDP"))), (
        "each node asks each"
    )
    load = document["load"]
    assert load["requests"] > 100
    assert load["lost"] == 0
    process.wait_for("its tasks to end", lambda: nothing_stays(stacks), seconds=30)
    figure(f"docker linkwire test: {document['seconds']} s, {sum(case['tried'] for case in cases.values())} tries")


def test_blocked_node_is_named(stacks: Deployment) -> None:
    with dropping(stacks.lab.nodes[2], "udp dport 51820-53819 fib saddr type != local"):
        code, document = ask_for_it(stacks, "--quick", "--timeout", "20")
    assert (code, document["ok"]) == (1, False)
    said = "\n".join(document["problems"])
    assert "n1: over a link of its own no answer came in 20 s from n3" in said
    assert "n3: over a link of its own no answer came in 20 s from n1, n2" in said
    process.wait_for("its tasks to end", lambda: nothing_stays(stacks), seconds=30)


def test_lost_fragments_are_named(stacks: Deployment) -> None:
    large = "udp dport 51820-53819 meta length > 1300 fib saddr type != local"
    with dropping(stacks.lab.nodes[2], large):
        code, document = ask_for_it(stacks, "--quick", "--timeout", "20")
    assert code == 1
    failed = {(one["node"], one["to"], one["case"]) for one in document["failures"]}
    assert ("n1", "n3", "UDP, IPv4, a full packet") in failed
    assert ("n1", "n2", "UDP, IPv4, a full packet") not in failed
    assert ("n1", "n3", "UDP, IPv4") not in failed
