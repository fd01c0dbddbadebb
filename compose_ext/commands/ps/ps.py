"""`docker linkwire ps`: every link and its measured state."""

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import click

from compose_ext.commands.arguments import stack_name
from compose_ext.commands.ps import link_table, pair_table
from compose_ext.completion import stacks
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.health import missing_tasks
from compose_ext.pflag import Command, form, pass_docker, switch
from compose_ext.swarm import link_states, linked_stacks, revoked_nodes
from compose_ext.terminal import show, show_json


@click.command(
    "ps",
    cls=Command,
    usage="docker linkwire ps [OPTIONS] [STACK]",
    examples="""
        docker linkwire ps
        docker linkwire ps shop
        docker linkwire ps --pairs shop
        docker linkwire ps --format json shop
    """,
)
@form("table", "json")
@switch("--pairs", help="Show a line for each pair of tasks in place of each link, as --format json does always")
@switch("--no-trunc", help="Show whole names and ids, as where the output is no terminal")
@click.argument("stack", required=False, shell_complete=stacks)
@pass_docker
def ps_command(docker: Docker, stack: str | None, form: str, *, pairs: bool | None, no_trunc: bool | None) -> None:
    """List links, and whether they are connected: the worst first.

    Asks the Linkwire agent on the Docker endpoint. Exits with 1 if there is none, with 2 if there is no such stack.

    A link has the state of its worst pair of tasks, how many of its pairs are in it, the last handshake and the sums
    of all. Pairs that are neither connected nor idle stand under it, three at most. A state is connected, idle (no
    session, since nobody sends anything), broken (packets were sent, and none came back), unwired, or unknown (its
    node is silent), with the time for which it has been broken or silent. A link that no task of the provider serves
    has no ready task. On a terminal a task is its slot and node, and a key has the time since it was renewed; a long
    link's name is cut.
    """
    of_links = form != "json" and not pairs
    stack = stack_name(stack) if stack is not None else None
    with ThreadPoolExecutor(max_workers=1) as beside:
        revoked = beside.submit(revoked_nodes.problems, docker)
        answer = link_states.ask(docker, stack, totals=of_links)
    if stack is not None and not answer.links and answer.stacks is not None:
        linked_stacks.require_stack(docker, stack, answer.stacks)
    with suppress(DockerError):  # a worker's Docker does not know
        unlinked = (finding.text for finding in missing_tasks.missing(docker, answer))
        problems = (*revoked.result(), *unlinked, *answer.problems)
        answer = replace(answer, problems=problems, raw={**answer.raw, "problems": list(problems)})
    shape = link_table if of_links else pair_table
    if form == "json":
        show_json(answer.raw)
    elif no_trunc or not sys.stdout.isatty():
        show(shape.table(answer))
    else:
        show(shape.narrow(answer, shutil.get_terminal_size().columns, time.time()))
