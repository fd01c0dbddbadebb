"""`docker linkwire ps`: every link with its tasks and their connections."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import click

from compose_ext.commands.arguments import stack_name
from compose_ext.completion import stacks
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.health import backends
from compose_ext.pflag import Command, did_you_mean, form, pass_docker, switch
from compose_ext.swarm import agent_answer, queries, revoked_nodes
from compose_ext.swarm.agent_answer import NO_READY_TASK, Answer, Link, Pair
from compose_ext.terminal import Table, age, amount, lasting, show, show_json

_HEADER = (
    "LINK",
    "CONSUMER TASK",
    "NODE",
    "PROVIDER TASK",
    "NODE",
    "STATE",
    "HANDSHAKE",
    "RECEIVED",
    "SENT",
    "REFUSED",
    "KEY",
)
_STATE = _HEADER.index("STATE") - 1
_NARROW = ("LINK", "CONSUMER", "PROVIDER", "STATE", "HANDSHAKE", "RECEIVED", "SENT", "REFUSED", "KEY, AGE")
_SHORT_ID, _SHORTEST_LINK = 4, 24
"""Characters of a task's id that tell it from others of its slot, and of a link's name that are left at least."""
_MILLISECONDS = 10**11
"""An epoch above it is in milliseconds, as since version 0.1; below it in seconds."""


def table(answer: Answer) -> Table:
    """Return the answer as a table of whole values, with everything that went wrong under it."""
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for link in answer.links:
        name = _name(link)
        refused = "-" if link.refused is None else str(link.refused)
        for pair in link.pairs:
            # It is counted for the link as a whole, and so is shown once.
            once = (refused, _key(link)) if pair is link.pairs[0] else ("", "")
            rows.append((name, *_cells(pair), *once))
            if pair.error:
                notes.append(f"{pair.consumer_task} -> {pair.provider_task}: {pair.error}")
        if not link.pairs:
            blank = ["-"] * (len(_HEADER) - 3)
            blank[_STATE] = _untold(link)
            rows.append((name, *blank, refused, _key(link)))
    return Table(_HEADER, tuple(rows), (*answer.problems, *notes))


def _untold(link: Link) -> str:
    """Return the state of a link that has no pair of tasks."""
    if not link.allowed:
        return "not allowed"
    return NO_READY_TASK if link.is_without_backend else "-"


def _cells(pair: Pair) -> tuple[str, ...]:
    return (
        pair.consumer_task,
        pair.consumer_node,
        pair.provider_task,
        pair.provider_node,
        *_measured(pair),
    )


def _measured(pair: Pair) -> tuple[str, ...]:
    return (
        pair.state if pair.lasting is None else f"{pair.state} {lasting(pair.lasting)}",
        age(pair.handshake_age),
        amount(pair.received),
        amount(pair.sent),
    )


def narrow(answer: Answer, width: int, now: float) -> Table:
    """Return the answer as a table for a terminal: tasks by slot and node, since the link names the services.

    Args:
        answer: of the agent.
        width: columns of the terminal.
        now: seconds since the epoch, for the keys' ages.
    """
    whole = table(answer)
    pairs = [pair for link in answer.links for pair in link.pairs]
    tasks = {
        *((pair.consumer_task, pair.consumer_node) for pair in pairs),
        *((pair.provider_task, pair.provider_node) for pair in pairs),
    }
    places = Counter((task.rpartition(".")[0], node) for task, node in tasks)
    rows: list[tuple[str, ...]] = []
    for link in answer.links:
        refused, key = "-" if link.refused is None else str(link.refused), _renewed(link, now)
        for pair in link.pairs:
            ends = (
                _end(pair.consumer_task, pair.consumer_node, places),
                _end(pair.provider_task, pair.provider_node, places),
            )
            once = (refused, key) if pair is link.pairs[0] else ("", "")
            rows.append((_name(link), *ends, *_measured(pair), *once))
        if not link.pairs:
            rows.append((_name(link), "-", "-", _untold(link), "-", "-", "-", refused, key))
    made = Table(_NARROW, tuple(rows), whole.problems, gap="  ")
    over = len("  ".join(made.padded()[0])) - width
    most = max((len(row[0]) for row in rows), default=0)
    if over <= 0 or most <= _SHORTEST_LINK:
        return made
    room = max(_SHORTEST_LINK, most - over)
    cut = (name if len(name) <= room else f"{name[: room - 1]}\N{HORIZONTAL ELLIPSIS}" for name, *_ in rows)
    return replace(made, rows=tuple((name, *row[1:]) for name, row in zip(cut, rows, strict=True)))


def _end(task: str, node: str, places: Mapping[tuple[str, str], int]) -> str:
    """Name a task by its slot and node, and by its id where two of the slot are there, as in a rolling update."""
    stem, _, identity = task.rpartition(".")
    slot = stem.rpartition(".")[2]
    named = f"{slot} on {node}" if slot.isdecimal() else f"on {node}"  # a global service's slot is the node's id
    return named if places[stem, node] < 2 else f"{named} ({identity[:_SHORT_ID]})"  # noqa: PLR2004 - two of them


def _name(link: Link) -> str:
    shown = [alias for alias in link.aliases if alias != link.provider]
    return f"{link.consumer} -> {link.provider}" + (f" ({', '.join(shown)})" if shown else "")


def _renewed(link: Link, now: float) -> str:
    """Return the key's name, and how long ago its secret was renewed."""
    name = "own" if link.key == f"{link.consumer}:{link.provider}" else link.key or "-"
    if link.epoch is None:
        return name
    began = link.epoch / 1000 if link.epoch > _MILLISECONDS else float(link.epoch)
    return f"{name}, {lasting(now - began)}"


