"""Forms a Swarm of the lab's nodes, or mends it: what is joined already is left alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tests.lab.layout import LabError
from tests.lab.node import Node, UnreachableError
from tests.lab.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SWARM_PORT = 2377
SETTLING = 60.0  # seconds for a node to be Ready; a dead one is noticed after 15


def form(nodes: Sequence[Node], managers: int, say: Callable[[str], None]) -> None:
    """Make all nodes members of one Swarm, the first `managers` of them its managers, and wait until Ready."""
    first = nodes[0]
    state = _state(first)
    if state["LocalNodeState"] != "active" or not state["ControlAvailable"]:
        say(f"{first.name}: a new Swarm")
        _leave(first)
        first.docker("swarm", "init", *_addresses(first))
    wait_for(f"{first.name} to lead its Swarm", lambda: bool(_members(first)), seconds=SETTLING)
    known = {member["ID"] for member in _members(first)}
    outside = [node for node in nodes[1:] if not _belongs(node, known, manager=node in nodes[:managers])]
    if outside:
        tokens = {role: _token(first, role) for role in ("manager", "worker")}
        # Managers one after the other: each changes the quorum.
        for node in outside:
            if node in nodes[:managers]:
                _join(node, first, tokens["manager"], say)
        with ThreadPoolExecutor() as pool:
            workers = [node for node in outside if node not in nodes[:managers]]
            list(pool.map(lambda node: _join(node, first, tokens["worker"], say), workers))
    _drop_strangers(first, nodes)
    wait_for("every node to be Ready in the Swarm", lambda: _all_ready(nodes), seconds=SETTLING, every=0.1)


def roles(manager: Node) -> dict[str, str]:
    """What Swarm says of its members: host name to such as 'manager, ready, active'."""
    return {
        member["Description"]["Hostname"]: ", ".join(
            (member["Spec"]["Role"], member["Status"]["State"], member["Spec"]["Availability"])
        )
        for member in _members(manager)
    }


def _state(node: Node) -> dict[str, Any]:
    state: dict[str, Any] = node.get("/info")["Swarm"]
    if state["LocalNodeState"] in {"pending", "locked"}:
        wait_for(f"{node.name} to know its Swarm", lambda: _settled(node), seconds=SETTLING)
        state = node.get("/info")["Swarm"]
    return state


def _settled(node: Node) -> bool:
    return node.get("/info")["Swarm"]["LocalNodeState"] not in {"pending", "locked"}


def _members(manager: Node) -> list[dict[str, Any]]:
    try:
        members: list[dict[str, Any]] = manager.get("/nodes")
    except UnreachableError:  # no leader yet
        return []
    return members


def _belongs(node: Node, known: set[str], *, manager: bool) -> bool:
    state = _state(node)
    return (
        state["LocalNodeState"] == "active"
        and state["NodeID"] in known
        and bool(state["ControlAvailable"]) == manager
    )


def _addresses(node: Node) -> list[str]:
    # The data path too: docker0 and others come and go, and Swarm would have to guess.
    listen = f"{node.address}:{SWARM_PORT}"
    return [
        *("--advertise-addr", node.address, "--data-path-addr", node.address),
        *("--listen-addr", listen),
    ]


def _token(first: Node, role: str) -> str:
    return first.docker("swarm", "join-token", "-q", role).stdout.strip()


def _join(node: Node, first: Node, token: str, say: Callable[[str], None]) -> None:
    _leave(node)
    say(f"{node.name}: joins")
    node.docker("swarm", "join", *_addresses(node), "--token", token, f"{first.address}:{SWARM_PORT}")


def _leave(node: Node) -> None:
    if _state(node)["LocalNodeState"] != "inactive":
        node.docker("swarm", "leave", "--force")


def _drop_strangers(manager: Node, nodes: Sequence[Node]) -> None:
    """Forget members that are none of the nodes: earlier selves of a node that had to join again."""
    ours = {node.get("/info")["Swarm"]["NodeID"] for node in nodes}
    for member in _members(manager):
        if member["ID"] not in ours:
            if member["Spec"]["Role"] == "manager":
                manager.docker("node", "demote", member["ID"])
            manager.docker("node", "rm", "--force", member["ID"])


def _all_ready(nodes: Sequence[Node]) -> bool:
    ready = {member["ID"] for member in _members(nodes[0]) if member["Status"]["State"] == "ready"}
    try:
        return all(node.get("/info")["Swarm"]["NodeID"] in ready for node in nodes)
    except UnreachableError as error:
        raise LabError(str(error)) from error
