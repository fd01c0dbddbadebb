"""Docker's API on this node, as far as the agent needs it: the only module here that imports docker."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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
EVENTS = ("create", "start", "die", "destroy", "connect", "health_status")
RUNNING = ("running", "paused", "restarting")


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
        hosts: path of its hosts file.
        problem: why it can never be wired, in words, or None.
    """

    container: str
    task: str
    service: str
    name: str
    state: TaskState
    netns: str | None
    hosts: str
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
    """Lists and follows this node's task containers.

    While Docker starts a container, or does anything with it, it holds that container's lock, and an inspect waits
    for it; a list does not. So what is merely created is read from the list alone.
    """

    def __init__(self, url: str, timeout: float = 20.0) -> None:
        """Connect when first asked; `timeout` in seconds for one request."""
        self._url = url
        self._timeout = timeout
        self._client: docker.APIClient | None = None
        self._root = ""

    def _api(self) -> docker.APIClient:
        if self._client is None:
            self._client = docker.APIClient(self._url, version="auto", timeout=int(self._timeout))
        return self._client

    def identity(self) -> NodeIdentity:
        """Which node this is. Raises Retryable; Terminal where Docker is in no Swarm."""
        with _wrapped("read this node's identity"):
            info = self._api().info()
        self._root = info["DockerRootDir"]
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
        return {task.container: task for task in self._tasks({"label": TASK_LABEL})}

    def one(self, container: str) -> LocalTask | None:
        """A task's container as it is now; None if it is gone or no task's. Raises Retryable."""
        return next(iter(self._tasks({"label": TASK_LABEL, "id": container})), None)

    def follow(self, changed: Callable[[str], None], connected: Callable[[str, str], None]) -> None:
        """Follow events from a thread.

        Args:
            changed: called with a container's id for every event, with "" after each break.
            connected: called with the id and MAC address of a container that is being started.
        """
        arguments = (changed, connected)
        threading.Thread(target=self._follow, args=arguments, name="container-events", daemon=True).start()

    def _tasks(self, filters: dict[str, str]) -> list[LocalTask]:
        with _wrapped("list containers"):
            listed = self._api().containers(all=True, filters=filters)
        tasks = (self._task(raw) for raw in listed)
        return [task for task in tasks if task is not None]

    def _task(self, raw: Mapping[str, Any]) -> LocalTask | None:
        state = raw.get("State")
        labels = raw.get("Labels") or {}
        local = LocalTask(
            container=raw["Id"],
            task=labels[TASK_LABEL],
            service=labels.get(SERVICE_LABEL, ""),
            name=labels.get(NAME_LABEL, raw["Id"][:12]),
            state="created" if state == "created" else "gone",
            netns=None,
            hosts=f"{self._root}/containers/{raw['Id']}/hosts",
            problem=_problem(raw),
        )
        return local if state not in RUNNING else self._running(local)

    def _running(self, local: LocalTask) -> LocalTask | None:
        """What only an inspect tells of a running container: its namespace and its health."""
        try:
            raw = self._api().inspect_container(local.container)
        except docker.errors.NotFound:
            return None
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise Retryable(f"inspect container {local.container[:12]}: {error}") from error
        state = raw.get("State") or {}
        sandbox = (raw.get("NetworkSettings") or {}).get("SandboxKey") or ""
        if state.get("Status") not in RUNNING:
            return replace(local, state="gone")
        health = (state.get("Health") or {}).get("Status", "none")
        return replace(
            local,
            state="running" if health in ("none", "healthy", "") else "created",
            netns=_run(sandbox) if sandbox and local.problem is None else None,
        )

    def _follow(self, changed: Callable[[str], None], connected: Callable[[str, str], None]) -> None:
        while True:
            try:
                with _wrapped("follow events"):
                    # no read timeout: a quiet node is not a broken one; what is lost the resync finds
                    client = docker.APIClient(self._url, version="auto", timeout=None)  # type: ignore[arg-type]
                    filters = {"type": ["container", "network"], "event": list(EVENTS)}
                    stream = client.events(decode=True, filters=filters)
                    changed("")
                    for event in stream:  # docker-py turns a broken stream into its normal end
                        actor = event.get("Actor") or {}
                        attributes = actor.get("Attributes") or {}
                        if event.get("Type") == "network":
                            self._connect(client, actor.get("ID", ""), attributes.get("container", ""), connected)
                        elif TASK_LABEL in attributes:
                            changed(actor.get("ID", ""))
            except LinkwireError as error:
                log.warning("container events broke off", error=str(error))
            time.sleep(RECONNECT_S)

    @staticmethod
    def _connect(
        client: docker.APIClient, network: str, container: str, connected: Callable[[str, str], None]
    ) -> None:
        try:
            found = (client.inspect_network(network).get("Containers") or {}).get(container) or {}
        except docker.errors.APIError:
            return  # the network went as quickly as it came
        if found.get("MacAddress"):
            connected(container, found["MacAddress"])


def _problem(raw: Mapping[str, Any]) -> str | None:
    networks = (raw.get("NetworkSettings") or {}).get("Networks") or {}
    if (raw.get("HostConfig") or {}).get("NetworkMode") == "host" or "host" in networks:
        return "it uses the node's own network (`network: host`), where a link cannot be kept to one task"
    return None


def _run(path: str) -> str:
    """Docker names the namespace under /var/run, which is /run; only the latter is mounted into the agent."""
    return path.removeprefix("/var") if path.startswith("/var/run/") else path
