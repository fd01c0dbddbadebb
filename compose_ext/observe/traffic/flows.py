"""`docker linkwire flows`: who opens connections to whom, and what is refused, now."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from compose_ext.completion import stacks
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.pflag import Command, Seconds, form, pass_docker, switch
from compose_ext.swarm import agent_answer, queries
from compose_ext.terminal import Table, line, show

MOST_S = 86_400
_SECONDS = 10
_TASK_ID = 12
_HEADER = ("LINK", "CONNECTIONS", "REFUSED")
_COUNTS = "counts"
"""Kind of the documents by which the agent notices that nobody reads any more."""


def ask(docker: Docker, name: str | None, seconds: int) -> Iterator[Mapping[str, Any]]:
    """Ask the agent on the endpoint, and yield its documents as they come.

    Raises:
        DockerError: there is no agent, it is older, or it says what is wrong.
    """
    asked = {"seconds": seconds, "follow": True} | ({"name": name} if name is not None else {})
    command = ["exec", "-i", agent_answer.container(docker), agent_answer.ASK, "flows", json.dumps(asked)]
    try:
        for text in docker.follow(command):
            document = _read(text)
            yield document
            if document["kind"] == "end":
                return
    except DockerError as error:
        if agent_answer.ASK in str(error):  # from the runtime, in its own words: there is no such program
            raise DockerError(agent_answer.OLDER) from None
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


@dataclass(slots=True)
class Summary:
    """Sum of all that was told.

    Attributes:
        connections: by link.
        refused: packets, by link.
        watched: what the agent watches.
        counts: how much of it there was.
    """

    connections: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    watched: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)

    def add(self, document: Mapping[str, Any]) -> None:
        """Add what a document tells."""
        match document["kind"]:
            case "connection":
                self.connections[f"{document['consumer']} -> {document['provider']}"] += 1
            case "refused":
                self.refused[_ends(document)] += int(document["packets"])
            case "watched":
                self.watched = document
            case _:
                self.counts = document

    def notes(self, hostnames: Mapping[str, str]) -> tuple[str, ...]:
        """Say all that was not seen."""
        watched, counts = self.watched, self.counts
        here = hostnames.get(str(watched.get("node")), "this node")
        notes = [str(problem) for problem in watched.get("problems", ())]
        if watched.get("tasks", 0) < watched.get("tasks_here", 0):
            notes.append(f"{here}: {watched['tasks']} of {watched['tasks_here']} tasks were watched, a random choice")
        if counts.get("full_seconds") or counts.get("overflowed_tasks"):
            notes.append(
                f"{here}: there were more connections than are shown: in {counts['full_seconds']} s more than the "
                f"agent reads, and of {counts['overflowed_tasks']} tasks more than the kernel kept"
            )
        if others := [hostnames.get(node, node) for node in watched.get("nodes_not_watched", ())]:
            notes.append(
                f"only {here} was watched: what tasks of {', '.join(sorted(others))} open is seen where it goes to "
                f"a task of {here}; ask those nodes for the rest, with -H or --context"
            )
        return tuple(notes)

    def table(self, hostnames: Mapping[str, str]) -> Table:
        """Return the sums by link."""
        names = sorted(self.connections | self.refused, key=lambda name: (-self.connections[name], name))
        rows = [(name, str(self.connections[name]), str(self.refused[name])) for name in names]
        return Table(_HEADER, tuple(rows), self.notes(hostnames))


def _ends(document: Mapping[str, Any]) -> str:
    """Name the two services of a refusal, the one that sent first."""
    own, other = str(document["service"]), str(document["other"] or "somebody")
    return {"out": f"{own} -> {other}", "in": f"{other} -> {own}"}.get(
        document["direction"], f"{own} beside its links"
    )


def written(document: Mapping[str, Any]) -> str:
    """Write a connection or a refusal as one line."""
    at = datetime.fromtimestamp(float(document["time"]), UTC).astimezone().isoformat(timespec="milliseconds")
    if document["kind"] == "refused":
        task = str(document["task"])[:_TASK_ID]
        return line(f"{at}  refused     {_ends(document)}: {document['packets']} packets, by task {task}")
    consumer = f"{document['consumer']} ({str(document['consumer_task'])[:_TASK_ID]})"
    provider = f"{document['provider']} ({str(document['provider_task'])[:_TASK_ID]})"
    to = _place(document["destination"], document["destination_port"])
    by = "" if document["backend"] == document["destination"] else f" by {document['backend']}"
    start = _place(document["source"], document["source_port"])
    return line(f"{at}  connection  {consumer} -> {provider}  {document['protocol']} {start} to {to}{by}")


def _place(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _hostnames(docker: Docker) -> dict[str, str]:
    with suppress(DockerError):  # a worker's Docker does not know
        listed = docker.ask(["node", "ls", "--format", "{{.ID}} {{.Hostname}}"], queries.TIMEOUT).splitlines()
        return {identity: name for identity, _, name in (each.partition(" ") for each in listed)}
    return {}


@click.command(
    "flows",
    cls=Command,
    usage="docker linkwire flows [OPTIONS] [STACK | SERVICE]",
    examples="""
        docker linkwire flows
        docker linkwire flows --for 60 shop_web
        docker linkwire flows -f --refused shop
        docker linkwire flows --format json shop
    """,
)
@switch("-f", "--follow", help="Go on until it is interrupted, at most a day")
@switch("--refused", help="What is refused alone")
@click.option(
    "--for",
    "seconds",
    metavar="SECONDS",
    type=Seconds(MOST_S),
    default=str(_SECONDS),
    help=f"How long to watch (default {_SECONDS})",
)
@form("text", "json")
@click.argument("name", required=False, shell_complete=stacks)
@pass_docker
def flows_command(
    docker: Docker, name: str | None, form: str, *, follow: bool | None, refused: bool | None, seconds: str
) -> None:
    """Print new connections over links, and what tasks' rules refuse, on the node of the Docker endpoint.

    The agent there listens only while this runs, in at most 64 of its tasks, and reads at most 400 connections a
    second: what is left out is said at the end. Refusals are differences of the rules' counters, every two seconds.
    """
    summary = Summary()
    try:
        for document in ask(docker, name, MOST_S if follow else int(seconds)):
            summary.add(document)
            kind = document["kind"]
            if kind == _COUNTS or (refused and kind == "connection"):
                continue
            if form == "json":
                print(json.dumps(document), flush=True)
            elif kind in ("connection", "refused"):
                print(written(document), flush=True)
    except KeyboardInterrupt:
        pass
    if form == "text":
        if summary.connections or summary.refused:
            print()
        show(summary.table(_hostnames(docker)))
