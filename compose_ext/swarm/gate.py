"""The start gate of nodes: installed, removed or queried from a manager.

A short Swarm service runs the image's `linkwire-gate` once on each of the nodes and is removed again: whoever manages
a Swarm can do so already, and nothing that listens on a node has to have such rights (decision 34).
"""

import json
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compose_ext.diagnostics import DockerError, UsageError, absent
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import installation, listings, node_jobs
from compose_ext.swarm.installation import STACK
from compose_ext.swarm.listings import TIMEOUT
from mesh.model.labels.link_labels import GATE

LABEL = "linkwire.gate"
"""The node label by which services with `gate: true` are placed."""
GATED = f"node.labels.{LABEL}==true"
"""The constraint that does it, without its spaces (compose_ext.language.override writes it)."""
_SERVICE = "linkwire_gate"
_MARK = "linkwire.role=gate"
_WAIT = 300.0
"""Seconds until every node must have answered: it may have to pull the image."""
_LOGGED, _LOG_TIMEOUT = 60.0, 10.0
"""Seconds until a manager must have a task's log: of a node that was cut off, only when its stream is there again."""
_LOOK_EVERY = 0.3
NOT_THERE = "the gate was not there"
"""As `linkwire-gate remove` says it."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the Swarm, as far as the gate is concerned."""

    id: str
    name: str
    obstacle: str | None
    """Why nothing can be run there now, with what to do."""
    labelled: bool


@dataclass(frozen=True, slots=True)
class Result:
    """The gate on one node, after what was done there."""

    node: Node
    gate: str | None = None
    """`in`, `in part`, `leaving` or `out`; None where nothing was done."""
    notes: tuple[str, ...] = ()
    problem: str | None = None
    """Why nothing was done, with what to do."""
    services: tuple[str, ...] = ()
    """Services with tasks that end by the gate's script, for which it stays."""
    containers: tuple[str, ...] = ()
    """The same of containers that are no Swarm task's."""

    @property
    def is_left(self) -> bool:
        """Whether something of the gate is still there, or may be."""
        return self.problem is not None or self.gate == "leaving"

    def __str__(self) -> str:
        done = f"gate {self.gate}: {'; '.join(self.notes)}"
        return printable(f"{self.node.name}: {done if self.problem is None else f'nothing done: {self.problem}'}")

    def as_record(self) -> dict[str, Any]:
        """Return it for machines."""
        node = {"id": self.node.id, "hostname": self.node.name, "labelled": self.node.labelled}
        return {**node, "gate": self.gate, "notes": list(self.notes), "problem": self.problem}


def run(
    docker: Docker, action: str, names: Sequence[str], say: Callable[[str], None], options: Sequence[str] = ()
) -> bool:
    """Do something about the gate on nodes; returns whether all of them did it.

    Args:
        docker: a manager's.
        action: `install`, `remove` or `status`.
        names: of nodes, as for `docker node`; none: all.
        say: prints a line of progress.
        options: of linkwire-gate.

    Raises:
        AbsentError: there is no such node.
        UsageError: there are several of that name.
        DockerError: nothing could be asked of any node.
    """
    return _told(results(docker, action, names, options), say)


