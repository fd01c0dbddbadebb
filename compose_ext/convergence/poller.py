"""Poller: looks at a stack through Docker and through the agent on the endpoint, until it has converged."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from compose_ext.convergence.judgement import Judgement, judge
from compose_ext.convergence.observed import COMPLETE, Link, Look, Recorded, Service, Task, WiredTask
from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import link_states, listings, node_jobs
from compose_ext.swarm.listings import TIMEOUT
from mesh.model.labels.link_labels import decode

LOOK_EVERY = 1.0
"""Seconds."""
STEADY = 2.0
"""Seconds for which nothing may be missing, or nothing but what others can bring: a program may end at once."""
QUERY = "wiring"
_VERSION = 1
_ONCE = {"none", "on-failure"}
"""Conditions of a restart with which a task that ended well stays ended."""
_FINAL = (link_states.OLDER, "has to be upgraded")
"""Answers that no time changes."""
_ENDED = {"failed", "rejected", "orphaned"}


class Stack:
    """A deployed stack.

    Args:
        docker: a manager's.
        name: of the stack.
        services: full names of those that were deployed.
        linked: those of them that have a link at either end, by the files.
    """

    def __init__(self, docker: Docker, name: str, services: Collection[str], linked: Collection[str]) -> None:
        self._docker = docker
        self._name = name
        self._services = sorted(services)
        self._linked = frozenset(linked)
        self._nodes: dict[str, str] = {}

    def wait(self, seconds: float, show: Callable[[Judgement], None]) -> Judgement:
        """Wait until nothing is missing, waiting is of no use, or the time is over; returns the last judgement.

        Args:
            seconds: to wait at most.
            show: is given every judgement.
        """
        deadline = time.monotonic() + seconds
        settled = None
        while True:
            judgement = judge(self.look())
            show(judgement)
            now = time.monotonic()
            if not (judgement.done or judgement.hopeless):
                settled = None
            elif settled is None:
                settled = now
            if now >= deadline or (settled is not None and now - settled >= STEADY):
                return judgement
            time.sleep(min(LOOK_EVERY, max(0.0, deadline - now)))

    def look(self) -> Look:
        """Look once. Docker's failure is a thing to tell, since an endpoint over ssh may fail for a moment."""
        try:
            services = tuple(self._swarm())
        except DockerError as error:
            blank = (Service(name, None, (), linked=True) for name in self._services)
            return Look(tuple(blank), {}, f"Docker does not answer: {error}")
        try:
            (document,) = link_states.documents(self._docker, QUERY, stack=self._name)
            return Look(services, dict(read(document)))
        except DockerError as error:
            never = self._is_drained() or any(words in str(error) for words in _FINAL)
            return Look(services, {}, f"its links cannot be seen: {error}", never=never)

    def _is_drained(self) -> bool:
        """Tell whether the endpoint's node is drained, and so has no agent."""
        with suppress(DockerError):
            form = "{{.Spec.Availability}}"
            return self._docker.ask(["node", "inspect", "self", "--format", form], TIMEOUT).strip() == "drain"
        return False

    def _swarm(self) -> Iterator[Service]:
        found = listings.read(self._docker.ask(["service", "inspect", *self._services], TIMEOUT))
        wanted = listings.tasks(self._docker, *self._services, wanted="desired-state=running")
        if any(_lacks(service, wanted) for service in found):
            known = {task["ID"] for task in wanted}
            wanted += [task for task in listings.tasks(self._docker, *self._services) if task["ID"] not in known]
        if not {str(task.get("NodeID", "")) for task in wanted} <= self._nodes.keys() | {""}:
            self._nodes = {node: name for node, name, *_ in node_jobs.listed(self._docker)}
        for service in sorted(found, key=lambda one: str(one["Spec"]["Name"])):
            tasks = [task for task in wanted if task["ServiceID"] == service["ID"]]
            yield observed(service, tasks, self._nodes, linked=service["Spec"]["Name"] in self._linked)


