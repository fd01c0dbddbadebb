"""Links that do not work because one of their sides has no task: why, in the words of `explain`, once it lasts."""

from collections.abc import Iterable, Mapping

from compose_ext.docker_cli import Docker
from compose_ext.health.judgement import BROKEN, DEGRADED, Finding
from compose_ext.swarm import listings
from compose_ext.swarm.link_states import NO_READY_TASK, Answer, Link
from compose_ext.walks import link_facts
from compose_ext.walks.link_facts import Side
from mesh.diagnosis.steps import STARTING_S
from mesh.diagnosis.swarm_facts import Change, SwarmFacts, SwarmTask
from mesh.diagnosis.swarm_stages import not_placed

SLOW_S = 60.0
"""Likewise while a task is on its way after none that failed, or while Swarm updates the service."""
_ON_ITS_WAY = ("running", "ready")
"""States that Swarm wants a task in which is to run; the second while a restart waits."""
_FAILED = ("failed", "rejected")
_COMPLETE = "complete"
_SHOWN = 3

_Cause = tuple[int, str, str]
"""Severity, what is missing, and why with what to do."""


def missing(docker: Docker, answer: Answer) -> tuple[Finding, ...]:
    """Find the links of an answer that have no ready task of the provider, or no running one of the consumer.

    Raises:
        DockerError: the endpoint is no manager, or does not answer.
    """
    links = [link for link in answer.links if link.allowed and (link.ready == 0 or not any(link.states.values()))]
    if not links:
        return ()
    now = listings.clock(docker)
    swarm = link_facts.read(docker, now)
    links = [link for link in links if {link.consumer, link.provider} <= swarm.services.keys()]
    if not links:
        return ()
    tasks = link_facts.tasks_of(docker, swarm, {name for one in links for name in (one.consumer, one.provider)}, now)
    facts = link_facts.facts(swarm, tasks, Side(links[0].consumer), Side(links[0].provider))
    return judged(links, facts, swarm.changes)


def judged(links: Iterable[Link], facts: SwarmFacts, changes: Mapping[str, Change]) -> tuple[Finding, ...]:
    """Judge links of which one side seems to have no task; each cause once, with the links that it concerns. Pure.

    Args:
        links: those of the agent's answer.
        facts: of Swarm, with the tasks of all their services.
        changes: by the service's name.
    """
    causes: dict[_Cause, list[str]] = {}
    for link in links:
        consumer = facts.services[link.consumer]
        if consumer.replicas == 0 or _has_ended(facts, consumer.name):
            continue  # nobody uses the link
        cause = _provider(link, facts, changes.get(link.provider, Change()))
        cause = cause or _consumer(link, facts, changes.get(link.consumer, Change()))
        if cause is not None:
            causes.setdefault(cause, []).append(f"{link.consumer} -> {link.provider}")
    return tuple(
        Finding(severity, f"{_some(concerned)}: {what}: {why}") for (severity, what, why), concerned in causes.items()
    )


def is_settling(change: Change, tasks: tuple[SwarmTask, ...]) -> bool:
    """Tell whether a service that has no running task may have one in a moment, so that it need alarm nobody. Pure.

    Args:
        change: its last one.
        tasks: its own, the newest first.
    """
    if change.ago is not None and change.ago < STARTING_S:
        return True
    if change.updating is not None and change.updating < SLOW_S:
        return True
    wanted = next((at for at, task in enumerate(tasks) if task.wanted in _ON_ITS_WAY), None)
    if wanted is None or tasks[wanted].made is None:
        return False
    task, before = tasks[wanted], tasks[wanted + 1 : wanted + 2]
    if any(one.state in _FAILED and one.error for one in before):
        return False
    return (task.made or 0.0) < (STARTING_S if task.error else SLOW_S)


def _provider(link: Link, facts: SwarmFacts, change: Change) -> _Cause | None:
    name = link.provider
    tasks, step = facts.tasks.get(name, ()), not_placed(facts, name, "")
    if step is None:
        # Swarm calls a task running before Linkwire can, and until it has stopped it.
        since = [task.age for task in tasks if task.is_running and task.age is not None]
        if link.ready != 0 or min(since, default=SLOW_S) < STARTING_S or is_settling(change, tasks):
            return None
        why = f"Swarm runs {name}, and Linkwire cannot use it: docker linkwire explain {link.consumer} {name}"
        return BROKEN, NO_READY_TASK, why
    on_purpose = facts.services[name].replicas == 0 or _has_ended(facts, name)
    if is_settling(change, tasks):
        return None
    return DEGRADED if on_purpose else BROKEN, NO_READY_TASK, f"{step.text}; {step.command}"


def _consumer(link: Link, facts: SwarmFacts, change: Change) -> _Cause | None:
    name = link.consumer
    tasks, step = facts.tasks.get(name, ()), not_placed(facts, name, "")
    if is_settling(change, tasks):
        return None
    if step is not None:
        return BROKEN, f"{name} has no running task", f"{step.text}; {step.command}"
    since = [task.age for task in tasks if task.is_running and task.age is not None]
    if link.consumers != 0 or min(since, default=SLOW_S) < STARTING_S:
        return None
    why = f"Swarm runs it, and Linkwire has nothing of it: docker linkwire explain {name} {link.provider}"
    return BROKEN, f"{name} has no linked task", why


def _has_ended(facts: SwarmFacts, service: str) -> bool:
    """Tell whether a service has done its work, as a job has."""
    tasks = facts.tasks.get(service, ())
    return bool(tasks) and tasks[0].state == _COMPLETE


def _some(links: list[str]) -> str:
    more = len(links) - _SHOWN
    return ", ".join(links[:_SHOWN]) + (f" and {more} more links" if more > 0 else "")
