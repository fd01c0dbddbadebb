"""`docker linkwire node`: the nodes with their keys, approving keys by hand, and revoking a node."""

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from compose_ext import completion
from compose_ext.commands.node_encryption import encryption_command, figures
from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker
from compose_ext.health.node_keys import FINGERPRINT, LABEL, KeyState, SwarmMember, key_states, member, statements
from compose_ext.pflag import Group, form, pass_docker, switch
from compose_ext.swarm import link_states
from compose_ext.swarm.revoked_nodes import REVOKED_LABEL
from compose_ext.terminal import Table, ask, show, show_json

_HEADER, _TUNNEL = ("ID", "HOSTNAME", "KEYS", "ENCRYPTION"), ("PEERS", "HANDSHAKE", "RECEIVED", "SENT")

_DIGITS = 16
"""Of a fingerprint that a terminal has room for beside all else."""


def table(nodes: Sequence[KeyState], digits: int | None = None) -> Table:
    """Return the nodes as a table, with everything that is wrong under it.

    Args:
        nodes: all of them.
        digits: so many of a fingerprint are shown; None: all.
    """
    is_on = any(node.tunnel is not None for node in nodes)
    rows = tuple(
        (
            *(node.id, node.hostname, node.keys, node.encryption or "-"),
            *(tunnel_cells(node) if is_on else ()),
            (node.fingerprint or "-")[:digits],
        )
        for node in nodes
    )
    header = (*_HEADER, *(_TUNNEL if is_on else ()), "FINGERPRINT")
    return Table(header, rows, tuple(f"{node.hostname}: {node.problem}" for node in nodes if node.problem))


def tunnel_cells(node: KeyState) -> tuple[str, ...]:
    """Return the cells of a node's part in node encryption: peers that answer, of how many; handshake; bytes."""
    tunnel = node.tunnel
    if tunnel is None:
        return ("-",) * len(_TUNNEL)
    return (f"{tunnel.ready}/{tunnel.peers}", *figures(tunnel))


def approve(docker: Docker, name: str, fingerprint: str | None) -> None:
    """Approve a node's keys, and end its revocation.

    Args:
        docker: a manager.
        name: the node's name or id, as for `docker node`.
        fingerprint: of the keys, as the agent on that node logs it; None: the operator is shown what the store holds
            and asked, or, of a revoked node, which reports nothing, no keys are approved.

    Raises:
        UsageError: the fingerprint is none; or there is nobody to ask.
        AbsentError: there is no such node.
        DockerError: the endpoint is no manager, or no agent speaks for it.
    """
    if fingerprint is not None and not FINGERPRINT.fullmatch(fingerprint):
        raise UsageError(f"--fingerprint is 64 hexadecimal digits, as the agent there logs it, not {fingerprint!r}")
    node = member(docker, name)
    lifted = ["--label-rm", REVOKED_LABEL] if node.revoked is not None else []
    chosen = fingerprint or (None if lifted else _asked(docker, node))
    added = ["--label-add", f"{LABEL}={chosen}"] if chosen else []
    docker.ask(["node", "update", *lifted, *added, node.id], link_states.TIMEOUT)
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
        AbsentError: there is no such node.
        DockerError: the endpoint is no manager, or the node is one.
    """
    node = member(docker, name)
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
    docker.ask(words, link_states.TIMEOUT)
    print(
        f"{node.hostname}: revoked: its tasks lose their links, and every link key that it knew is renewed. "
        f"Swarm still runs its tasks: `docker node update --availability drain {node.hostname}` moves them. "
        f"`docker linkwire node approve {node.hostname}` undoes it"
    )


def _asked(docker: Docker, node: SwarmMember) -> str:
    statement = statements(docker).get(node.id)
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


@click.group(
    "node",
    cls=Group,
    usage="docker linkwire node ls | approve [--fingerprint TEXT] NODE | revoke NODE | encryption COMMAND",
    examples="""
        docker linkwire node ls
        docker linkwire node approve n1
        docker linkwire node revoke n3
    """,
)
def node_command() -> None:
    """List nodes, approve their keys, revoke a node, and encrypt overlay packets between nodes.

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
@switch("--no-trunc", help="Show whole fingerprints, as where the output is no terminal")
@pass_docker
def _ls(docker: Docker, form: str, *, no_trunc: bool | None) -> None:
    """List nodes and whether their keys are proven.

    ENCRYPTION is the step of node encryption that is in place. While it is on, PEERS is how many nodes answer by
    the device, of those that it knows, HANDSHAKE the age of the oldest last one, RECEIVED and SENT are the device's
    bytes. On a terminal a fingerprint is its first 16 digits.
    """
    nodes = key_states(docker)
    if form == "json":
        show_json({"nodes": [asdict(node) for node in nodes]})
    else:
        show(table(nodes, None if no_trunc or not sys.stdout.isatty() else _DIGITS))


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


node_command.add_command(encryption_command)
