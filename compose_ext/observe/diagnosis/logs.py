"""`docker linkwire logs`: what controllers, agents and etcd have written, in one order."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import click

from compose_ext.completion import subjects
from compose_ext.diagnostics import AbsentError, DockerError, UnknownNameError
from compose_ext.docker_cli import Docker
from compose_ext.observe.diagnosis import log_lines
from compose_ext.observe.diagnosis.log_lines import LEVELS, Backlog, Choice, Line, Subject
from compose_ext.pflag import Command, OneOf, Whole, form, moment, pass_docker, switch
from compose_ext.swarm import linked_stacks, listings
from compose_ext.swarm.installation import SERVICES, STACK
from compose_ext.terminal import complain

INCOMPLETE = 1
"""Exit code where part of a log could not be read."""
MOST = 100_000
"""Lines that are held at once."""
_TICK_S = 0.25
_QUIET_S = 10.0
"""After so many seconds without a line Docker is not waited for any longer: `docker service logs` waits for every
node on which a service ever ran, now and then for ever."""
_WINDOW_S = 1.0
"""For which a line that is followed waits for older ones of other nodes."""
_NAMED = ("stack", "service", "task")
_SUBJECT_FILTER = "label=com.docker.stack.namespace="


@dataclass(slots=True)
class Reader:
    """Reading of all parts' logs at once.

    Attributes:
        docker: the endpoint.
        choice: the lines that are wanted.
        problems: parts of the logs that could not be read, in words.
    """

    docker: Docker
    choice: Choice
    problems: list[str] = field(default_factory=list)
    _heard: set[tuple[str, str]] = field(default_factory=set)

    def lines(self, flags: list[str], *, follow: bool) -> Iterator[Line | None]:
        """Yield the lines that are wanted as they come, and None whenever there is none for a moment.

        Raises:
            DockerError: Linkwire is not there, or Docker does not answer.
        """
        running = _components(self.docker)
        common = ["service", "logs", "--timestamps", "--no-trunc", *flags, *(["--follow"] if follow else [])]
        commands = [[*common, f"{STACK}_{component}"] for component in running]
        names = list(running)
        ended: set[str] = set()
        last = time.monotonic()
        for said in self.docker.follow_all(commands, _TICK_S):
            if said is None:
                if not follow and time.monotonic() - last > _QUIET_S:
                    break
                yield None
                continue
            last = time.monotonic()
            component, text = names[said[0]], said[1]
            if isinstance(text, DockerError):
                self.problems.append(f"{component}: {text}")
                ended.add(component)
            elif text is None:
                ended.add(component)
            elif line := log_lines.read(text, component):
                self._heard.add((component, line.node))
                if self.choice.takes(line):
                    yield line
        for component in running.keys() - ended:
            heard = {node for of, node in self._heard if of == component}
            missing = ", ".join(log_lines.silent(running[component], heard)) or "nodes on which it ran before"
            self.problems.append(f"{component}: Docker did not hand on the log of {missing} within {_QUIET_S:g} s")


def _components(docker: Docker) -> dict[str, list[str]]:
    """Return Linkwire's parts, each with the nodes on which it runs. Raises DockerError."""
    listings.manager(docker)
    listed = docker.ask(["service", "ls", "--format", "{{.Name}}"], listings.TIMEOUT).split()
    running: dict[str, list[str]] = {}
    for component in SERVICES:
        if (name := f"{STACK}_{component}") in listed:
            words = ["service", "ps", "--filter", "desired-state=running", "--format", "{{.Node}}", name]
            running[component] = docker.ask(words, listings.TIMEOUT).split()
    if not running:
        raise DockerError("Linkwire is not installed on this Swarm: docker linkwire install")
    return running


def subject_of(docker: Docker, name: str) -> Subject:
    """Find a stack, service or task by its name, or a task by its id. Raises DockerError."""
    ids = docker.ask(["service", "ls", "--quiet", "--filter", f"{_SUBJECT_FILTER}{name}"], listings.TIMEOUT).split()
    is_stack = bool(ids)
    service, _, slot = name.partition(".")
    if not is_stack:
        words = ["service", "ls", "--filter", f"name={service}", "--format", "{{.Name}}"]
        ids = [service] if service in docker.ask(words, listings.TIMEOUT).split() else []
    found = listings.tasks(docker, *ids) if ids else []
    if slot:
        number = slot.partition(".")[0]
        wanted = [task for task in found if number in (str(task.get("Slot")), task.get("NodeID"))]
        return Subject(name, ids={str(task["ID"]) for task in wanted})
    of_services = {str(task["ServiceID"]) for task in found}
    return Subject(name, is_stack, {str(task["ID"]) for task in found} | of_services)


