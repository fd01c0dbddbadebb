"""`docker linkwire events`: the audit log."""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click

from compose_ext.diagnostics import DockerError, UsageError
from compose_ext.docker_cli import Docker, printable
from compose_ext.pflag import Command, form, pass_docker, switch
from compose_ext.swarm import agent_answer
from compose_ext.terminal import complain
from mesh.model.durations import parse_duration

VERSION = 1
"""Of the agent's lines that are understood here."""
DAMAGED = 1
"""Exit code where pages of the log are missing or were changed."""
_KIND = 24
"""Columns of an event's kind."""
_NO_SUCH_COMMAND = "invalid choice"
"""In the answer of an agent from before the log."""


def moment(text: str, now: float, flag: str) -> float:
    """Read a time: `90m` for so long ago, `2026-11-28T17:00`, local where it names no zone, or Unix seconds.

    Returns:
        Seconds since 1970.

    Raises:
        UsageError: it is none of these.
    """
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return now - parse_duration(text)
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    raise UsageError(
        f"{flag} is a duration (90m, 24h, 7d), a time (2026-11-28T17:00:00+01:00) or Unix seconds: {text!r}"
    )


def written(event: dict[str, Any]) -> str:
    """Write an event as one line, with the local time."""
    at = datetime.fromtimestamp(float(event["time"]), UTC).astimezone().isoformat(timespec="milliseconds")
    details = " ".join(f"{name}={_quoted(str(text))}" for name, text in event["details"].items())
    return printable(f"{at}  {event['kind']:<{_KIND}}  {details}").rstrip()


def lines(docker: Docker, *, follow: bool) -> Iterator[dict[str, Any]]:
    """Ask the agent on the endpoint for the log, and yield its lines: events, and problems of the log.

    Raises:
        DockerError: there is no agent, or no answer that can be understood.
    """
    question = ["exec", agent_answer.container(docker), "linkwire-agent", "events"]
    try:
        if follow:
            # With -i its standard input ends when we do, and so does it.
            yield from map(_read, docker.follow([question[0], "-i", *question[1:], "--follow"]))
        else:
            yield from map(_read, docker.ask(question, agent_answer.TIMEOUT).splitlines())
    except DockerError as error:
        if _NO_SUCH_COMMAND in str(error):
            raise DockerError("the agent there is of a version without an audit log: update it") from None
        raise


def _read(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
        known = event["v"] == VERSION and (
            "problem" in event or (event["kind"], event["time"], event["details"].items())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DockerError("the agent's answer is not an audit log") from None
    if not known:
        raise DockerError(f"the agent's audit log is of another version than {VERSION}: upgrade the older of the two")
    return dict(event)


def _quoted(text: str) -> str:
    return json.dumps(text) if not text or " " in text or '"' in text else text


@click.command(
    "events",
    cls=Command,
    usage="docker linkwire events [OPTIONS]",
    examples="""
        docker linkwire events --since 24h
        docker linkwire events -f
        docker linkwire events --format json --since 2026-11-01 --until 2026-12-01
    """,
)
@switch("-f", "--follow", help="Go on with what happens, until it is interrupted")
@click.option("--since", metavar="TIME", help="From then on: 90m for so long ago, a time, or Unix seconds")
@click.option("--until", metavar="TIME", help="Until then, likewise")
@form("text", "json")
@pass_docker
def events_command(docker: Docker, since: str | None, until: str | None, form: str, **given: bool | None) -> int:
    """Print who linked what to what, since when, and by which deploy; keys, nodes and what was refused.

    The controllers write and sign this log. Each page names the one before, so one that is missing or changed is
    told, and the exit code is 1. The log keeps the last pages; the controllers' own log has each event too. Asks the
    Linkwire agent on the Docker endpoint.
    """
    follow, now = bool(given["follow"]), datetime.now(UTC).timestamp()
    if follow and until is not None:
        raise UsageError("give --follow or --until")
    first = moment(since, now, "--since") if since is not None else float("-inf")
    last = moment(until, now, "--until") if until is not None else float("inf")
    damaged = False
    for event in lines(docker, follow=follow):
        if "problem" in event:
            damaged = True
            complain(f"docker linkwire: {printable(str(event['problem']))}")
        elif not first <= event["time"] <= last:
            continue
        elif form == "text":
            print(written(event), flush=follow)
        if form == "json":
            print(json.dumps(event), flush=follow)
    return DAMAGED if damaged else 0
