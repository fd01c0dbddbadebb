"""This node's task containers, listed and followed by Docker's API."""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from agent.containers.docker_api import Docker, Questions, exits_of, through_node
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.model.labels.link_labels import GATE, GATE_READY
from mesh.model.net import IPAddress, IPNetwork
from mesh.model.records import Attachment, TaskState
from mesh.topology.policy import Exit
from mesh.topology.strict_isolation import in_order

log = structlog.get_logger(__name__)

TASK_LABEL = "com.docker.swarm.task.id"
SERVICE_LABEL = "com.docker.swarm.service.id"
NAME_LABEL = "com.docker.swarm.task.name"
RECONNECT_S = 0.5
ENDS_S = 20.0
"""For Docker to say who is on a network."""
EVENTS = ("create", "start", "kill", "die", "destroy", "connect", "disconnect", "health_status")
_BEGUN = ("start", "die", "destroy")
_NO_STOP = frozenset(
    str(int(one))
    for one in (
        *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGURG),
        *(signal.SIGTTIN, signal.SIGTTOU),  # gunicorn: one worker more, one less
    )
)
"""As an event's `signal`: signals that do not stop a program. Any other may, by the image's STOPSIGNAL."""
EXITS = ("docker_gwbridge", "bridge")
"""Networks of a node that nobody chose for a task: every overlay's tasks leave by the first, and every container that
names no network is on the second."""
RUNNING = ("running", "paused", "restarting")
CREATED = "created"


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
        elsewhere: its addresses on Docker's networks, as far as they are known, in the order of
            mesh.topology.strict_isolation; none when it has ended. Before it is started these are the ones that
            Swarm chose (overlays, ingress); those on networks of this node are known from the moment it is connected
            to them on.
        gated: whether it is not to start before it is wired, wherever it runs.
        ways: the subnets of its networks, where all of them send what is for elsewhere through this node; else None,
            or where that is not known.
        is_guess: whether `netns` is what was found, and neither Docker nor the gate has said so yet.
        joins: how often Docker is known to have connected it to a network: it writes into its hosts file then.
        awaits: names of services of each of which a task is to be ready before it starts.
        unread: why Docker says no more of one that runs than its list has, in words; such a one counts as made.
    """

    container: str
    task: str
    service: str
    name: str
    state: TaskState
    netns: str | None
    hosts: str
    problem: str | None
    elsewhere: tuple[Attachment, ...]
    gated: bool
    awaits: tuple[str, ...] = ()
    ways: tuple[IPNetwork, ...] | None = None
    joins: int = 0
    is_guess: bool = False
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """A container's end on a network that it was just connected to.

    Attributes:
        container: its id.
        mac: MAC address of its end, "" where the network gives none.
        attachments: its addresses there.
    """

    container: str
    mac: str
    attachments: tuple[Attachment, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """Functions that are called with what Docker's events tell, from two threads.

    Attributes:
        changed: with a container's id for every event of a task's container, with "" after each break.
        announced: with a container's id, also of no task, at once when it is connected to a network.
        connected: later, with its end there.
        begun: with the id of every container, also of no task, that has started, ended, or left a network.
        stopping: with the id of every task's container that is told to stop.
    """

    changed: Callable[[str], None]
    announced: Callable[[str], None]
    connected: Callable[[Joined], None]
    begun: Callable[[str], None]
    stopping: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Identity of the Swarm node that this Docker is."""

    id: str
    hostname: str
    address: IPAddress | None
    """The address that it advertises to the Swarm, None if that is no address."""


