"""Facts of one link as Swarm has them, for its diagnosis: asked with a few calls of the docker program."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from compose_ext.diagnostics import AbsentError, DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import consents, gate, link_states, listings
from compose_ext.swarm.consents import Labelled
from mesh.diagnosis.swarm_facts import Change, SwarmFacts, SwarmNode, SwarmService, SwarmTask
from mesh.model.labels.link_labels import suggestion
from mesh.topology.agreed_links import Recorded, agree, hidden, shown

_UPDATING = ("updating", "rollback_started")
_LEAST_ID = 4
_SHOWN = 3
"""Characters of a task's or container's id that are enough, where they name one."""


@dataclass(frozen=True, slots=True)
class Swarm:
    """The Swarm's services and nodes, read once.

    Attributes:
        services: with their labels, by name.
        replicas: service's name -> tasks that it should have; None for a global one.
        nodes: by id.
        gated: names of services that are placed on nodes with the start gate alone.
        changes: service's name -> its last change.
    """

    services: Mapping[str, Labelled]
    replicas: Mapping[str, int | None]
    nodes: Mapping[str, SwarmNode]
    gated: frozenset[str]
    changes: Mapping[str, Change]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a link as the user named it: a service, and one task of it or any."""

    service: str
    task: str = ""


def read(docker: Docker, now: datetime | None = None) -> Swarm:
    """Read services and nodes.

    Args:
        docker: a manager's.
        now: the time of the Swarm's managers; this machine's, where nothing depends on it.

    Raises:
        DockerError: Docker does not answer.
    """
    now = now or datetime.now(UTC)
    found = listings.services(docker)
    try:
        services = {one.name: one for one in consents.labelled(found)}
        replicas = {str(one["Spec"]["Name"]): _replicas(one["Spec"]) for one in found}
        nodes = {str(one["ID"]): _node(one) for one in listings.nodes(docker)}
        gated = frozenset(str(one["Spec"]["Name"]) for one in found if _needs_gate(one["Spec"]))
        changes = {str(one["Spec"]["Name"]): _change(one, now) for one in found}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DockerError(f"unexpected answer of docker ({type(error).__name__}: {error})") from None
    return Swarm(services, replicas, nodes, gated, changes)


def side(docker: Docker, swarm: Swarm, named: str) -> Side:
    """Find what the user named: a service, a task by name or id, or a container by its id.

    Raises:
        AbsentError: there is nothing of that name.
        DockerError: Docker does not answer.
    """
    if named in swarm.services:
        return Side(named)
    for service in swarm.services.values():
        if service.id == named:
            return Side(service.name)
    stem = named.partition(".")[0]
    looked = [stem] if stem in swarm.services else [name for name in swarm.services if len(named) >= _LEAST_ID]
    for name in looked:
        for raw in listings.tasks(docker, name):
            container = str((raw["Status"].get("ContainerStatus") or {}).get("ContainerID") or "")
            names = (_name(name, raw), f"{_name(name, raw)}.{raw['ID']}")
            is_id = len(named) >= _LEAST_ID and (str(raw["ID"]).startswith(named) or container.startswith(named))
            if named in names or is_id:
                return Side(name, str(raw["ID"]))
    ends = [repr(name) for name in sorted(swarm.services) if name.endswith(f"_{named}")][:_SHOWN]
    hint = f"; did you mean {' or '.join(ends)}?" if ends else suggestion(named, swarm.services)
    if named in {node.name for node in swarm.nodes.values()}:
        hint = ", but a node: a walk between nodes takes two that differ, docker linkwire explain NODE NODE"
    raise AbsentError(f"this Swarm has no service, task or container {named!r}{hint}")


Tasks = Mapping[str, tuple[SwarmTask, ...]]
"""Tasks of some services, by the service's name, the newest first."""


def tasks_of(docker: Docker, swarm: Swarm, services: Iterable[str], now: datetime | None = None) -> Tasks:
    """Read the tasks of some services, and of the agents', with two calls; `now` as of `read`. Raises DockerError."""
    return _tasks_of(docker, swarm, {*services, link_states.SERVICE}, now or datetime.now(UTC))


def tasks_for_walks(docker: Docker, swarm: Swarm, services: Iterable[str], now: datetime) -> Tasks:
    """Read what walks along many links need, since Docker is asked for each task by itself.

    That is the tasks that are to run. Of a service none of whose tasks runs, and of the agents where one is missing,
    those that have ended count too: they say why.

    Raises:
        DockerError: Docker does not answer.
    """
    found = _tasks_of(docker, swarm, {*services, link_states.SERVICE}, now, "desired-state=running")
    lacking = {name for name, tasks in found.items() if not any(task.is_running for task in tasks)}
    nodes = {task.node for name, tasks in found.items() if name != link_states.SERVICE for task in tasks}
    agents = {task.node for task in found.get(link_states.SERVICE, ()) if task.is_running}
    lacking |= {link_states.SERVICE} if nodes - agents else set()
    return {**found, **_tasks_of(docker, swarm, lacking, now)}


