"""`docker linkwire node`: the nodes with their keys, approving keys by hand, and revoking a node."""

import datetime as dt
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any

import click

from compose_ext import completion
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker, printable
from compose_ext.pflag import Group, form, pass_docker
from compose_ext.swarm import agent_answer, revoked_nodes
from compose_ext.swarm.agent_answer import Answer
from compose_ext.swarm.revoked_nodes import REVOKED_LABEL
from compose_ext.terminal import Table, ask, show, show_json
from mesh.model.net import IPAddress
from mesh.topology.underlay import ADDRESS_LABEL, ports_refusal, refusal, swarms_addresses

LABEL = "linkwire.key"
"""The node label with the fingerprint of what was approved."""
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HEADER = ("ID", "HOSTNAME", "KEYS", "FINGERPRINT")


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


def key_states(docker: Docker) -> list[KeyState]:
    """List all nodes, by name.

    Raises:
        DockerError: the endpoint is no manager, or there is no agent to ask.
    """
    statements = _statements(docker)
    found = []
    for node in _swarm(docker):
        statement = statements.get(node.id)
        state, problem = _state(node, statement)
        problem = "; ".join(filter(None, [problem, *_misplaced(node, statement)]))
        found.append(
            KeyState(
                node.id,
                node.hostname,
                state,
                statement.fingerprint if statement else None,
                problem or None,
                node.revoked,
            )
        )
    return found


def misplaced(docker: Docker, answer: Answer) -> list[str]:
    """Return what nodes state about their addresses and ports, as the agent answered, and does not count.

    Raises:
        DockerError: the endpoint is no manager.
    """
    statements = _stated(answer)
    return [
        f"node {node.hostname}: {why}" for node in _swarm(docker) for why in _misplaced(node, statements.get(node.id))
    ]


def _misplaced(node: SwarmMember, statement: Statement | None) -> Iterator[str]:
    if statement is None or statement.address is None or statement.ports is None:
        return
    if not node.chosen and (why := refusal(statement.address, node.known_at, ())):
        yield why
    if why := ports_refusal(*statement.ports):
        yield why


def table(nodes: Sequence[KeyState]) -> Table:
    """Return the nodes as a table, with everything that is wrong under it."""
    rows = tuple((node.id, node.hostname, node.keys, node.fingerprint or "-") for node in nodes)
    return Table(_HEADER, rows, tuple(f"{node.hostname}: {node.problem}" for node in nodes if node.problem))


def approve(docker: Docker, name: str, fingerprint: str | None) -> None:
    """Approve a node's keys, and end its revocation.

    Args:
        docker: a manager.
        name: the node's name or id, as for `docker node`.
        fingerprint: of the keys, as the agent on that node logs it; None: the operator is shown what the store holds
            and asked, or, of a revoked node, which reports nothing, no keys are approved.

    Raises:
        UsageError: the fingerprint is none; or there is nobody to ask.
        DockerError: the endpoint is no manager, there is no such node, or no agent speaks for it.
    """
    if fingerprint is not None and not _FINGERPRINT.fullmatch(fingerprint):
        raise UsageError(f"--fingerprint is 64 hexadecimal digits, as the agent there logs it, not {fingerprint!r}")
    (node,) = _inspected(docker, [name])
    lifted = ["--label-rm", REVOKED_LABEL] if node.revoked is not None else []
    chosen = fingerprint or (None if lifted else _asked(docker, node))
    added = ["--label-add", f"{LABEL}={chosen}"] if chosen else []
    docker.ask(["node", "update", *lifted, *added, node.id], agent_answer.TIMEOUT)
    if lifted:
        print(f"{node.hostname}: no longer revoked; its tasks get their links again when its keys are proven")
    if chosen:
        print(f"{node.hostname}: keys {chosen} are approved")


def revoke(docker: Docker, name: str) -> None:
    """Take all links from a node's tasks, the link keys that it knew out of use, and its access to etcd.

    Args:
        docker: a manager.
        name: the node's name or id, as for `docker node`.

    Raises:
        DockerError: the endpoint is no manager, there is no such node, or it is a manager.
    """
    (node,) = _inspected(docker, [name])
    if node.manager:
        raise DockerError(
            f"{node.hostname} is a manager, which owns the Swarm and with it every link: "
            f"run `docker node demote {node.hostname}` first"
        )
    if node.revoked is not None:
        print(f"{node.hostname}: revoked since {node.revoked}")
        return
    # An approval was of keys that somebody else may have now.
    dropped = ["--label-rm", LABEL] if node.approved is not None else []
    since = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
    words = ["node", "update", "--label-add", f"{REVOKED_LABEL}={since}", *dropped, node.id]
    docker.ask(words, agent_answer.TIMEOUT)
    print(
        f"{node.hostname}: revoked: its tasks lose their links, and every link key that it knew is renewed. "
        f"Swarm still runs its tasks: `docker node update --availability drain {node.hostname}` moves them. "
        f"`docker linkwire node approve {node.hostname}` undoes it"
    )