def results(docker: Docker, action: str, names: Sequence[str], options: Sequence[str] = ()) -> Iterator[Result]:
    """Do something about the gate on nodes, as `run` does; yield one result a node."""
    listings.manager(docker)
    agent = installation.deployed(docker).services.get("agent")
    if agent is None:
        raise DockerError(
            "Linkwire is not installed in this Swarm, and its image does this: "
            "`docker linkwire install --gate` does both, `docker linkwire uninstall --image IMAGE` takes it out"
        )
    nodes = _nodes(docker, str(agent["ID"]))
    image = str(agent["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])
    yield from _on(_Swarm(docker, nodes, image), _chosen(nodes, names), action, options)


def _told(results: Iterable[Result], say: Callable[[str], None]) -> bool:
    done = True
    for result in results:
        say(str(result))
        done = done and result.problem is None
    return done


def remove(docker: Docker, names: Sequence[str], say: Callable[[str], None]) -> tuple[bool, list[str]]:
    """Take the gate out of nodes.

    Returns:
        Whether all of them did it, and what is left to do for it, as `left` has it.

    Raises:
        As `run`.
    """
    found = list(results(docker, "remove", names))
    again = shlex.join(["docker", "linkwire", "gate", "remove", *names])
    return _told(found, say), left(docker, found, again, everywhere=not names)


def left(docker: Docker, found: Sequence[Result], again: str, *, everywhere: bool) -> list[str]:
    """Return what is left to do until the gate is out of nodes, in its order. Raises DockerError.

    Args:
        docker: a manager's.
        found: of a removal.
        again: the command that removes it then.
        everywhere: whether no node is to have it, so that no service may ask for one that does.
    """
    nodes = [result for result in found if result.is_left]
    steps = _updates(docker, {name for result in nodes for name in result.services}, everywhere=everywhere)
    if not nodes:
        return steps
    steps += [
        f"on {result.node.name} make these containers again, which were made with the gate: {' '.join(some)}"
        for result in nodes
        if (some := result.containers)
    ]
    steps += [f"on {result.node.name}: {result.problem}" for result in nodes if result.problem is not None]
    names = ", ".join(result.node.name for result in nodes)
    return [*steps, f"{'then ' if steps else ''}take the gate out of {names}: {again}"]


def _updates(docker: Docker, leaving: Collection[str], *, everywhere: bool) -> list[str]:
    """Return the updates of services that there are: `leaving` have tasks that started with the gate."""
    steps = []
    for spec in (one["Spec"] for one in listings.services(docker)):
        name = str(spec["Name"])
        placed = ((spec.get("TaskTemplate") or {}).get("Placement") or {}).get("Constraints") or ()
        gated = [one for one in map(str, placed) if one.replace(" ", "") == GATED] if everywhere else []
        update = ["docker", "service", "update", *(f"--constraint-rm={one}" for one in gated)]
        if name in leaving:
            command = shlex.join([*update, "--force", name])
            steps.append(f"replace the tasks of {name}, which started with the gate: {command}")
        elif gated:
            command = shlex.join([*update, name])
            steps.append(f"let the tasks of {name} run without the gate, for which they wait now: {command}")
    return sorted(steps)


def take_out(docker: Docker, image: str, say: Callable[[str], None]) -> list[str]:
    """Take the gate out of every node, for `docker linkwire uninstall`; returns what is left. Raises DockerError."""
    nodes = _nodes(docker, None)
    # Of a node that is away the label is all that is known.
    asked = [node for node in nodes if node.labelled or not node.obstacle]
    found = list(_on(_Swarm(docker, nodes, image), asked, "remove"))
    _told((result for result in found if NOT_THERE not in result.notes), say)
    return left(docker, found, shlex.join(["docker", "linkwire", "uninstall", f"--image={image}"]), everywhere=True)


@dataclass(frozen=True, slots=True)
class _Swarm:
    """All of a Swarm's nodes, and the image that is run on them."""

    docker: Docker
    nodes: Sequence[Node]
    image: str


def _on(swarm: _Swarm, asked: Sequence[Node], action: str, options: Sequence[str] = ()) -> Iterator[Result]:
    """Run an action on some of a Swarm's nodes; what cannot be reached comes first."""
    yield from (Result(node, problem=node.obstacle) for node in asked if node.obstacle)
    able = [node for node in asked if not node.obstacle]
    if not able:
        return
    if action == "remove":  # nothing new is placed there meanwhile
        _label(swarm.docker, [node for node in able if node.labelled], here=False)
    for node, answer in _answers(swarm, able, [action, *options]):
        result = _result(node, answer, action)
        newly_in = action == "install" and result.gate == "in" and not node.labelled
        if newly_in or (action == "remove" and result.problem is not None and node.labelled):
            _label(swarm.docker, [node], here=True)
        yield result


def _answers(swarm: _Swarm, able: Sequence[Node], argv: Sequence[str]) -> list[tuple[Node, Mapping[str, Any]]]:
    answers = _ask(swarm, able, argv)
    again = [node for node, answer in answers if answer.get("again")]
    if not again:
        return answers
    # The tasks that took the gate out as the default were made with it themselves.
    more = dict(_ask(swarm, again, argv))
    return [(node, _both(answer, more[node]) if node in more else answer) for node, answer in answers]


def notes(docker: Docker, stack: str | None) -> list[str]:
    """Say on which nodes linked tasks run that started without the gate, though they may wait for it.

    Raises:
        DockerError: this is no manager, or it does not answer.
    """
    gated = {str(one["ID"]): str(one["Spec"]["Name"]) for one in listings.services(docker) if _waits(one, stack)}
    if not gated:
        return []
    raw = listings.nodes(docker)
    open_nodes = {
        str(one["ID"]): printable(str(one["Description"]["Hostname"]))
        for one in raw
        if (one["Spec"].get("Labels") or {}).get(LABEL) != "true"
    }
    found: dict[str, set[str]] = {}
    for task in listings.tasks(docker, *gated):
        if str(task.get("NodeID")) in open_nodes and task["Status"]["State"] == "running":
            found.setdefault(str(task["NodeID"]), set()).add(gated[str(task["ServiceID"])])
    if not found:
        return []
    nodes = sorted(open_nodes[node] for node in found)
    names = sorted(set().union(*found.values()))
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return [
        printable(
            f"on {', '.join(nodes)} linked tasks start before they are wired, since these nodes have no gate "
            f"({shown}): `docker linkwire gate install {' '.join(nodes)}`"
        )
    ]


def _waits(service: Mapping[str, Any], stack: str | None) -> bool:
    labels = service["Spec"].get("TaskTemplate", {}).get("ContainerSpec", {}).get("Labels") or {}
    ours = stack is None or str(service["Spec"]["Name"]).startswith(f"{stack}_")
    return ours and labels.get(GATE, "false") != "false"


def _both(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge the answers of two runs on one node."""
    if "refused" in second:
        return second
    return {**second, "said": [*first.get("said", ()), *list(second.get("said", ()))[1:]]}


def _result(node: Node, answer: Mapping[str, Any], action: str) -> Result:
    if (refused := answer.get("refused")) is not None:
        return Result(node, problem=str(refused))
    notes = [str(text) for text in answer.get("said", ())]
    if action == "status":
        notes.append(f"label {LABEL}: {'yes' if node.labelled else 'no'}")
    services, containers = (tuple(map(str, answer.get(kind) or ())) for kind in ("services", "containers"))
    return Result(node, str(answer.get("gate")), tuple(notes), services=services, containers=containers)


def _ask(swarm: _Swarm, able: Sequence[Node], argv: Sequence[str]) -> list[tuple[Node, Mapping[str, Any]]]:
    """Run linkwire-gate on nodes at once; return each one's answer."""
    # There is no "one of": every other node is excluded.
    spared = [f"--constraint=node.id!={node.id}" for node in swarm.nodes if node not in able]
    options = [
        *(f"--label={_MARK}", f"--container-label={_MARK}", "--network=host", "--no-resolve-image"),
        *("--entrypoint=linkwire-gate", "--env=LINKWIRE_TASK={{.Task.ID}}"),
        f"--mount={node_jobs.SOCKET}",
    ]
    with node_jobs.service(swarm.docker, _SERVICE, [*options, *spared, swarm.image, *argv]):
        tasks = node_jobs.wait(
            swarm.docker, _SERVICE, {node.id: node.name for node in able}, _WAIT, lambda _text: None
        )
        return [(node, _answer(swarm.docker, tasks.get(node.id))) for node in able]


def _answer(docker: Docker, task: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if task is None or task["Status"]["State"] not in node_jobs.ENDED:
        return {"refused": f"it did not answer in {_WAIT:g} s: see `docker node ps` there, and run this again"}
    status = task["Status"]
    if status["State"] != "complete":
        return {"refused": f"Swarm could not run it there: {status.get('Err') or status['State']}"}
    # A manager has a task's log only after the node has sent it: now and then not at once.
    deadline = time.monotonic() + _LOGGED
    while True:
        try:
            lines = docker.ask(["service", "logs", "--raw", str(task["ID"])], _LOG_TIMEOUT).splitlines()
            found = next((line for line in reversed(lines) if line.startswith("{")), None)
            if found is not None:
                answer: Mapping[str, Any] = json.loads(found)
                return answer
        except (DockerError, ValueError):
            pass
        if time.monotonic() > deadline:
            break
        time.sleep(_LOOK_EVERY)
    return {"refused": "its answer did not come through: `docker linkwire gate status` says how it is there"}


def _nodes(docker: Docker, agent: str | None) -> list[Node]:
    """Every node, by name; `agent`: the service of which a task must run there."""
    raw = listings.nodes(docker)
    tasks = listings.tasks(docker, agent) if agent is not None else []
    running = {str(task["NodeID"]) for task in tasks if task["Status"]["State"] == "running"}
    found = []
    for one in raw:
        name = printable(str(one["Description"]["Hostname"]))
        labels = one["Spec"].get("Labels") or {}
        obstacle = _obstacle(one, name, has_agent=agent is None or str(one["ID"]) in running)
        found.append(Node(str(one["ID"]), name, obstacle, labels.get(LABEL) == "true"))
    return sorted(found, key=lambda node: (node.name, node.id))


def _obstacle(raw: Mapping[str, Any], name: str, *, has_agent: bool) -> str | None:
    state, availability = str(raw["Status"]["State"]), str(raw["Spec"].get("Availability", "active"))
    if state != "ready":
        return f"the node is {state}: run this again when it is back"
    if availability != "active":
        return f"it is set to {availability}: `docker node update --availability active {name}`, and run this again"
    if not has_agent:
        return f"no Linkwire agent runs there: `docker service ps {STACK}_agent` says why"
    return None


def _chosen(nodes: Sequence[Node], names: Sequence[str]) -> list[Node]:
    if not names:
        return list(nodes)
    chosen: dict[str, Node] = {}
    for name in names:
        found = [node for node in nodes if node.id == name] or [node for node in nodes if node.name == name]
        found = found or [node for node in nodes if node.id.startswith(name)]
        if not found:
            raise absent("node", name, [node.name for node in nodes])
        if len(found) > 1:
            raise UsageError(f"{len(found)} nodes are called {name!r}: name them by id, see `docker node ls`")
        chosen[found[0].id] = found[0]
    return list(chosen.values())


def _label(docker: Docker, nodes: Sequence[Node], *, here: bool) -> None:
    for node in nodes:
        change = f"--label-add={LABEL}=true" if here else f"--label-rm={LABEL}"
        docker.ask(["node", "update", change, node.id], TIMEOUT)
