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
_HEADER = ("LINK", "CONNECTIONS", "REFUSED PACKETS")
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
        here = _here(watched, hostnames)
        notes = [str(problem) for problem in watched.get("problems", ())]
        if watched.get("tasks", 0) < watched.get("tasks_here", 0):
            notes.append(
                f"{here} runs {watched['tasks_here']} such tasks; {watched['tasks']} of them, chosen at random, were "
                "watched"
            )
        if counts.get("full_seconds"):
            notes.append(
                f"connections are missing: in {counts['full_seconds']} s {here} had more than its agent reads"
            )
        if counts.get("overflowed_tasks"):
            notes.append(
                f"connections are missing: the kernel of {here} dropped some of {counts['overflowed_tasks']} tasks"
            )
        if others := _others(watched, hostnames):
            notes.append(
                f"only {here} was watched: connections between tasks of {others} are not shown; run this against "
                "those nodes too, with -H or --context"
            )
        return tuple(notes)

    def table(self, hostnames: Mapping[str, str]) -> Table:
        """Return the sums by link."""
        names = sorted(self.connections | self.refused, key=lambda name: (-self.connections[name], name))
        rows = [(name, str(self.connections[name]), str(self.refused[name])) for name in names]
        return Table(_HEADER, tuple(rows), self.notes(hostnames))


def _here(watched: Mapping[str, Any], hostnames: Mapping[str, str]) -> str:
    node = str(watched.get("node"))
    return printable(hostnames.get(node, f"node {node}" if watched else "this node"))


def _others(watched: Mapping[str, Any], hostnames: Mapping[str, str]) -> str:
    return ", ".join(
        sorted(printable(hostnames.get(str(node), str(node))) for node in watched.get("nodes_not_watched", ()))
    )


def beginning(watched: Mapping[str, Any], hostnames: Mapping[str, str], seconds: int | None) -> str:
    """Say in one line which node is watched, and which ones are not.

    Args:
        watched: the agent's document about it.
        hostnames: by node id.
        seconds: for so long; None until it is interrupted.
    """
    count = int(watched.get("tasks", 0))
    tasks = "1 task" if count == 1 else f"{count} tasks"
    length = "until Ctrl-C" if seconds is None else f"for {seconds} s"
    others = _others(watched, hostnames)
    rest = f"; not watched: {others}" if others else "; no other node runs a consumer"
    return line(f"watching {tasks} on {_here(watched, hostnames)} {length}{rest}")


def _ends(document: Mapping[str, Any]) -> str:
    """Name the two services of a refusal, the one that sent first."""
    own, other = str(document["service"]), str(document["other"] or "an unknown sender")
    return {"out": f"{own} -> {other}", "in": f"{other} -> {own}"}.get(
        document["direction"], f"{own}, outside its links"
    )


def written(document: Mapping[str, Any]) -> str:
    """Write a connection or a refusal as one line, with the time of day here."""
    moment = datetime.fromtimestamp(float(document["time"]), UTC).astimezone()
    at = moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03}"
    if document["kind"] == "refused":
        packets = "1 packet" if document["packets"] == 1 else f"{document['packets']} packets"
        task = str(document["task"])[:_TASK_ID]
        return line(f"{at}  refused  {_ends(document)}: {packets}, by the rules of task {task}")
    consumer = f"{document['consumer']} ({str(document['consumer_task'])[:_TASK_ID]})"
    provider = f"{document['provider']} ({str(document['provider_task'])[:_TASK_ID]})"
    port = document["destination_port"]
    to = f"{port}/{document['protocol']}" if port else str(document["protocol"])
    start = _place(document["source"], document["source_port"])
    way = str(document["destination"])
    if document["backend"] != document["destination"]:
        way = f"the virtual address {way}, which chose {document['backend']}"
    return line(f"{at}  opened   {consumer} -> {provider}: {to}, from {start} to {way}")


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
    """Print new connections over links, and the packets that tasks' rules refuse, on one node.

    It is the node of the Docker endpoint, which the first line names: choose another with -H or --context. A
    connection is seen there if either of its tasks runs there. The agent listens only while this runs, in at most 64
    of its tasks, and reads at most 400 connections a second; whatever is left out is said at the end. Refusals are
    differences of the rules' counters, every two seconds.
    """
    summary, hostnames = Summary(), dict[str, str]()
    try:
        for document in ask(docker, name, MOST_S if follow else int(seconds)):
            summary.add(document)
            kind = document["kind"]
            if kind == "watched" and form == "text":
                hostnames = _hostnames(docker)
                print(beginning(document, hostnames, None if follow else int(seconds)), flush=True)
            if kind == _COUNTS or (refused and kind == "connection"):
                continue
            if form == "json":
                print(json.dumps(document), flush=True)
            elif kind in ("connection", "refused"):
                print(written(document), flush=True)
    except KeyboardInterrupt:
        pass
    if form == "text":
        print()
        show(summary.table(hostnames))
