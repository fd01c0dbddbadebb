"""Docker's API on this node, as far as the agent needs it: the only module here that imports docker."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import requests
import structlog

from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.records import TaskState
from mesh.wgtypes import IPAddress

log = structlog.get_logger(__name__)

TASK_LABEL = "com.docker.swarm.task.id"
SERVICE_LABEL = "com.docker.swarm.service.id"
NAME_LABEL = "com.docker.swarm.task.name"
RECONNECT_S = 0.5
EVENTS = ("create", "start", "die", "destroy", "connect", "disconnect", "health_status")


@dataclass(frozen=True, slots=True)
class LocalTask:
    """A task's container on this node.

    Attributes:
        container: its id.
        task: Swarm task id.
        service: Swarm service id.
        name: `stack_service.slot.task`.
        state: made, up (and healthy where it has a check), or ended.
        netns: path of its network namespace, None before it has one of its own.
        hosts: path of its hosts file, None before it has one.
        problem: why it can never be wired, in words, or None.
    """

    container: str
    task: str
    service: str
    name: str
    state: TaskState
    netns: str | None
    hosts: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Which Swarm node this Docker is."""

    id: str
    hostname: str
    address: IPAddress | None
    """What it advertises to the Swarm, None if that is no address."""


@contextlib.contextmanager
def _wrapped(what: str) -> Iterator[None]:
    try:
        yield
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise Retryable(f"{what}: {error}") from error


class Containers:
    """Lists and follows this node's task containers."""

    def __init__(self, url: str, timeout: float = 20.0) -> None:
        """Connect when first asked; `timeout` in seconds for one request."""
        self._url = url
        self._timeout = timeout
        self._client: docker.APIClient | None = None

    def _api(self) -> docker.APIClient:
        if self._client is None:
            self._client = docker.APIClient(self._url, version="auto", timeout=int(self._timeout))
        return self._client

    def identity(self) -> NodeIdentity:
        """Which node this is. Raises Retryable; Terminal where Docker is in no Swarm."""
        with _wrapped("read this node's identity"):
            info = self._api().info()
        swarm = info.get("Swarm") or {}
        if not swarm.get("NodeID"):
            raise Terminal("this Docker is in no Swarm: `docker swarm init` or `docker swarm join` first")
        try:
            address = ipaddress.ip_address(swarm.get("NodeAddr", ""))
        except ValueError:
            address = None
        if address is not None and (address.is_loopback or address.is_unspecified):
            address = None
        return NodeIdentity(swarm["NodeID"], info.get("Name", ""), address)

    def all(self) -> dict[str, LocalTask]:
        """Every task container of this node, by container id: a complete list. Raises Retryable."""
        with _wrapped("list containers"):
            found = self._api().containers(all=True, filters={"label": TASK_LABEL})
        seen = (self.one(raw["Id"]) for raw in found)
        return {task.container: task for task in seen if task is not None}

    def one(self, container: str) -> LocalTask | None:
        """A task's container as it is now; None if it is gone or no task's. Raises Retryable."""
        try:
            raw = self._api().inspect_container(container)
        except docker.errors.NotFound:
            return None
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise Retryable(f"inspect container {container[:12]}: {error}") from error
        return _task(raw)

    def follow(self, changed: Callable[[str], None]) -> None:
        """Call `changed(container id)` from a thread for every event, `changed("")` after each break."""
        threading.Thread(target=self._follow, args=(changed,), name="container-events", daemon=True).start()

    def _follow(self, changed: Callable[[str], None]) -> None:
        while True:
            try:
                with _wrapped("follow events"):
                    # no read timeout: a quiet node is not a broken one; what is lost the resync finds
                    client = docker.APIClient(self._url, version="auto", timeout=None)  # type: ignore[arg-type]
                    stream = client.events(
                        decode=True, filters={"type": ["container", "network"], "event": list(EVENTS)}
                    )
                    changed("")
                    for event in stream:  # docker-py turns a broken stream into its normal end
                        self._tell(event, changed)
            except LinkwireError as error:
                log.warning("container events broke off", error=str(error))
            time.sleep(RECONNECT_S)

    @staticmethod
    def _tell(event: Mapping[str, Any], changed: Callable[[str], None]) -> None:
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        if event.get("Type") == "network":
            if attributes.get("container"):
                changed(attributes["container"])
        elif TASK_LABEL in attributes:
            changed(actor.get("ID", ""))


def _state(raw: Mapping[str, Any]) -> TaskState:
    state = raw.get("State") or {}
    status = state.get("Status")
    if status == "created":
        return "created"
    if status in ("running", "paused", "restarting"):
        health = (state.get("Health") or {}).get("Status", "none")
        return "running" if health in ("none", "healthy", "") else "created"
    return "gone"


def _task(raw: Mapping[str, Any]) -> LocalTask | None:
    labels = (raw.get("Config") or {}).get("Labels") or {}
    if TASK_LABEL not in labels:
        return None
    network = raw.get("NetworkSettings") or {}
    sandbox = network.get("SandboxKey") or ""
    mode = (raw.get("HostConfig") or {}).get("NetworkMode", "")
    problem = None
    if mode == "host" or "host" in (network.get("Networks") or {}) or sandbox.endswith("/default"):
        problem = "it uses the node's own network (`network: host`), where a link cannot be kept to one task"
    return LocalTask(
        container=raw["Id"],
        task=labels[TASK_LABEL],
        service=labels.get(SERVICE_LABEL, ""),
        name=labels.get(NAME_LABEL, raw.get("Name", "").lstrip("/")),
        state=_state(raw),
        netns=_run(sandbox) if sandbox and problem is None else None,
        hosts=raw.get("HostsPath") or None,
        problem=problem,
    )


def _run(path: str) -> str:
    """Docker names the namespace under /var/run, which is /run; only the latter is mounted into the agent."""
    return path.removeprefix("/var") if path.startswith("/var/run/") else path
