"""`docker linkwire graph`: services and links as a picture, coloured by the measured state."""

from collections.abc import Callable, Mapping

import click

from compose_ext.completion import stacks
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.observe.traffic.graph_text import Graph, document, dot, graph_of, mermaid
from compose_ext.observe.traffic.svg import svg
from compose_ext.pflag import Command, form, pass_docker
from compose_ext.swarm import link_states, linked_stacks
from compose_ext.terminal import complain

_FORMATS: Mapping[str, Callable[[Graph], str]] = {"mermaid": mermaid, "dot": dot, "svg": svg, "json": document}


@click.command(
    "graph",
    cls=Command,
    usage="docker linkwire graph [OPTIONS] [STACK]",
    examples="""
        docker linkwire graph
        docker linkwire graph --format svg shop > shop.svg
        docker linkwire graph --format dot shop > shop.dot
        docker linkwire graph --format json
    """,
)
@form(*_FORMATS)
@click.argument("stack", required=False, shell_complete=stacks)
@pass_docker
def graph_command(docker: Docker, stack: str | None, form: str) -> None:
    """Draw services and links, coloured by the links' measured state.

    A link has the worst state of its pairs of tasks, and says how many are in it: green connected, blue idle, amber
    not known, red and dashed broken or refused. Asks the Linkwire agent on the Docker endpoint.
    """
    answer = link_states.ask(docker, stack, totals=True)
    if stack is not None and not answer.links:
        linked_stacks.require_stack(docker, stack, answer.stacks or ())
        raise DockerError(f"no link has an end in a stack {stack!r}: docker linkwire graph shows all")
    print(_FORMATS[form](graph_of(answer.links)), end="")
    if answer.problems:
        complain(f"docker linkwire: {len(answer.problems)} problems: see docker linkwire ps", "yellow")
