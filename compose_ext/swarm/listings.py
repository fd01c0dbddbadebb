"""Questions to the Swarm: its services, tasks and nodes, as Docker shows them."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from compose_ext.diagnostics import DockerError, absent
from compose_ext.docker_cli import Docker
from mesh.model.encryption.status import DATA_PATH_PORT
from mesh.model.labels.absent_services import is_absent_text, with_near_service

TIMEOUT = 30.0
"""Seconds for one question to Docker."""
NO_MANAGER = "not a swarm manager"
"""In what every version of Docker says of it."""

_GONE = re.compile(r"(?i)no such|not found")
"""In each line of what docker says of objects that are not there."""
INSPECTED_AT_ONCE = 2000
"""Ids of one question: docker asks its daemon for each by itself, some milliseconds long."""
_TASK = "task"
_NAMES = {"stack": "{{.Name}}", "service": "{{.Name}}", "node": "{{.Hostname}}"}
_FRACTION = re.compile(r"\.[0-9]+")
"""Of a second, which Docker writes with nine digits."""
_TELLING = (
    *("Image", "Command", "Args", "Env", "Labels", "Mounts", "Secrets", "Configs"),
    *("CapabilityAdd", "CapabilityDrop", "ReadOnly"),
)
"""Fields that differ between an old task and a new one, without those that only a service has."""


@dataclass(frozen=True, slots=True)
class Manager:
    """A manager of a Swarm, as Docker shows it."""

    node: str
    """The id of the manager that answers."""
    cluster: str
    """Swarm's own id."""
    data_path_port: int = DATA_PATH_PORT
    """UDP, of the Swarm's VXLAN."""


def read(text: str) -> Any:  # noqa: ANN401 - Docker's own documents
    """Decode an answer. Raises DockerError."""
    try:
        return json.loads(text)
    except ValueError:
        raise DockerError("docker's answer is not JSON") from None


def tasks(docker: Docker, *services: str, wanted: str = "") -> list[dict[str, Any]]:
    """Return the tasks of services, `wanted` by one of Docker's filters.

    Raises:
        DockerError: Docker does not answer, or there is no such service.
    """
    filters = ["--filter", wanted] if wanted else []
    listing = ["service", "ps", "--quiet", "--no-trunc", *filters, *services]
    return _described(docker, listing, ["inspect", "--type", "task"])


def services(docker: Docker, *filters: str) -> list[dict[str, Any]]:
    """Return the services that Docker's filters select, all without one. Raises DockerError."""
    selected = [part for one in filters for part in ("--filter", one)]
    return _described(docker, ["service", "ls", "--quiet", *selected], ["service", "inspect"])


def _described(docker: Docker, listing: Sequence[str], inspection: Sequence[str]) -> list[dict[str, Any]]:
    """List ids and inspect them; one that is gone meanwhile is left out. Raises DockerError."""
    ids = docker.ask(listing, TIMEOUT).split()
    found: list[dict[str, Any]] = []
    for first in range(0, len(ids), INSPECTED_AT_ONCE):
        found += read(_inspected(docker, [*inspection, *ids[first : first + INSPECTED_AT_ONCE]]))
    return found


def _inspected(docker: Docker, command: Sequence[str]) -> str:
    try:
        return docker.ask(command, TIMEOUT)
    except DockerError as error:
        if not is_absence(error):
            raise
        return error.output  # docker fails if one is not there, and writes all others


def is_absence(error: DockerError) -> bool:
    """Tell whether all that Docker says is that something that was asked for is not there."""
    return all(map(_GONE.search, str(error).splitlines()))


def is_current(task: Mapping[str, Any], service: Mapping[str, Any]) -> bool:
    """Tell whether a task is of its service's newest specification, both as Docker shows them."""
    own, newest = task["Spec"]["ContainerSpec"], service["Spec"]["TaskTemplate"]["ContainerSpec"]
    return all(own.get(field) == newest.get(field) for field in _TELLING)


