"""`docker linkwire events`: the audit log."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from compose_ext.completion import subjects
from compose_ext.diagnostics import AbsentError, DockerError, UnknownNameError, UsageError
from compose_ext.docker_cli import Docker, printable
from compose_ext.observe.diagnosis.log_lines import Subject
from compose_ext.observe.diagnosis.logs import warn_of_absence
from compose_ext.pflag import Command, form, moment, pass_docker, switch
from compose_ext.swarm import link_states, linked_stacks
from compose_ext.terminal import complain, show_finding, words

VERSION = 1
"""Of the agent's lines that are understood here."""
DAMAGED = 1
"""Exit code where pages of the log are missing or were changed."""
_KIND = 24
"""Columns of an event's kind."""
_NAMED = ("stack", "service", "task", "node")
_NO_SUCH_COMMAND = "invalid choice"
"""In the answer of an agent from before the log."""


def written(event: dict[str, Any]) -> str:
    """Write an event as one line, with the local time."""
    at = datetime.fromtimestamp(float(event["time"]), UTC).astimezone().isoformat(timespec="milliseconds")
    details = words({name: str(text) for name, text in event["details"].items()})
    return printable(f"{at}  {event['kind']:<{_KIND}}  {details}").rstrip()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events that are wanted.

    Attributes:
        first: not before, in seconds since 1970.
        last: not after.
        kinds: words, one of which is in the event's kind; empty for all.
        subjects: one of which a detail names; empty for all.
    """

    first: float = float("-inf")
    last: float = float("inf")
    kinds: tuple[str, ...] = ()
    subjects: tuple[Subject, ...] = ()

    def takes(self, event: Mapping[str, Any]) -> bool:
        """Tell whether an event is wanted."""
        if not self.first <= event["time"] <= self.last:
            return False
        if self.kinds and not any(f" {kind} " in f" {event['kind']} " for kind in self.kinds):
            return False
        return not self.subjects or bool(self.named(event))

    def named(self, event: Mapping[str, Any]) -> set[str]:
        """Return the names, of those wanted, that an event's details have."""
        details = [str(text) for text in event["details"].values()]
        return {subject.name for subject in self.subjects if any(map(subject.is_in, details))}


def lines(docker: Docker, *, follow: bool) -> Iterator[dict[str, Any]]:
    """Ask the agent on the endpoint for the log, and yield its lines: events, and problems of the log.

    Raises:
        DockerError: there is no agent, or no answer that can be understood.
    """
    question = ["exec", link_states.container(docker), "linkwire-agent", "events"]
    try:
        if follow:
            # With -i its standard input ends when we do, and so does it.
            yield from map(_read, docker.follow([question[0], "-i", *question[1:], "--follow"]))
        else:
            yield from map(_read, docker.ask(question, link_states.TIMEOUT).splitlines())
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


def _require(docker: Docker, names: Iterable[str]) -> None:
    """Require that there is something of each name; say of all but the last where there is not.

    Raises:
        AbsentError: there is not.
        UnknownNameError: there is not, as far as a worker's agent knows.
        DockerError: neither Docker nor the agent answers.
    """
    errors: list[AbsentError | UnknownNameError] = []
    for name in names:
        try:
            linked_stacks.require_name(docker, name, *_NAMED)
        except (AbsentError, UnknownNameError) as error:
            errors.append(error)
    for one in errors[:-1]:
        complain(f"docker linkwire: {one}")
    if errors:
        raise errors[-1]


@click.command(
    "events",
    cls=Command,
    usage="docker linkwire events [OPTIONS] [NAME...]",
    examples="""
        docker linkwire events --since 24h
        docker linkwire events -f shop
        docker linkwire events --kind link --kind node shop_web n2
        docker linkwire events --format json --since 2026-11-01 --until 2026-12-01
    """,
)
@switch("-f", "--follow", help="Go on with what happens, until it is interrupted")
@click.option("--since", metavar="TIME", help="From then on: 90m for so long ago, a time, or Unix seconds")
@click.option("--until", metavar="TIME", help="Until then, likewise")
@click.option(
    "--kind",
    metavar="WORDS",
    multiple=True,
    help="Events with these words in their kind, such as link, or 'key renewed'; may be given several times",
)
@form("text", "json")
@click.argument("name", nargs=-1, shell_complete=subjects)
@pass_docker
def events_command(  # noqa: PLR0917 - as many as the command has flags
    docker: Docker,
    name: tuple[str, ...],
    since: str | None,
    until: str | None,
    kind: tuple[str, ...],
    form: str,
    **given: bool | None,
) -> int:
    """Print who linked what to what, since when, and by which deploy; keys, nodes and what was refused.

    The controllers write and sign this log. Each page names the one before, so one that is missing or changed is
    told, and the exit code is 1. With names of stacks, services, tasks or nodes, those events that name one of them.
    Of a name that no event and nothing in the Swarm has it says so at the end, and exits with 2. The log keeps the
    last pages; the controllers' own log has each event too. Asks the Linkwire agent on the Docker endpoint.
    """
    follow, now = bool(given["follow"]), datetime.now(UTC).timestamp()
    if follow and until is not None:
        raise UsageError("give --follow or --until")
    wanted = Wanted(
        moment(since, now, "--since") if since is not None else float("-inf"),
        moment(until, now, "--until") if until is not None else float("inf"),
        kind,
        tuple(each for text in name for each in (Subject(text), Subject(text, is_stack=True))),
    )
    if follow:
        warn_of_absence(docker, name, *_NAMED)
    damaged, unnamed = False, set(name)
    for event in lines(docker, follow=follow):
        if "problem" in event:
            damaged = True
            # A finding like the events; but standard output is JSON alone, which has it as well.
            tell_one = complain if form == "json" else show_finding
            tell_one(f"docker linkwire: {printable(str(event['problem']))}")
        elif not wanted.takes(event):
            continue
        else:
            unnamed -= wanted.named(event)
            if form == "text":
                print(written(event), flush=follow)
        if form == "json":
            print(json.dumps(event), flush=follow)
    left = [] if follow else [one for one in dict.fromkeys(name) if one in unnamed]  # the log also names what is gone
    if damaged:
        warn_of_absence(docker, left, *_NAMED)
        return DAMAGED
    _require(docker, left)
    return 0
