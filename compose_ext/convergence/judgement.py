"""Judgement of a stack: for each service what runs, what is wired, and what is missing and why. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compose_ext.convergence.observed import COMPLETE, RUNNING, Link, Look, Recorded, Service, WiredTask

MOST_TOLD = 3
"""Reasons that one line gives."""


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that is missing.

    Attributes:
        text: what, and why.
        beyond: whether it needs somebody else: waiting does not bring it.
        absent: full name of the provider that does not exist; empty where it is not that.
    """

    text: str
    beyond: bool = False
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One service of the stack.

    Attributes:
        service: its full name.
        state: how many tasks run, and whether its links are wired.
        missing: all that is.
        given_up: whether Swarm has stopped to try.
    """

    service: str
    state: str
    missing: tuple[Missing, ...] = ()
    given_up: bool = False

    @property
    def text(self) -> str:
        """Return the state with the first reasons."""
        told = [missing.text for missing in self.missing[:MOST_TOLD]]
        more = len(self.missing) - len(told)
        return "; ".join([self.state, *told, *([f"and {more} more"] if more else [])])


@dataclass(frozen=True, slots=True)
class Judgement:
    """A line a service, and the verdict over all of them; `idle` are providers of the stack that are scaled to 0."""

    lines: tuple[Line, ...]
    idle: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[tuple[str, Missing], ...]:
        """Return everything that is missing, with the service."""
        return tuple((line.service, missing) for line in self.lines for missing in line.missing)

    @property
    def done(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def hopeless(self) -> bool:
        """Whether waiting is of no use: Swarm has given up, or only others can bring what is missing."""
        missing = self.missing
        return any(line.given_up for line in self.lines) or (bool(missing) and all(one.beyond for _, one in missing))


def judge(look: Look) -> Judgement:
    """Judge one look at a stack."""
    asked = {provider for service in look.services for provider in service.providers}
    idle = tuple(sorted(one.name for one in look.services if one.name in asked and one.wanted == 0))
    return Judgement(tuple(_line(service, look) for service in look.services), idle)


def _line(service: Service, look: Look) -> Line:
    running = [task for task in service.tasks if task.current and task.state in (RUNNING, COMPLETE)]
    # Under an update there may be more tasks than are wanted, and a global service says no number.
    of = max(service.wanted or 0, len(service.tasks))
    missing = [*_unrun(service, len(running), of)]
    state = f"{len(running)} of {of} task{'' if of == 1 else 's'} run"
    if service.linked or service.name in look.recorded:
        unwired = [*_unwired(service, look), *_unlinked(service, look)]
        state += "" if unwired or missing else ", wired"
        missing += unwired
    return Line(service.name, state, tuple(missing), bool(service.given_up))


def _unrun(service: Service, running: int, of: int) -> Iterator[Missing]:
    """List what Swarm has still to do."""
    if service.given_up:
        yield Missing(f"Swarm has given up: {service.given_up}")
    for task in service.tasks:
        if task.state not in (RUNNING, COMPLETE):
            where = f" on {task.node}" if task.node else ""
            yield Missing(f"{task.name}{where} is {task.state}" + (f": {task.error}" if task.error else ""))
        elif not task.current:
            yield Missing(f"{task.name} on {task.node} is to be replaced")
    if len(service.tasks) < of:
        yield Missing(f"Swarm has not started {of - len(service.tasks)} of them")
    elif service.updating and running == of:
        yield Missing("Swarm watches the new tasks")
    if running < of and service.failures:
        yield Missing(f"the last one failed: {service.failures[-1]}")


def _unwired(service: Service, look: Look) -> Iterator[Missing]:
    """List the running tasks that are not wired."""
    tasks = [task for task in service.tasks if task.current and task.state == RUNNING]
    if look.unanswered:
        yield Missing(look.unanswered, beyond=look.never)
        return
    recorded = look.recorded.get(service.name)
    if recorded is None:
        yield Missing(
            "Linkwire's controller has not taken it up yet: does one run? `docker service ps linkwire_controller`"
        )
        return
    wired = {task.id: task for task in recorded.tasks}
    for task in tasks:
        if why := _why_unwired(wired.get(task.id)):
            yield Missing(f"{task.name} on {task.node} is not wired: {why}")


def _why_unwired(task: WiredTask | None) -> str:
    """Say why a running task is not wired; empty where it is."""
    if task is None:
        return "the controller has given it no address yet"
    if task.silent:
        return "its node's agent is silent"
    if task.held:
        return f"its node's agent keeps to older records: {task.held}"
    if task.wired:
        return ""
    return task.error or "its node's agent is at it"


def _unlinked(service: Service, look: Look) -> Iterator[Missing]:
    """List the links that are not made, or lead to nobody."""
    recorded = look.recorded.get(service.name)
    if look.unanswered or recorded is None:
        return
    made = {link.provider: link for link in recorded.links}
    for provider, aliases in service.providers.items():
        link = made.get(provider)
        if link is None or (link.allowed and link.aliases != aliases):
            yield Missing(f"the controller has not made its link to {provider} yet")
    own = {one.name: one for one in look.services}
    for link in recorded.links:
        if why := _why_no_answer(link, own.get(link.provider), look.recorded.get(link.provider)):
            yield why


def _why_no_answer(link: Link, own: Service | None, recorded: Recorded | None) -> Missing | None:
    """Say why nobody answers on a link; `own` is the provider where it is of the same stack."""
    if own is None and not link.exists:
        return Missing(f"{link.provider}, which it links to, does not exist", beyond=True, absent=link.provider)
    if not link.allowed:
        return Missing(f"{link.provider} does not allow its link", beyond=True)
    if (own is not None and own.wanted == 0) or (
        recorded and any(task.ready and not task.silent for task in recorded.tasks)
    ):
        return None
    tasks: Sequence[WiredTask] = recorded.tasks if recorded else ()
    why = next((f": {task.error}" for task in tasks if task.error), "")
    return Missing(f"{link.provider}, which it links to, has no ready task{why}")