class Containers:
    """Lists and follows this node's task containers.

    While Docker starts a container, or does anything with it, it holds that container's lock, and an inspect waits
    for it; a list does not. So what is merely created is read from the list alone.

    What a list shows of a container's networks (tried with 20.10): from `create` on each of them with its id, and the
    IPv4 address if Swarm chose one (`IPAMConfig`), but no other; from `start` on all addresses of both families, also
    of networks joined later; when it has ended, no address any more. Between `create` and `start`, from the `connect`
    event on, the network itself tells the container's addresses, and waits for nobody's lock. A task on an overlay
    may have an end on docker_gwbridge too; that is in no list, and the bridge is an exit to us.
    """

    def __init__(self, url: str, timeout: float = 20.0, folder: str = "") -> None:
        """Connect when first asked.

        Args:
            url: of this node's Docker.
            timeout: in seconds, for one request.
            folder: where Docker's folder `containers` is to be seen; empty for where Docker has it.
        """
        self._folder = folder
        self._url = url
        self._docker = Docker(url, timeout)
        self._heard: Callable[[str], None] | None = None
        self._containers: Questions[LocalTask] = Questions(self._answered)
        self._networks: Questions[dict[str, Any]] = Questions()
        self._ways: dict[str, tuple[IPNetwork, ...] | None] = {}

    def identity(self) -> NodeIdentity:
        """Read this node's identity. Raises Retryable; Terminal where Docker is in no Swarm."""
        with self._docker.asked_to("read this node's identity") as client:
            info = client.info()
        self._folder = self._folder or f"{info['DockerRootDir']}/containers"
        swarm = info.get("Swarm") or {}
        if not swarm.get("NodeID"):
            raise Terminal("this Docker is not in a Swarm: run `docker swarm init` or `docker swarm join` first")
        try:
            address = ipaddress.ip_address(swarm.get("NodeAddr", ""))
        except ValueError:
            address = None
        if address is not None and (address.is_loopback or address.is_unspecified):
            address = None
        return NodeIdentity(swarm["NodeID"], info.get("Name", ""), address)

    def all(self) -> dict[str, LocalTask]:
        """List every task container of this node, by container id. Raises Retryable."""
        listed = self._list({"label": TASK_LABEL})
        starting = [raw for raw in listed if raw.get("State") == CREATED]
        # So much the `connect` events of starting containers told, should none have listened.
        attachments: dict[str, list[Attachment]] = {raw["Id"]: [] for raw in starting}
        for ends in self._read_networks(_networks(starting)):
            for container in ends.keys() & attachments.keys():
                attachments[container] += ends[container].attachments
        self._containers.forget([raw["Id"] for raw in listed])
        return self._described(listed, attachments)

    def some(self, containers: Collection[str]) -> dict[str, LocalTask]:
        """Read these containers; those that are missing are gone, or no tasks'. Raises Retryable."""
        listed = self._list({"label": TASK_LABEL, "id": list(containers)})
        # A network never changes; one that cannot be inspected now is asked for again with the next list.
        self._read_networks(_networks(raw for raw in listed if raw.get("State") == CREATED) - self._ways.keys())
        return self._described(listed, {})

    def one(self, container: str) -> LocalTask | None:
        """Read a task's container; None if it is gone or no task's. Raises Retryable."""
        return self.some([container]).get(container)

    def exits(self) -> tuple[Exit, ...]:
        """Read the bridges by which tasks leave this node: one end a bridge and IP version. Raises Retryable."""
        answers = self._networks.ask({name: partial(self._docker.inspect_lenient, name) for name in EXITS})
        exits: list[Exit] = []
        for answer in answers.values():
            if isinstance(answer, LinkwireError):
                raise answer
            exits += exits_of(answer)
        return tuple(exits)

    def follow(self, heard: Heard) -> None:
        """Follow events from threads."""
        self._heard = heard.changed
        asked: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        threading.Thread(target=self._ask_ends, args=(asked, heard), name="container-networks", daemon=True).start()
        threading.Thread(target=self._follow, args=(asked, heard), name="container-events", daemon=True).start()

    def _answered(self, container: str) -> None:
        if self._heard is not None:
            self._heard(container)

    def _list(self, filters: dict[str, str | list[str]]) -> list[dict[str, Any]]:
        with self._docker.asked_to("list containers") as client:
            listed: list[dict[str, Any]] = client.containers(all=True, filters=filters)
        return listed

    def _read_networks(self, networks: Iterable[str]) -> list[dict[str, Joined]]:
        """Read networks: list the containers on each, and note where it leads. One without an answer is left out."""
        ends: list[dict[str, Joined]] = []
        answers = self._networks.ask({name: partial(self._docker.inspect_lenient, name) for name in networks})
        for network, answer in answers.items():
            if isinstance(answer, LinkwireError):
                log.warning("container network not read", network=network[:12], error=str(answer))
            elif answer:
                self._ways[network] = through_node(answer)
                ends.append(_ends_on(network, answer))
        return ends

    def _described(
        self, listed: list[dict[str, Any]], joined: Mapping[str, Iterable[Attachment]]
    ) -> dict[str, LocalTask]:
        """Describe containers, those that run by an inspect of each; its failure concerns that one alone."""
        tasks = {raw["Id"]: self._task(raw, joined.get(raw["Id"], ())) for raw in listed}
        running = [raw["Id"] for raw in listed if raw.get("State") in RUNNING]
        answers = self._containers.ask({name: partial(self._running, tasks[name]) for name in running})
        for name, answer in answers.items():
            tasks[name] = replace(tasks[name], unread=str(answer)) if isinstance(answer, LinkwireError) else answer
        return tasks

    def _task(self, raw: Mapping[str, Any], joined: Iterable[Attachment] = ()) -> LocalTask:
        is_made, is_there = raw.get("State") == CREATED, raw.get("State") in (CREATED, *RUNNING)
        labels = raw.get("Labels") or {}
        ways = [self._ways.get(network) for network in _networks([raw])] if is_made else [None]
        return LocalTask(
            container=raw["Id"],
            task=labels[TASK_LABEL],
            service=labels.get(SERVICE_LABEL, ""),
            name=labels.get(NAME_LABEL, raw["Id"][:12]),
            state="created" if is_there else "gone",
            netns=None,
            hosts=f"{self._folder}/{raw['Id']}/hosts",
            problem=_problem(raw),
            elsewhere=in_order((*_attachments(raw), *joined)) if is_there else (),
            gated=labels.get(GATE, "false") not in {"false", "auto"},
            awaits=tuple(name for name in labels.get(GATE_READY, "").split(",") if name),
            ways=None if None in ways else tuple(subnet for subnets in ways for subnet in subnets or ()),
        )

    def _running(self, local: LocalTask) -> LocalTask:
        """Inspect a running container for its namespace, its health and all its addresses. Raises LinkwireError."""
        raw = self._docker.inspect("container", local.container)
        if raw is None:  # it was in the list a moment ago: the next one tells whether it is gone
            raise Retryable(f"cannot inspect the container {local.container}: Docker lists it, and has none such")
        state = raw.get("State") or {}
        sandbox = (raw.get("NetworkSettings") or {}).get("SandboxKey") or ""
        if state["Status"] not in RUNNING:
            return replace(local, state="gone", elsewhere=())
        health = (state.get("Health") or {}).get("Status", "none")
        return replace(
            local,
            state="running" if health in ("none", "healthy", "") else "created",
            netns=_run(sandbox) if sandbox and local.problem is None else None,
            elsewhere=in_order(_attachments(raw)),
        )

    def _follow(self, asked: queue.SimpleQueue[tuple[str, str]], heard: Heard) -> None:
        while True:
            try:
                # no read timeout: a quiet node is not a broken one; what is lost the resync finds
                docker = Docker(self._url, None)
                with docker.asked_to("follow events") as client:
                    self._docker.disconnect()
                    filters = {"type": ["container", "network"], "event": list(EVENTS)}
                    stream = client.events(decode=True, filters=filters)
                    heard.changed("")
                    for event in stream:  # docker-py turns a broken stream into its normal end
                        _tell(event, asked, heard)
            except LinkwireError as error:
                log.warning("container events interrupted, following again", error=str(error))
            except Exception:
                # Whatever it is: without events a task is wired with the next list only, up to 15 s late.
                log.exception("following of container events crashed")
            time.sleep(RECONNECT_S)

    def _ask_ends(self, asked: queue.SimpleQueue[tuple[str, str]], heard: Heard) -> None:
        """Ask for the ends of containers that were connected, beside the events: those that follow do not wait."""
        docker = Docker(self._url, ENDS_S)
        while True:
            network, container = asked.get()
            joined = None
            try:
                joined = _ends_on(network, docker.inspect_lenient(network)).get(container)
            except LinkwireError as error:
                log.warning("container events interrupted, following again", error=str(error))
                docker.disconnect()
            except Exception:  # whatever it is: without an answer, Docker is asked when the container has begun
                log.exception("container networks crashed")
            heard.connected(joined or Joined(container, mac="", attachments=()))


