"""`docker linkwire flows`: who opens connections to whom, and what is refused, now."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from compose_ext.completion import nodes as node_names
from compose_ext.completion import subjects
from compose_ext.diagnostics import DockerError, absent
from compose_ext.docker_cli import Docker, printable
from compose_ext.observe.traffic.flow_text import Summary
from compose_ext.pflag import Command, Seconds, form, pass_docker, switch
from compose_ext.swarm import link_states, linked_stacks, listings
from compose_ext.terminal import show

MOST_S = 86_400
_SECONDS = 10
_COUNTS = "counts"
"""Kind of the documents by which the agent notices that nobody reads any more."""


def ask(docker: Docker, name: str | None, seconds: int, nodes: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
    """Ask the agent on the endpoint, which asks the others, and yield its documents as they come.

    Args:
        docker: the endpoint.
        name: stack or service; None for all.
        seconds: to watch.
        nodes: ids of those to watch; none for all.

    Raises:
        AbsentError: there is no such stack or service.
        UnknownNameError: none with links, as far as a worker's agent knows.
        DockerError: there is no agent, it is older, or it says what is wrong.
    """
    if name is not None:
        linked_stacks.require_name(docker, name, "stack", "service")
    asked: dict[str, Any] = {"seconds": seconds, "follow": True, "nodes": list(nodes)}
    asked |= {"name": name} if name is not None else {}
    command = ["exec", "-i", link_states.container(docker), link_states.ASK, "flows", json.dumps(asked)]
    try:
        for text in docker.follow(command):
            document = _read(text)
            yield document
            if document["kind"] == "end":
                return
    except DockerError as error:
        if link_states.ASK in str(error):  # from the runtime, in its own words: there is no such program
            raise DockerError(link_states.OLDER) from None
        raise


def _read(text: str) -> dict[str, Any]:
    try:
        document = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        document = {}
    if "error" in document:
        raise DockerError(printable(str(document["error"])))
    if "kind" not in document:
        raise DockerError("the agent's answer is not one about flows")
    return document


def _hostnames(docker: Docker) -> dict[str, str]:
    listed = docker.ask(["node", "ls", "--format", "{{.ID}} {{.Hostname}}"], listings.TIMEOUT).splitlines()
    return {identity: name for identity, _, name in (each.partition(" ") for each in listed)}


def _chosen(names: Sequence[str], hostnames: Mapping[str, str]) -> list[str]:
    """Return the ids of nodes that are named by hostname or id. Raises AbsentError: there is none of that name."""
    chosen: list[str] = []
    for name in names:
        found = [node for node, hostname in hostnames.items() if name in (node, hostname)]
        if not found:
            raise absent("node", name, hostnames.values())
        chosen += found
    return chosen


@click.command(
    "flows",
    cls=Command,
    usage="docker linkwire flows [OPTIONS] [STACK | SERVICE]",
    examples="""
        docker linkwire flows
        docker linkwire flows --for 60 shop_web
        docker linkwire flows -f --refused shop
        docker linkwire flows --node worker3 --format json shop
    """,
)
@switch("-f", "--follow", help="Go on until it is interrupted, at most a day")
@switch("--refused", help="What is refused alone")
@click.option(
    "--node",
    "nodes",
    metavar="NODE",
    multiple=True,
    help="This node alone (may be given more than once)",
    shell_complete=node_names,
)
@click.option(
    "--for",
    "seconds",
    metavar="SECONDS",
    type=Seconds(MOST_S),
    default=str(_SECONDS),
    help=f"How long to watch (default {_SECONDS})",
)
@form("text", "json")
@click.argument("name", required=False, shell_complete=subjects)
@pass_docker
def flows_command(
    docker: Docker,
    name: str | None,
    form: str,
    nodes: Sequence[str],
    *,
    follow: bool | None,
    refused: bool | None,
    seconds: str,
) -> None:
    """Print new connections over links, and the packets that tasks' rules refuse, from all nodes as they happen.

    The agent on the Docker endpoint asks those of all nodes that run such tasks; the first line names them, and the
    ones that do not answer. Agents listen only while this runs, each in at most 64 of its tasks, and read at most
    400 connections a second; other nodes send 64 KiB a second together. Whatever is left out is said at the end.
    Refusals are differences of the rules' counters, every two seconds. With several nodes lines come two to five
    seconds after the event, in its order.
    """
    hostnames: dict[str, str] = {}
    if nodes:
        hostnames = _hostnames(docker)
    elif form == "text":
        with suppress(DockerError):  # a worker's Docker does not know
            hostnames = _hostnames(docker)
    summary = Summary(hostnames=hostnames)
    try:
        for document in ask(docker, name, MOST_S if follow else int(seconds), _chosen(nodes, hostnames)):
            summary.add(document)
            kind = document["kind"]
            if kind == "watched" and form == "text":
                print(summary.beginning(None if follow else int(seconds)), flush=True)
            if kind == _COUNTS or (refused and kind == "connection"):
                continue
            if form == "json":
                print(json.dumps(document), flush=True)
            elif kind in ("connection", "refused"):
                print(summary.written(document), flush=True)
    except KeyboardInterrupt:
        pass
    if form == "text":
        print()
        show(summary.table())
