"""`docker linkwire gate`: the start gate of nodes, put in, taken out or shown."""

from collections.abc import Sequence

import click

from compose_ext import completion
from compose_ext.docker_cli import Docker
from compose_ext.pflag import Group, Seconds, form, pass_docker
from compose_ext.swarm import gate
from compose_ext.terminal import leave, say, show_json

_MAX_WAIT = 86400
"""Seconds."""


_nodes_argument = click.argument("nodes", nargs=-1, shell_complete=completion.nodes)


@click.group(
    "gate",
    cls=Group,
    usage="docker linkwire gate install | remove | status [OPTIONS] [NODE...]",
    examples="""
        docker linkwire gate install
        docker linkwire gate install --wait 60 n1 n2
        docker linkwire gate status
    """,
)
def gate_command() -> None:
    """Put the start gate into nodes' Docker, take it out, or show its state.

    With the gate as a node's default runtime, a linked task starts when it is wired, or not at all. `install` places
    its script on each node, merges it into dockerd's own configuration file, keeps the file as it was beside it,
    reloads dockerd (nothing is restarted), reads back, and sets the node label linkwire.gate=true. `remove` undoes
    all of it. Without NODE it is done on all nodes. Exits with 1 if a node could not; the others have it then, and it
    may be run again.
    """


@gate_command.command(
    "install",
    usage="docker linkwire gate install [OPTIONS] [NODE...]",
    examples="""
        docker linkwire gate install
        docker linkwire gate install --wait 60 n1 n2
    """,
)
@click.option(
    "--wait", type=Seconds(_MAX_WAIT), metavar="SECONDS", help="How long a start waits to be wired (default 30)"
)
@click.option(
    "--ready-wait",
    type=Seconds(_MAX_WAIT),
    metavar="SECONDS",
    help="How long a start with `gate: ready` waits for its providers (default 120)",
)
@_nodes_argument
@pass_docker
def _install(docker: Docker, wait: str | None, ready_wait: str | None, nodes: Sequence[str]) -> int:
    """Put the start gate into nodes' Docker."""
    options = [f"--{name}={value}" for name, value in (("wait", wait), ("ready-wait", ready_wait)) if value]
    return 0 if gate.run(docker, "install", nodes, say, options) else 1


@gate_command.command(
    "remove",
    usage="docker linkwire gate remove [NODE...]",
    examples="docker linkwire gate remove n1",
)
@_nodes_argument
@pass_docker
def _remove_command(docker: Docker, nodes: Sequence[str]) -> int:
    """Take the start gate out of nodes' Docker."""
    done, left = gate.remove(docker, nodes, say)
    code = leave(left)
    return code if done else 1


@gate_command.command(
    "status",
    usage="docker linkwire gate status [OPTIONS] [NODE...]",
    examples="""
        docker linkwire gate status
        docker linkwire gate status --format json n1
    """,
)
@form("text", "json")
@_nodes_argument
@pass_docker
def _status(docker: Docker, form: str, nodes: Sequence[str]) -> int:
    """Show which nodes have the start gate."""
    if form != "json":
        return 0 if gate.run(docker, "status", nodes, say) else 1
    found = list(gate.results(docker, "status", nodes))
    ok = all(result.problem is None for result in found)
    show_json({"ok": ok, "nodes": [result.as_record() for result in found]})
    return 0 if ok else 1
