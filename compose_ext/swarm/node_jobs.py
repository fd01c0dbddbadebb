"""Jobs on nodes: a command of the image, run once on every node, which prints one line of JSON.

Each job is a short global service of its own, whose tasks are not restarted; Swarm's own jobs leave their ended
containers behind (seen in 20.10). The report comes from Docker's log of the task. Where the task could not start,
as with a wrong image, Swarm's error is the report.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from compose_ext.diagnostics import DockerError
from compose_ext.docker_cli import Docker, printable
from compose_ext.swarm import listings
from compose_ext.swarm.installation import STACK
from compose_ext.swarm.listings import TIMEOUT

CREATE_TIMEOUT = 120.0
"""Seconds; Docker asks the registry about the image."""
_LOOK_EVERY = 0.3
_LOGS_TIMEOUT = 20.0
_LOG_TRIES = 3
"""A task's last words may come to Docker's log after its end."""
_SHOWN = 5
_CLEARED = 120.0
_SILENT = 3.0
"""Seconds that a job may take without a word."""
_REMAPPED = "when user namespaces are enabled"
"""In what Docker says of a service on the node's own network, as an agent is, where it has userns-remap."""
_LOGGED_BY = "com.docker.swarm.node.id"
ENDED = {"complete", "failed", "rejected", "shutdown", "remove", "orphaned"}
SOCKET = "type=bind,source=/var/run/docker.sock,target=/var/run/docker.sock"
_CAPABILITIES = ("NET_ADMIN", "SYS_ADMIN", "MKNOD", "SYS_CHROOT", "SETUID", "SETGID", "SETPCAP")
"""The agent's."""

_ONCE = (
    *("--mode=global", "--restart-condition=none", "--detach", "--quiet", "--with-registry-auth"),
    *("--log-driver=json-file", "--read-only", "--cap-drop=ALL"),
)
_BIND_OPTIONS = (
    "volume-driver=local,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/var/lib/docker/containers"
)
"""As stack.yml has it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command to run on every node.

    Attributes:
        command: of `linkwire-agent`.
        mounts: besides Docker's socket, as `docker service create --mount` takes them.
        host: whether it is on the node's own network.
        environment: variables that it gets.
    """

    command: str
    mounts: tuple[str, ...] = ()
    host: bool = False
    environment: tuple[str, ...] = ()