def _tasks_of(docker: Docker, swarm: Swarm, services: Iterable[str], now: datetime, wanted: str = "") -> Tasks:
    names = sorted(swarm.services.keys() & set(services))
    if not names:
        return {}
    by_id = {swarm.services[name].id: name for name in names}
    found: dict[str, list[SwarmTask]] = {name: [] for name in names}
    for raw in sorted(listings.tasks(docker, *names, wanted=wanted), key=_created, reverse=True):
        name = by_id.get(str(raw.get("ServiceID")))
        if name is not None:
            found[name].append(_task(name, raw, now))
    return {name: tuple(tasks) for name, tasks in found.items()}


def links(swarm: Swarm, stack: str | None) -> list[tuple[str, str]]:
    """Return each link that both sides want, as consumer and provider; with a stack those with a side in it."""
    agreed = agree({one.id: one for one in swarm.services.values()}, Recorded()).links
    named = ((one.name, link.provider) for one in swarm.services.values() for link in agreed.get(one.id, ()))
    every = sorted(pair for pair in named if not hidden(pair[1]))
    return [pair for pair in dict.fromkeys(every) if stack is None or any(n.startswith(f"{stack}_") for n in pair)]


def facts(swarm: Swarm, tasks: Tasks, consumer: Side, provider: Side) -> SwarmFacts:
    """Put together what Swarm knows of one link; `tasks` has those of both sides."""
    return every(swarm, tasks)(consumer, provider)


def every(swarm: Swarm, tasks: Tasks) -> Callable[[Side, Side], SwarmFacts]:
    """Return a function that puts together what Swarm knows of a link, for many links; `tasks` has their sides'."""
    agreement = agree({one.id: one for one in swarm.services.values()}, Recorded())
    linked = {
        one.name: tuple(shown(link.provider) for link in agreement.links.get(one.id, ()))
        for one in swarm.services.values()
    }
    refusals: dict[tuple[str, str], str] = {}
    for one in agreement.refusals:
        if one.reason != "silent":
            refusals.setdefault((one.consumer, one.provider), printable(one.text))
    newest = newest_agents(tasks)
    services = {name: _service(swarm, one, linked[name]) for name, one in swarm.services.items()}

    def of_link(consumer: Side, provider: Side) -> SwarmFacts:
        refusal = refusals.get((consumer.service, provider.service), "")
        names = consumer.service, provider.service
        return SwarmFacts(*names, services, refusal, tasks, swarm.nodes, newest, consumer.task, provider.task)

    return of_link


def newest_agents(tasks: Tasks) -> dict[str, SwarmTask]:
    """Return each node's agent that runs, else the task that ended last, by the node's id."""
    newest: dict[str, SwarmTask] = {}
    for task in tasks.get(link_states.SERVICE, ()):
        if task.node and (task.node not in newest or (task.is_running and not newest[task.node].is_running)):
            newest[task.node] = task
    return newest


def _service(swarm: Swarm, one: Labelled, links: tuple[str, ...]) -> SwarmService:
    errors = tuple(printable(str(error)) for error in one.errors)
    needs_gate = one.name in swarm.gated
    return SwarmService(one.name, links, errors, swarm.replicas.get(one.name), one.labels.strict, needs_gate)


def _created(raw: Mapping[str, Any]) -> str:
    return str(raw.get("CreatedAt", ""))


def _task(service: str, raw: Mapping[str, Any], now: datetime) -> SwarmTask:
    status = raw.get("Status") or {}
    return SwarmTask(
        str(raw["ID"]),
        _name(service, raw),
        str(raw.get("NodeID") or ""),
        str(status.get("State") or ""),
        str(raw.get("DesiredState") or ""),
        printable(str(status.get("Err") or "")).replace("\n", " "),
        listings.age(str(status.get("Timestamp") or ""), now),
        listings.age(_created(raw), now),
    )


def _name(service: str, raw: Mapping[str, Any]) -> str:
    return f"{service}.{raw.get('Slot') or raw.get('NodeID') or '?'}"


def _change(raw: Mapping[str, Any], now: datetime) -> Change:
    status = raw.get("UpdateStatus") or {}
    updating = status.get("State") in _UPDATING
    return Change(
        listings.age(str(raw.get("UpdatedAt") or ""), now),
        listings.age(str(status.get("StartedAt") or ""), now) if updating else None,
    )


def _replicas(spec: Mapping[str, Any]) -> int | None:
    replicated = (spec.get("Mode") or {}).get("Replicated")
    return int(replicated.get("Replicas") or 0) if replicated is not None else None


def _node(raw: Mapping[str, Any]) -> SwarmNode:
    name = printable(str((raw.get("Description") or {}).get("Hostname") or raw["ID"])).replace("\n", " ")
    state = str((raw.get("Status") or {}).get("State") or "")
    spec = raw.get("Spec") or {}
    has_gate = (spec.get("Labels") or {}).get(gate.LABEL) == "true"
    return SwarmNode(str(raw["ID"]), name, state, str(spec.get("Availability") or ""), has_gate)


def _needs_gate(spec: Mapping[str, Any]) -> bool:
    placed = (spec.get("TaskTemplate") or {}).get("Placement") or {}
    return any(str(one).replace(" ", "") == gate.GATED for one in placed.get("Constraints") or ())


def for_agent(facts: SwarmFacts, service: str, task: str) -> list[dict[str, str]]:
    """Return a side's running tasks as the agent is told them."""
    chosen: Sequence[SwarmTask] = [one for one in facts.running(service) if not task or one.id == task]
    return [{"id": one.id, "name": one.name, "node": one.node, "host": facts.node_name(one.node)} for one in chosen]