def observed(
    service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], nodes: Mapping[str, str], *, linked: bool
) -> Service:
    """Return a service as Docker shows it.

    Args:
        service: as inspected.
        tasks: of it, as inspected.
        nodes: id to name.
        linked: whether it has a link by the files.
    """
    spec, status = service["Spec"], service.get("UpdateStatus") or {}
    name, state = str(spec["Name"]), str(status.get("State", ""))
    ended = [task for task in tasks if task["Status"]["State"] in _ENDED and listings.is_current(task, service)]
    ended.sort(key=lambda task: str(task["Status"].get("Timestamp", "")))
    own, _ = decode({label: str(text) for label, text in (spec.get("Labels") or {}).items()})
    return Service(
        name,
        _wanted(spec["Mode"]),
        tuple(_task(task, service, nodes) for task in tasks if _counts(task, service)),
        updating=state in ("updating", "rollback_started"),
        given_up=printable(str(status.get("Message", "")) or state) if _is_given_up(state) else "",
        failures=tuple(printable(f"{_node(task, nodes)}: {task['Status'].get('Err', '')}") for task in ended),
        linked=linked or bool(own.links),
        providers={link.provider: frozenset(link.aliases) for link in own.links},
    )


def _is_given_up(state: str) -> bool:
    return state.startswith("rollback") or state == "paused"


def _wanted(mode: Mapping[str, Any]) -> int | None:
    if "Replicated" in mode:
        return int(mode["Replicated"].get("Replicas", 1))
    if "ReplicatedJob" in mode:
        return int(mode["ReplicatedJob"].get("TotalCompletions", 1))
    return None


def _lacks(service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a service has not all tasks running: then those that have ended say why."""
    own = [task for task in tasks if task["ServiceID"] == service["ID"]]
    wanted = _wanted(service["Spec"]["Mode"])
    return len(own) < (1 if wanted is None else wanted) or any(t["Status"]["State"] != "running" for t in own)


def _counts(task: Mapping[str, Any], service: Mapping[str, Any]) -> bool:
    """Tell whether a task is wanted now, or has done once what it is for."""
    if task["DesiredState"] == "running":
        return True
    spec = service["Spec"]
    policy = (spec["TaskTemplate"].get("RestartPolicy") or {}).get("Condition", "any")
    once = policy in _ONCE or bool({"ReplicatedJob", "GlobalJob"} & set(spec["Mode"]))
    return once and task["Status"]["State"] == COMPLETE and listings.is_current(task, service)


def _task(task: Mapping[str, Any], service: Mapping[str, Any], nodes: Mapping[str, str]) -> Task:
    status = task["Status"]
    error = str(status.get("Err") or "")
    place = task.get("Slot") or _node(task, nodes)
    return Task(
        str(task["ID"]),
        printable(f"{service['Spec']['Name']}.{place}"),
        _node(task, nodes),
        str(status["State"]),
        printable(error),
        listings.is_current(task, service),
    )


def _node(task: Mapping[str, Any], nodes: Mapping[str, str]) -> str:
    node = str(task.get("NodeID", ""))
    return nodes.get(node, node)


def read(document: Mapping[str, Any]) -> Iterator[tuple[str, Recorded]]:
    """Decode the agent's answer. Raises DockerError."""
    if document.get("version") != _VERSION:
        raise DockerError(link_states.OLDER)
    try:
        for service in document["services"]:
            links = [
                Link(
                    _text(one["provider"]),
                    frozenset(map(_text, one["aliases"])),
                    bool(one["allowed"]),
                    bool(one["exists"]),
                )
                for one in service["links"]
            ]
            tasks = [
                WiredTask(
                    _text(one["task"]),
                    _text(one["node"]),
                    bool(one["wired"]),
                    bool(one["ready"]),
                    bool(one["silent"]),
                    _text(one["held"]),
                    _text(one["error"]),
                )
                for one in service["tasks"]
            ]
            yield _text(service["name"]), Recorded(tuple(links), tuple(tasks))
    except (KeyError, TypeError) as error:
        raise DockerError(f"the agent's answer is incomplete ({type(error).__name__}: {error})") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not a text")
    return printable(value).replace("\n", " ")