NAMESPACES = ("type=bind,source=/run/docker,target=/run/docker,bind-propagation=rslave",)
"""Mount with Docker's namespaces, those of overlays among them."""
LOOK = Job("look", host=True)
PLACE = Job("place")
UNWIRE = Job(
    "unwire",
    (
        f"type=volume,source={STACK}_containers,target=/run/linkwire/containers,volume-nocopy,{_BIND_OPTIONS}",
        f"type=volume,source={STACK}_agent,target=/var/lib/linkwire,volume-label=com.docker.stack.namespace={STACK}",
        *NAMESPACES,
        "type=bind,source=/proc/sys/net,target=/run/linkwire/sysctl",
    ),
    host=True,
    environment=("LINKWIRE_CONTAINERS=/run/linkwire/containers",),
)
REMOVE = Job("remove")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a job on one node.

    Attributes:
        node: its name.
        problems: in words; none where all went well.
        report: printed by the task; empty where there is none.
        ahead: seconds by which the node's clock is surely ahead of that of Swarm's leader, or below 0 behind it.
    """

    node: str
    problems: tuple[str, ...]
    report: Mapping[str, Any] = field(default_factory=dict)
    ahead: float = 0.0


def run(docker: Docker, job: Job, image: str, seconds: float, say: Callable[[str], None]) -> list[Outcome]:
    """Run a job on every node that is up and active.

    Args:
        docker: a manager's.
        job: what to run.
        image: of the agent.
        seconds: until it has to have ended everywhere; an image has to be pulled by every node.
        say: prints a line of progress.

    Returns:
        One outcome a node, by name.

    Raises:
        DockerError: Docker could not make the service.
    """
    name = f"{STACK}_{job.command}"
    nodes = active(docker)
    with service(docker, name, [*_options(job), image, job.command]):
        return outcomes(docker, name, nodes, seconds, say)


@contextmanager
def service(docker: Docker, name: str, argv: Sequence[str]) -> Iterator[None]:
    """Run a global service for the time of a block; its tasks run once, without capabilities but those added.

    Args:
        docker: a manager's.
        name: of the service; one that an interrupted run left behind is removed first.
        argv: more options of `docker service create`, the image, and its arguments.

    Raises:
        DockerError: Docker could not make the service.
    """
    with suppress(DockerError):
        docker.ask(["service", "rm", name], TIMEOUT)
    try:
        docker.ask(["service", "create", f"--name={name}", *_ONCE, *argv], CREATE_TIMEOUT)
        yield
    finally:
        with suppress(DockerError):
            docker.ask(["service", "rm", name], TIMEOUT)


def clear_etcd(
    docker: Docker, controller: Mapping[str, Any], node: tuple[str, str], say: Callable[[str], None]
) -> str:
    """Delete all records in an etcd of the user's own, by a container with what the controllers had.

    Args:
        docker: a manager's.
        controller: the controllers' service, as Docker showed it.
        node: id and name of a manager.
        say: prints a line of progress.

    Returns:
        What went wrong, in words; empty where nothing did.

    Raises:
        DockerError: Docker could not make the service.
    """
    with as_controller(docker, name := f"{STACK}_clear", controller, node[0], "linkwire-controller", ["clear"]):
        return table(outcomes(docker, name, dict([node]), _CLEARED, say))


@contextmanager
def as_controller(  # noqa: PLR0917 - as `service`, and what runs in it
    docker: Docker, name: str, controller: Mapping[str, Any], node: str, program: str, argv: Sequence[str]
) -> Iterator[None]:
    """Run a program on one manager for the time of a block, with what the controllers have.

    Args:
        docker: a manager's.
        name: of the service.
        controller: the controllers' service, as Docker showed it.
        node: id of the manager.
        program: in the controllers' image.
        argv: its arguments.

    Raises:
        DockerError: Docker could not make the service.
    """
    spec = controller["Spec"]["TaskTemplate"]["ContainerSpec"]
    options = ["--network=host", f"--constraint=node.id=={node}", f"--entrypoint={program}"]
    options += [f"--env={variable}" for variable in (*(spec.get("Env") or ()), "LINKWIRE_NODE_ID={{.Node.ID}}")]
    for sort in ("Secret", "Config"):
        for one in spec.get(f"{sort}s") or ():
            file = one["File"]
            mode = f"mode=0{int(file.get('Mode', 0o444)):o}"
            options += [f"--{sort.lower()}=source={one[f'{sort}Name']},target={file['Name']},{mode}"]
    with service(docker, name, [*options, str(spec["Image"]), *argv]):
        yield


def container_here(docker: Docker, name: str, seconds: float = CREATE_TIMEOUT) -> str:
    """Wait for a service's task on the endpoint, and return its container's id.

    Raises:
        DockerError: it has ended, or does not run in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = [task["Status"] for task in listings.tasks(docker, name, wanted="node=self")]
        for status in found:
            container = str((status.get("ContainerStatus") or {}).get("ContainerID", ""))
            if status["State"] == "running" and container:
                return container
            if status["State"] in ENDED:
                raise DockerError(f"{name} ended: {status.get('Err') or status.get('Message') or status['State']}")
        if time.monotonic() > deadline:
            states = (
                ", ".join(str(status["State"]) for status in found) or "Swarm starts no task there: is it drained?"
            )
            raise DockerError(f"{name} does not run on this manager after {seconds:g} s ({states})")
        time.sleep(_LOOK_EVERY)


def outcomes(
    docker: Docker, name: str, nodes: Mapping[str, str], seconds: float, say: Callable[[str], None]
) -> list[Outcome]:
    """Wait until a service's tasks on some nodes (id to name) have ended; return outcomes. Raises DockerError."""
    tasks = wait(docker, name, nodes, seconds, say)
    reports = _reports(docker, name, tasks)
    return [
        _outcome(node, nodes[node], tasks.get(node), reports) for node in sorted(nodes, key=lambda one: nodes[one])
    ]


def active(docker: Docker) -> dict[str, str]:
    """Return the nodes that are up and accept tasks: id to name. Raises DockerError."""
    return {node: name for node, name, *state in listed(docker) if state == ["Ready", "Active"]}


def listed(docker: Docker) -> list[list[str]]:
    """Return id, name, state and availability of every node. Raises DockerError.

    A node says its name itself: it could be several lines, so it is written as JSON.
    """
    form = "{{.ID}} {{.Status}} {{.Availability}} {{json .Hostname}}"
    lines = [line.split(" ", 3) for line in docker.ask(["node", "ls", "--format", form], TIMEOUT).splitlines()]
    return [
        [node, printable(str(listings.read(name))).replace("\n", " "), state, availability]
        for node, state, availability, name in lines
    ]


def places(docker: Docker, name: str) -> set[str]:
    """Return the ids of the nodes that run a service's tasks. Raises DockerError."""
    return {str(task["NodeID"]) for task in listings.tasks(docker, name) if task.get("NodeID")}