def warn_of_absence(docker: Docker, names: Iterable[str], *kinds: str) -> None:
    """Say on standard error which names nothing has: it may come while it is waited for, or never."""
    for name in names:
        try:
            linked_stacks.require_name(docker, name, *kinds)
        except (AbsentError, UnknownNameError) as error:
            complain(f"docker linkwire: {error}", "yellow")
        except DockerError:
            pass  # it is asked again, and then told


@dataclass(slots=True)
class _Printer:
    """Printing in the order of time."""

    write: Callable[[Line], str]
    printed: int = 0

    def __call__(self, lines: list[Line], *, flush: bool = False) -> None:
        for line in lines:
            print(self.write(line))
        self.printed += len(lines)
        if flush and lines:
            print(end="", flush=True)


def _follow(lines: Iterator[Line | None], most: int, show: _Printer) -> None:
    """Print the backlog once nothing comes for a moment, and then each line after a moment."""
    backlog, is_first = Backlog(most), True
    waiting: list[tuple[float, Line]] = []
    for line in lines:
        if is_first:
            if line is not None:
                backlog.add(line)
                continue
            is_first = False
            show(backlog.take(), flush=True)
        now = time.monotonic()
        if line is not None:
            waiting.append((now, line))
            waiting.sort(key=lambda pair: pair[1].at)
        due = max((index + 1 for index, (came, _) in enumerate(waiting) if now - came >= _WINDOW_S), default=0)
        show([each for _, each in waiting[:due]], flush=True)
        del waiting[:due]
    show([*backlog.take(), *(each for _, each in waiting)], flush=True)


@click.command(
    "logs",
    cls=Command,
    usage="docker linkwire logs [OPTIONS] [STACK | SERVICE | TASK]",
    examples="""
        docker linkwire logs --since 10m
        docker linkwire logs -f shop
        docker linkwire logs --level warning shop_web
        docker linkwire logs shop_web.2
        docker linkwire logs --tail 200 --format json
    """,
)
@switch("-f", "--follow", help="Go on with what is written, until it is interrupted")
@click.option("--since", metavar="TIME", help="From then on: 90m for so long ago, a time, or Unix seconds")
@click.option("-n", "--tail", metavar="LINES", type=Whole(MOST), help=f"The last lines alone (at most {MOST})")
@click.option(
    "--level",
    metavar="LEVEL",
    type=OneOf(LEVELS),
    default=LEVELS[0],
    help="This level and what is worse: " + ", ".join(LEVELS),
)
@form("text", "json")
@click.argument("name", required=False, shell_complete=subjects)
@pass_docker
def logs_command(docker: Docker, name: str | None, form: str, *, follow: bool | None, **given: str | None) -> int:
    """Print the logs of controllers, agents and etcd in the order of time.

    With the name of a stack, a service or a task, those lines that are about it. The order is that of the nodes'
    clocks. Asks a manager, which asks every node. Exits with 1 if part of a log could not be read.
    """
    choice = Choice(subject_of(docker, name) if name is not None else None, given["level"] or LEVELS[0])
    if follow and name is not None:
        warn_of_absence(docker, [name], *_NAMED)
    flags, tail = [], given["tail"]
    if given["since"] is not None:
        flags += ["--since", f"{moment(given['since'], datetime.now(UTC).timestamp(), '--since'):.6f}"]
    if tail is not None and choice.is_all:
        flags += ["--tail", tail]  # it counts for each task alone
    most = int(tail) if tail is not None else MOST
    reader = Reader(docker, choice)
    show = _Printer(log_lines.document if form == "json" else log_lines.text)
    lines = reader.lines(flags, follow=bool(follow))
    backlog = Backlog(most)
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(lines, most, show)
    else:
        for line in lines:
            if line is not None:
                backlog.add(line)
        show(backlog.take())
    if backlog.dropped and tail is None:
        complain(f"docker linkwire: the oldest {backlog.dropped} lines are left out: use --since", "yellow")
    for problem in reader.problems:
        complain(f"docker linkwire: {problem}")
    if name is not None and not show.printed and not follow and not reader.problems:
        listings.require(docker, name, *_NAMED)  # not before: a log also names what is gone
        raise DockerError(f"no line of Linkwire's logs is about {name!r}")
    return INCOMPLETE if reader.problems else 0