def _tell(event: Mapping[str, Any], asked: queue.SimpleQueue[tuple[str, str]], heard: Heard) -> None:
    actor, action = event.get("Actor") or {}, event.get("Action")
    attributes = actor.get("Attributes") or {}
    if event.get("Type") == "network":
        container = attributes.get("container", "")
        if action == "connect" and attributes.get("type") != "host":
            heard.announced(container)
            asked.put((actor.get("ID", ""), container))
        elif action == "disconnect":
            heard.begun(container)
            heard.changed(container)
        return
    container = actor.get("ID", "")
    if action in _BEGUN:
        heard.begun(container)
    if TASK_LABEL not in attributes:
        return
    if action != "kill":
        heard.changed(container)
    elif attributes.get("signal") not in _NO_STOP:
        heard.stopping(container)


def _ends_on(network: str, seen: Mapping[str, Any]) -> dict[str, Joined]:
    """Return the containers of this node that are on a network, by id, as an inspect shows it."""
    return {
        container: Joined(
            container,
            mac=end.get("MacAddress") or "",
            attachments=in_order(_addresses(network, end.get("IPv4Address"), end.get("IPv6Address"))),
        )
        for container, end in (seen.get("Containers") or {}).items()
    }


def _networks(listed: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the ids of the networks that containers have an end on."""
    return {end.get("NetworkID") or "" for raw in listed for end in _ends(raw)} - {""}


def _ends(raw: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Return a container's ends on networks, as a list or an inspect shows them."""
    networks: dict[str, dict[str, Any]] = (raw.get("NetworkSettings") or {}).get("Networks") or {}
    return networks.values()


def _attachments(raw: Mapping[str, Any]) -> Iterator[Attachment]:
    """Return the addresses that it has, or before it is started those that it will have."""
    for end in _ends(raw):
        chosen = end.get("IPAMConfig") or {}
        yield from _addresses(
            end.get("NetworkID") or "",
            end.get("IPAddress") or chosen.get("IPv4Address"),
            end.get("GlobalIPv6Address") or chosen.get("IPv6Address"),
        )


def _addresses(network: str, *texts: str | None) -> Iterator[Attachment]:
    """Return those of the texts that are addresses, with or without a prefix length."""
    for text in texts:
        with contextlib.suppress(ValueError):
            if network and text:
                yield Attachment(network, ipaddress.ip_interface(text).ip)


def _problem(raw: Mapping[str, Any]) -> str | None:
    networks = (raw.get("NetworkSettings") or {}).get("Networks") or {}
    if (raw.get("HostConfig") or {}).get("NetworkMode") == "host" or "host" in networks:
        return "it uses the node's own network (`network: host`), where a link cannot be kept to one task"
    return None


def _run(path: str) -> str:
    """Return a namespace's path under /run: Docker names /var/run, which is not mounted into the agent."""
    return path.removeprefix("/var") if path.startswith("/var/run/") else path