def others(docker: Docker) -> list[str]:
    """Return the nodes that a job does not reach, each with why. Raises DockerError."""
    return [
        f"{name} ({state.lower()}, {availability.lower()})"
        for _, name, state, availability in listed(docker)
        if (state, availability) != ("Ready", "Active")
    ]


def _options(job: Job) -> list[str]:
    argv = [f"--cap-add={capability}" for capability in _CAPABILITIES]
    argv += [f"--mount={mount}" for mount in (SOCKET, "type=tmpfs,target=/tmp", *job.mounts)]
    argv += ["--mount=type=tmpfs,target=/run/wireguard", "--entrypoint=linkwire-agent"]
    argv += ["--network=host"] if job.host else []
    return argv + [f"--env={variable}" for variable in job.environment]


def wait(
    docker: Docker, name: str, nodes: Mapping[str, str], seconds: float, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Return a service's tasks by node, when all have ended or it has taken too long.

    Args:
        docker: a manager's.
        name: of the service.
        nodes: id to name, of those that must have a task.
        seconds: until then.
        say: prints a line of progress.

    Raises:
        DockerError: Docker does not answer.
    """
    deadline = time.monotonic() + seconds
    last = ""
    while True:
        tasks = {str(task.get("NodeID")): task for task in listings.tasks(docker, name)}
        waiting = [
            f"{nodes[node]} ({tasks[node]['Status']['State']})" if node in tasks else nodes[node]
            for node in nodes
            if node not in tasks or tasks[node]["Status"]["State"] not in ENDED
        ]
        if not waiting or time.monotonic() > deadline:
            return tasks
        text = f"waiting for {', '.join(sorted(waiting)[:_SHOWN])}" + ("..." if len(waiting) > _SHOWN else "")
        if text != last and time.monotonic() > deadline - seconds + _SILENT:
            say(text)
            last = text
        time.sleep(_LOOK_EVERY)


def _reports(docker: Docker, name: str, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the reports that the tasks printed, by node, as far as Docker's logs have them."""
    ran = {node: task for node, task in tasks.items() if task["Status"]["State"] in {"complete", "failed"}}
    reports: dict[str, Mapping[str, Any]] = {}
    # Logs of a whole service wait for each node that it ran on; those of one task for that node alone.
    if everywhere := len(ran) == len(tasks):
        reports = _lines(docker, name)
    for node, task in ran.items():
        for _ in range(_LOG_TRIES if task["Status"]["State"] == "failed" else not everywhere):
            if node not in reports:
                reports |= _lines(docker, str(task["ID"]))
    return reports


def _lines(docker: Docker, what: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    try:
        text = docker.ask(["service", "logs", "--raw", "--details", what], _LOGS_TIMEOUT)
    except DockerError:
        return found
    for line in text.splitlines():
        details, _, printed = line.partition(" ")
        with suppress(ValueError):
            report = json.loads(printed)
            if isinstance(report, dict) and "problems" in report:
                # Swarm checks that a node sends only its own lines; what a line says itself, any node could write.
                found[dict(pair.split("=", 1) for pair in details.split(",")).get(_LOGGED_BY, "")] = report
    return found


def _outcome(
    node: str, name: str, task: Mapping[str, Any] | None, reports: Mapping[str, Mapping[str, Any]]
) -> Outcome:
    report = reports.get(node, {})
    if task is None:
        return Outcome(name, ("Swarm has started no task there",))
    state, problems = str(task["Status"]["State"]), [str(problem) for problem in report.get("problems", ())]
    if state != "complete" and not problems:
        error = str(task["Status"].get("Err") or task["Status"].get("Message") or "")
        problems = [f"{error} (the task is {state}){_advice(error)}" if error else f"the task is still {state}"]
    return Outcome(name, tuple(map(printable, problems)), report, _ahead(task))


def _advice(error: str) -> str:
    """Say what to do about an error of Docker's that does not."""
    if _REMAPPED not in error:
        return ""
    return ": it has userns-remap: take that out of this node's daemon.json, or the node out of the Swarm"


def _ahead(task: Mapping[str, Any]) -> float:
    """Return the seconds by which the clock of a task's node is surely ahead of that of Swarm's leader.

    The node writes the time of a task's state, the leader the times at which it made the task and last changed it. By
    equal clocks the first lies between the two others.
    """
    try:
        at, made, changed = map(
            datetime.fromisoformat, (task["Status"]["Timestamp"], task["CreatedAt"], task["UpdatedAt"])
        )
    except (KeyError, TypeError, ValueError):
        return 0.0
    return max(0.0, (at - changed).total_seconds()) + min(0.0, (at - made).total_seconds())


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the problems, a line each, with the node's name."""
    return "\n  ".join(f"{outcome.node}: {problem}" for outcome in outcomes for problem in outcome.problems)