def nodes(docker: Docker) -> list[dict[str, Any]]:
    """Return all nodes. Raises DockerError."""
    return _described(docker, ["node", "ls", "--quiet"], ["node", "inspect"])


def names(docker: Docker, *kinds: str) -> set[str]:
    """Return the names of all stacks, services or nodes. Raises DockerError, as on a worker."""
    listed = (docker.ask([kind, "ls", "--format", _NAMES[kind]], TIMEOUT) for kind in kinds)
    return {name for text in listed for name in text.split()}


def with_near_services(docker: Docker, problems: Sequence[str]) -> list[str]:
    """Add to problems about providers that do not exist which services may have been meant, if Docker knows."""
    if not any(map(is_absent_text, problems)):
        return list(problems)
    services = known_services(docker)
    return [with_near_service(problem, services) for problem in problems]


def known_services(docker: Docker) -> set[str]:
    """Return the names of all services; none where Docker does not know, as on a worker."""
    with suppress(DockerError):
        return names(docker, "service")
    return set()


def require(docker: Docker, name: str, *kinds: str) -> None:
    """Require that the Swarm has something of a name.

    Args:
        docker: of a manager.
        name: of a stack, a service or a node, or of a task; a task may be named by its id.
        kinds: of these.

    Raises:
        AbsentError: it has not.
        DockerError: Docker does not answer, or is a worker's.
    """
    known = names(docker, *(kind for kind in kinds if kind != _TASK))
    if name in known or (_TASK in kinds and name.partition(".")[0] in known):
        return
    if _TASK in kinds:
        with suppress(DockerError):
            docker.ask(["inspect", "--type", "task", name], TIMEOUT)
            return
    raise absent(f"{', '.join(kinds[:-1])} or {kinds[-1]}" if kinds[1:] else kinds[0], name, known)


def manager(docker: Docker) -> Manager:
    """Require that the endpoint is a manager of a Swarm.

    Raises:
        DockerError: it is no manager, or does not answer; the text names the managers.
    """
    info = read(docker.ask(["info", "--format", "{{json .}}"], TIMEOUT))
    state = info.get("Swarm") or {}
    if not state and info.get("ServerErrors"):
        raise DockerError("; ".join(map(str, info["ServerErrors"])))
    match state.get("LocalNodeState"):
        case "active":
            pass
        case "locked":
            raise DockerError("this node's Swarm is locked: unlock it first, with `docker swarm unlock`")
        case _:
            raise DockerError("this Docker is in no Swarm: make one with `docker swarm init`, or join one")
    if not state.get("ControlAvailable"):
        managers = ", ".join(
            str(peer.get("Addr", "")).rpartition(":")[0] for peer in state.get("RemoteManagers") or []
        )
        raise DockerError(f"this node is a worker of its Swarm: ask a manager (at {managers}), with -H or --context")
    cluster = state.get("Cluster") or {}
    port = int(cluster.get("DataPathPort") or DATA_PATH_PORT)  # 0 stands for it
    return Manager(str(state["NodeID"]), str(cluster.get("ID", "")), port)


def clock(docker: Docker) -> datetime:
    """Return the time of the endpoint, to judge by its own clock how old a thing is. Raises DockerError."""
    text = docker.ask(["info", "--format", "{{.SystemTime}}"], TIMEOUT).strip()
    try:
        return datetime.fromisoformat(_FRACTION.sub("", text))
    except ValueError:
        raise DockerError(f"docker says that it is {text!r}, which is no time") from None


def age(stamp: str, now: datetime) -> float | None:
    """Return the seconds since a time as Docker writes it, with nanoseconds; None where it is no time."""
    try:
        at = datetime.fromisoformat(f"{stamp[:19]}+00:00")
    except ValueError:
        return None
    return max(0.0, (now - at).total_seconds())


def explained(docker: Docker, error: DockerError) -> DockerError:
    """Return the same error; where a worker was asked what a manager answers, one that names the managers."""
    if NO_MANAGER not in str(error):
        return error
    try:
        manager(docker)
    except DockerError as better:
        return better
    return error
