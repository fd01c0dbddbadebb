"""Keys of nodes, as their own agents state them and as Swarm's labels approve them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from compose_ext.diagnostics import DockerError, absent
from compose_ext.docker_cli import Docker, printable
from compose_ext.health import judgement, node_encryption
from compose_ext.health.node_encryption import NodeState
from compose_ext.swarm import link_states, listings, revoked_nodes
from compose_ext.swarm.link_states import Answer
from mesh.model.net import IPAddress
from mesh.topology.underlay import ADDRESS_LABEL, ports_refusal, refusal, swarms_addresses

LABEL = "linkwire.key"
"""The node label with the fingerprint of what was approved."""
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SwarmMember:
    """A node as Swarm's managers have it."""

    id: str
    hostname: str
    approved: str | None
    """The label's value."""
    known_at: tuple[IPAddress, ...]
    """Addresses that Swarm knows it by."""
    chosen: str | None
    """The node label `linkwire.address`: an operator's word on where other nodes reach it."""
    revoked: str | None
    """Since when, if it is revoked."""
    manager: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """The keys of a node as its own agent reported them, judged by the agent that was asked."""

    fingerprint: str
    unproven: str | None
    """Why there is no proof, or it does not hold; None where it does."""
    accepted: bool
    address: IPAddress | None
    """Where other nodes reach it, by its own word; None: the agent that was asked does not say."""
    ports: tuple[int, int] | None
    """Its UDP ports for tasks, by its own word."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """A node and the state of its keys."""

    id: str
    hostname: str
    keys: str
    """`proven`, `approved`, `unproven`, `REVOKED`, or `-` where no agent has reported them."""
    fingerprint: str | None
    problem: str | None
    revoked: str | None
    """Since when, if it is revoked."""
    encryption: str | None = None
    """Step of node encryption that it has taken (compose_ext.health.node_encryption); None where nobody says."""
    tunnel: NodeState | None = None
    """Its part in node encryption, where it has one."""


def key_states(docker: Docker) -> list[KeyState]:
    """List all nodes, by name.

    Raises:
        DockerError: the endpoint is no manager, or there is no agent to ask.
    """
    answer = link_states.ask(docker, None)
    by_node = _stated(answer)
    control = answer.raw.get("control") or {}
    found = []
    for node in _swarm(docker):
        statement = by_node.get(node.id)
        state, problem = _state(node, statement)
        tunnel = node_encryption.node_state(control, node.id, node.hostname)
        agent = (control.get("agents") or {}).get(node.id) or {}
        holder = judgement.holder_problem(agent) or judgement.holder_note(agent)
        problem = "; ".join(filter(None, [problem, *_misplaced(node, statement), holder]))
        found.append(
            KeyState(
                node.id,
                node.hostname,
                state,
                statement.fingerprint if statement else None,
                problem or None,
                node.revoked,
                tunnel.step if tunnel is not None else None,
                tunnel if tunnel is not None and tunnel.step != "off" else None,
            )
        )
    return found


def misplaced(docker: Docker, answer: Answer) -> list[str]:
    """Return what nodes state about their addresses and ports, as the agent answered, and does not count.

    Raises:
        DockerError: the endpoint is no manager.
    """
    by_node = _stated(answer)
    return [
        f"node {node.hostname}: {why}" for node in _swarm(docker) for why in _misplaced(node, by_node.get(node.id))
    ]


def unproven(docker: Docker, answer: Answer) -> list[str]:
    """Return the nodes whose keys are neither proven nor approved, as the agent answered: what is new waits there.

    Raises:
        DockerError: the endpoint is no manager.
    """
    by_node = _stated(answer)
    if not any(statement.unproven for statement in by_node.values()):
        return []
    states = ((node.hostname, _state(node, by_node.get(node.id))) for node in _swarm(docker))
    return [
        f"node {hostname}: its keys are not proven: {problem}: docker linkwire node approve {hostname}"
        for hostname, (state, problem) in states
        if state == "unproven"
    ]


def _misplaced(node: SwarmMember, statement: Statement | None) -> Iterator[str]:
    if statement is None or statement.address is None or statement.ports is None:
        return
    if not node.chosen and (why := refusal(statement.address, node.known_at, ())):
        yield why
    if why := ports_refusal(*statement.ports):
        yield why


def _state(node: SwarmMember, statement: Statement | None) -> tuple[str, str]:
    if node.revoked is not None:
        return "REVOKED", revoked_nodes.explained(node.revoked)
    if statement is None:
        return "-", "no agent has reported its keys (yet)"
    approved = node.approved == statement.fingerprint
    if statement.unproven is None or approved:
        waits = (
            "" if statement.accepted else "the controller has not accepted its keys (yet): see the controller's log"
        )
        return ("approved" if statement.unproven else "proven"), waits
    other = f"; the label {LABEL} approves other keys" if node.approved else ""
    kept = ". What it has stays, and nothing new is sealed to it" if statement.accepted else ""
    return "unproven", f"{statement.unproven}{other}{kept}"


def statements(docker: Docker) -> dict[str, Statement]:
    """Ask the agent for each node's own statement, by the node's id. Raises DockerError."""
    return _stated(link_states.ask(docker, None))


def _stated(answer: Answer) -> dict[str, Statement]:
    try:
        return {str(raw["id"]): _statement(raw) for raw in answer.raw.get("nodes", ())}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"the agent's answer is incomplete ({type(error).__name__}: {error})") from None


def _statement(raw: dict[str, Any]) -> Statement:
    fingerprint, unproven = str(raw["fingerprint"]), raw["unproven"]
    if not FINGERPRINT.fullmatch(fingerprint):
        raise TypeError("a fingerprint")
    address = ip_address(str(raw["address"])) if "address" in raw else None
    ports = (int(raw["ports"][0]), int(raw["ports"][1])) if "ports" in raw else None
    why = None if unproven is None else printable(str(unproven))
    return Statement(fingerprint, why, raw["accepted"] is True, address, ports)


def _swarm(docker: Docker) -> list[SwarmMember]:
    found = _inspected(docker, docker.ask(["node", "ls", "--quiet"], link_states.TIMEOUT).split())
    return sorted(found, key=lambda node: node.hostname)


def member(docker: Docker, name: str) -> SwarmMember:
    """Return a node by its name or id, as for `docker node`.

    Raises:
        AbsentError: there is none.
        DockerError: the endpoint is no manager, or several nodes have that name.
    """
    try:
        (found,) = _inspected(docker, [name])
    except DockerError as error:
        if listings.is_absence(error):
            raise absent("node", name, listings.names(docker, "node")) from None
        raise
    return found


def _inspected(docker: Docker, names: list[str]) -> list[SwarmMember]:
    try:
        return [
            SwarmMember(
                str(raw["ID"]),
                printable(str(raw["Description"]["Hostname"])),
                (raw["Spec"].get("Labels") or {}).get(LABEL),
                swarms_addresses(raw),
                (raw["Spec"].get("Labels") or {}).get(ADDRESS_LABEL),
                revoked_nodes.since(raw),
                raw["Spec"].get("Role") == "manager",
            )
            for raw in json.loads(docker.ask(["node", "inspect", *names], link_states.TIMEOUT))
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None
