"""`docker linkwire ps`: every link with its tasks and their connections."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import click

from compose_ext.commands.arguments import stack_name
from compose_ext.completion import stacks
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.health import backends
from compose_ext.pflag import Command, did_you_mean, form, pass_docker
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
_TASK_ID = 12
"""Characters of a task's id that are shown, as Docker shows container ids."""


def table(answer: Answer) -> Table:
    """Return the answer as a table, with everything that went wrong under it."""
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for link in answer.links:
        name = f"{link.consumer} -> {link.provider}"
        shown = [alias for alias in link.aliases if alias != link.provider]
        name += f" ({', '.join(shown)})" if shown else ""
        refused = "-" if link.refused is None else str(link.refused)
        for pair in link.pairs:
            # It is counted for the link as a whole, and so is shown once.
            once = (refused, _key(link)) if pair is link.pairs[0] else ("", "")
            rows.append((name, *_cells(pair), *once))
            if pair.error:
                notes.append(f"{_task(pair.consumer_task)} -> {_task(pair.provider_task)}: {pair.error}")
        if not link.pairs:
            blank = ["-"] * (len(_HEADER) - 3)
            if not link.allowed:
                blank[_STATE] = "not allowed"
            elif link.is_without_backend:
                blank[_STATE] = NO_READY_TASK
            rows.append((name, *blank, refused, _key(link)))
    return Table(_HEADER, tuple(rows), (*answer.problems, *notes))


def _cells(pair: Pair) -> tuple[str, ...]:
    return (
        _task(pair.consumer_task),
        pair.consumer_node,
        _task(pair.provider_task),
        pair.provider_node,
        pair.state if pair.lasting is None else f"{pair.state} {lasting(pair.lasting)}",
        age(pair.handshake_age),
        amount(pair.received),
        amount(pair.sent),
    )


def _key(link: Link) -> str:
    """Return the key's name, `own` for a link's own, and its epoch; never the key."""
    name = "own" if link.key == f"{link.consumer}:{link.provider}" else link.key or "-"
    return name if link.epoch is None else f"{name}/{link.epoch}"


def _task(name: str) -> str:
    """Shorten the id in `shop_web.1.<id>`."""
    service, dot, task = name.rpartition(".")
    return f"{service}{dot}{task[:_TASK_ID]}"


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
        docker linkwire ps --format json shop
    """,
)
@form("table", "json")
@click.argument("stack", required=False, shell_complete=stacks)
@pass_docker
def ps_command(docker: Docker, stack: str | None, form: str) -> None:
    """List links with their tasks, and whether they are connected.

    Asks the Linkwire agent on the Docker endpoint. Exits with 1 if there is none, or no such stack.

    A state is connected, idle (no session, since nobody sends anything), broken (packets were sent, and none came
    back), unwired, or unknown (its node is silent), with the time for which it has been broken or silent. A link that
    no task of the provider serves has no ready task.
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
    else:
        show(table(answer))
