"""`docker linkwire top`: how much passes over each link, now."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from compose_ext.completion import stacks
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker
from compose_ext.observe.traffic.rates import SORTS, Meter, Rate, ordered
from compose_ext.pflag import Command, OneOf, Seconds, Whole, form, pass_docker, switch
from compose_ext.swarm import link_states, linked_stacks
from compose_ext.swarm.link_states import Answer
from compose_ext.terminal import Table, amount, show, show_json

_HEADER = ("LINK", "PAIRS", "STATE", "RECEIVED/S", "SENT/S", "REFUSED/S")
_CLEAR = "\x1b[H\x1b[2J"
_INTERVAL_S = 5
_MOST_S = 3600
_MOST_ROWS = 10_000
_FIRST_S = 4.0
"""Until the second reading at the beginning: nodes write theirs about every three seconds."""


def table(rates: Sequence[Rate], problems: tuple[str, ...]) -> Table:
    """Return rates as a table."""
    rows = [
        (
            f"{rate.consumer} -> {rate.provider}",
            str(rate.pairs),
            rate.state,
            _bytes(rate.received),
            _bytes(rate.sent),
            "-" if rate.refused is None else f"{rate.refused:.3g}",
        )
        for rate in rates
    ]
    return Table(_HEADER, tuple(rows), problems)


def _bytes(rate: float | None) -> str:
    return "-" if rate is None else amount(rate)


def document(rates: Sequence[Rate], problems: Sequence[str]) -> dict[str, Any]:
    """Return rates as a document."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": at, "links": [asdict(rate) for rate in rates], "problems": list(problems)}


def _ask(docker: Docker, stack: str | None) -> tuple[Answer, float]:
    began = time.monotonic()
    answer = link_states.ask(docker, stack)
    if stack is not None and not answer.links:
        linked_stacks.require_stack(docker, stack, answer.stacks or ())
        raise DockerError(f"no link has an end in a stack {stack!r}: docker linkwire top shows all")
    return answer, (began + time.monotonic()) / 2


@click.command(
    "top",
    cls=Command,
    usage="docker linkwire top [OPTIONS] [STACK]",
    examples="""
        docker linkwire top
        docker linkwire top --sort refused shop
        docker linkwire top --no-stream --format json
    """,
)
@switch("--no-stream", help="Measure once, print, and end")
@click.option(
    "--sort",
    metavar="COLUMN",
    type=OneOf(SORTS),
    default=SORTS[0],
    help=f"{', '.join(SORTS)} (default {SORTS[0]}: both directions)",
)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=Seconds(_MOST_S),
    default=str(_INTERVAL_S),
    help=f"Between two measurements (default {_INTERVAL_S})",
)
@click.option("-n", "--rows", metavar="LINKS", type=Whole(_MOST_ROWS), help="So many links at most")
@form("table", "json")
@click.argument("stack", required=False, shell_complete=stacks)
@pass_docker
def top_command(docker: Docker, stack: str | None, form: str, *, no_stream: bool | None, **given: str | None) -> None:
    """Print how much passes over each link, a second, and how many packets are refused.

    Received and sent are the consumers'. The nodes read their counters about every three seconds, large ones less
    often; `-` where a node has not told of two readings, or is silent. Goes on until it is interrupted.
    """
    meter, sort = Meter(), given["sort"] or SORTS[0]
    interval, rows = float(given["interval"] or _INTERVAL_S), int(given["rows"] or _MOST_ROWS)
    meter.measure(*_ask(docker, stack))
    time.sleep(max(_FIRST_S, interval) if no_stream else min(_FIRST_S, interval))
    while True:
        answer, at = _ask(docker, stack)
        rates = ordered(meter.measure(answer, at), sort)[:rows]
        if form == "json" and no_stream:
            show_json(document(rates, answer.problems))
        elif form == "json":
            print(json.dumps(document(rates, answer.problems)), flush=True)
        else:
            if sys.stdout.isatty() and not no_stream:
                print(_CLEAR, end="")
            show(table(rates, answer.problems))
            sys.stdout.flush()
        if no_stream:
            return
        if form == "table" and not sys.stdout.isatty():
            print(flush=True)
        time.sleep(interval)