def _asked(docker: Docker, node: SwarmMember) -> str:
    statement = _statements(docker).get(node.id)
    if statement is None:
        raise DockerError(f"no agent has reported the keys of {node.hostname} (yet)")
    print(f"{node.hostname} says that its keys are {statement.fingerprint}")
    if statement.unproven is None:
        print("Its Swarm certificate proves them: there is no need to approve them.")
    if not sys.stdin.isatty():
        raise UsageError(
            "standard input is no terminal: compare the fingerprint with the log of the agent on that node, "
            "and give it as --fingerprint"
        )
    print(
        "Anyone who can write to etcd could have placed this fingerprint: "
        "compare it with the log of the agent on that node."
    )
    if ask("Do they match? Approve these keys? [y/N] ") not in ("y", "yes"):
        raise DockerError("nothing was approved")
    return statement.fingerprint


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


def _statements(docker: Docker) -> dict[str, Statement]:
    return _stated(agent_answer.ask(docker, None))


def _stated(answer: Answer) -> dict[str, Statement]:
    try:
        return {str(raw["id"]): _statement(raw) for raw in answer.raw.get("nodes", ())}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"the agent's answer is incomplete ({type(error).__name__}: {error})") from None


def _statement(raw: dict[str, Any]) -> Statement:
    fingerprint, unproven = str(raw["fingerprint"]), raw["unproven"]
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise TypeError("a fingerprint")
    address = ip_address(str(raw["address"])) if "address" in raw else None
    ports = (int(raw["ports"][0]), int(raw["ports"][1])) if "ports" in raw else None
    why = None if unproven is None else printable(str(unproven))
    return Statement(fingerprint, why, raw["accepted"] is True, address, ports)


def _swarm(docker: Docker) -> list[SwarmMember]:
    found = _inspected(docker, docker.ask(["node", "ls", "--quiet"], agent_answer.TIMEOUT).split())
    return sorted(found, key=lambda node: node.hostname)


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
            for raw in json.loads(docker.ask(["node", "inspect", *names], agent_answer.TIMEOUT))
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None


@click.group(
    "node",
    cls=Group,
    usage="docker linkwire node ls | approve [--fingerprint TEXT] NODE | revoke NODE",
    examples="""
        docker linkwire node ls
        docker linkwire node approve n1
        docker linkwire node revoke n3
    """,
)
def node_command() -> None:
    """List nodes and whether their keys are proven, approve keys by hand, and revoke a node.

    A node proves its keys by its Swarm certificate. Where it cannot, as a manager of a locked Swarm (autolock), an
    operator approves them: `approve` sets the node label linkwire.key to their fingerprint. `revoke` takes the links
    from a node that is in other hands. All need a manager.
    """


@node_command.command(
    "ls",
    usage="docker linkwire node ls [OPTIONS]",
    examples="""
        docker linkwire node ls
        docker linkwire node ls --format json
    """,
)
@form("table", "json")
@pass_docker
def _ls(docker: Docker, form: str) -> None:
    """List nodes and whether their keys are proven."""
    nodes = key_states(docker)
    if form == "json":
        show_json({"nodes": [asdict(node) for node in nodes]})
    else:
        show(table(nodes))


@node_command.command(
    "approve",
    usage="docker linkwire node approve [--fingerprint TEXT] NODE",
    examples="""
        docker linkwire node approve n1
        docker linkwire node approve --fingerprint FINGERPRINT n1
    """,
)
@click.option(
    "--fingerprint",
    metavar="TEXT",
    help="Fingerprint of the keys, as the agent on that node logs it; nothing is asked then",
)
@click.argument("node", shell_complete=completion.nodes)
@pass_docker
def _approve(docker: Docker, fingerprint: str | None, node: str) -> None:
    """Approve a node's keys.

    Without --fingerprint it shows what etcd holds, and asks; compare it with what the agent on that node logs. It
    also undoes `revoke`; a revoked node's keys are then approved only with --fingerprint, or proven by itself.
    """
    approve(docker, node, fingerprint or None)


@node_command.command(
    "revoke",
    usage="docker linkwire node revoke NODE",
    examples="""
        docker linkwire node revoke n3
    """,
)
@click.argument("node", shell_complete=completion.nodes)
@pass_docker
def _revoke(docker: Docker, node: str) -> None:
    """Take all links from a node's tasks.

    Within a second every other node drops its tasks as peers. Every link key that it knew is renewed, its etcd user
    and connections end, and nothing is sealed to it. Swarm still runs its tasks, without links. A manager is refused:
    demote it first. `docker linkwire node approve` undoes it.
    """
    revoke(docker, node)