def _key(link: Link) -> str:
    """Return the key's name, `own` for a link's own, and its epoch; never the key."""
    name = "own" if link.key == f"{link.consumer}:{link.provider}" else link.key or "-"
    return name if link.epoch is None else f"{name}/{link.epoch}"


def require_stack(docker: Docker, stack: str, linked: Sequence[str]) -> None:
    """Require that there is such a stack.

    Args:
        docker: asked for the stacks that have no links; a worker's does not know.
        stack: its name.
        linked: the stacks with linked services, as the agent knows them.

    Raises:
        DockerError: there is none; the text names one whose name is near.
    """
    names = set(linked)
    with suppress(DockerError):
        names.update(docker.ask(["stack", "ls", "--format", "{{.Name}}"], queries.TIMEOUT).split())
    if stack not in names:
        raise DockerError(f"this Swarm has no stack {stack!r}{did_you_mean(stack, sorted(names), chr(39))}")


@click.command(
    "ps",
    cls=Command,
    usage="docker linkwire ps [OPTIONS] [STACK]",
    examples="""
        docker linkwire ps
        docker linkwire ps shop
        docker linkwire ps --no-trunc shop
        docker linkwire ps --format json shop
    """,
)
@form("table", "json")
@switch("--no-trunc", help="Show whole names and ids, as where the output is no terminal")
@click.argument("stack", required=False, shell_complete=stacks)
@pass_docker
def ps_command(docker: Docker, stack: str | None, form: str, *, no_trunc: bool | None) -> None:
    """List links with their tasks, and whether they are connected.

    Asks the Linkwire agent on the Docker endpoint. Exits with 1 if there is none, or no such stack.

    A state is connected, idle (no session, since nobody sends anything), broken (packets were sent, and none came
    back), unwired, or unknown (its node is silent), with the time for which it has been broken or silent. A link that
    no task of the provider serves has no ready task. On a terminal a task is its slot and node, and a key has the
    time since it was renewed; a long link's name is cut.
    """
    answer = agent_answer.ask(docker, stack_name(stack) if stack is not None else None)
    if stack is not None and not answer.links and answer.stacks is not None:
        require_stack(docker, stack, answer.stacks)
    with suppress(DockerError):  # a worker's Docker does not know
        unlinked = (finding.text for finding in backends.missing(docker, answer))
        problems = (*revoked_nodes.problems(docker), *unlinked, *answer.problems)
        answer = replace(answer, problems=problems, raw={**answer.raw, "problems": list(problems)})
    if form == "json":
        show_json(answer.raw)
    elif no_trunc or not sys.stdout.isatty():
        show(table(answer))
    else:
        show(narrow(answer, shutil.get_terminal_size().columns, time.time()))
