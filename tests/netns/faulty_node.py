"""A node whose agent is a process of its own, with one fault; its tasks, and the records that they rest on.

Real: the agent as `linkwire-agent run` starts it, etcd, the controller, namespaces, wireguard-go or the kernel's
WireGuard, nft. Docker's API is a program's (tests/lab has Docker).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.firewall import nf_tables_netlink, nft
from agent.firewall.ruleset import NAME
from agent.interface import reconcile
from agent.interface.diff import Observed, diff
from agent.interface.render_cache import RenderCache
from agent.linux import hosts_file
from agent.linux.netns import TaskNetns
from agent.wireguard.backend import Backend
from mesh.topology.wgtypes import InterfaceConfig
from tests.support.faults.docker_api import Answer, DockerApi

LABELS = "com.docker.swarm.task.id", "com.docker.swarm.service.id", "com.docker.swarm.task.name"


@dataclass(slots=True)
class Container:
    """A task's container, as Docker tells of it."""

    task: str
    service: str
    netns: TaskNetns
    folder: Path

    @property
    def id(self) -> str:
        return f"c{self.task}"

    @property
    def hosts(self) -> Path:
        return self.folder / self.id / "hosts"

    def listed(self) -> dict[str, Any]:
        labels = dict(zip(LABELS, (self.task, f"#{self.service}", f"{self.service}.1"), strict=True))
        return {"Id": self.id, "State": "running", "Labels": labels, "NetworkSettings": {"Networks": {}}}

    def inspected(self) -> dict[str, Any]:
        settings = {"SandboxKey": self.netns.path, "Networks": {}}
        return {"Id": self.id, "State": {"Status": "running"}, "NetworkSettings": settings}


class NodesDocker(DockerApi):
    """Docker of a node, with its containers."""

    def __init__(self, root: Path, node: str, address: str) -> None:
        super().__init__(root / "docker.sock")
        self.containers: dict[str, Container] = {}
        self._info = {"DockerRootDir": str(root), "Name": node, "Swarm": {"NodeID": node, "NodeAddr": address}}

    def put(self, container: Container) -> None:
        """A container runs."""
        self.containers = {**self.containers, container.id: container}
        self.tell("container", "start", container.id, **{LABELS[0]: container.task})

    def drop(self, container: Container) -> None:
        """A container is removed."""
        self.containers = {name: one for name, one in self.containers.items() if one is not container}
        self.tell("container", "destroy", container.id, **{LABELS[0]: container.task})

    def answer(self, path: str, query: dict[str, Any]) -> Answer:
        """As the other."""
        if path == "info":
            return 200, self._info
        if path == "containers/json":
            asked = query["filters"].get("id", ())
            return 200, [one.listed() for one in self.containers.values() if not asked or one.id in asked]
        kind, _, rest = path.partition("/")
        if kind == "containers" and (one := self.containers.get(rest.partition("/")[0])):
            return 200, one.inspected()
        return super().answer(path, query)


def differences(backend: Backend, container: Container, config: InterfaceConfig | None) -> list[str]:
    """What a task has that it is not to have, or lacks; nothing where it is exactly as desired."""
    with TaskNetns(container.netns.path) as place:
        hosts = str(container.hosts)
        if config is None:
            left = [f"device {name}" for name in backend.found(place)]
            left += [f"table {NAME}"] if nf_tables_netlink.exists(place, NAME) else []
            return left + [f"name {entry.names[0]}" for entry in hosts_file.read(hosts) or ()]
        table = nft.read(place)
        interface = reconcile.observe(backend, place, config.name)
        if interface is None:
            return ["no device"]
        seen = Observed(interface, table.rules if table else None, hosts_file.read(hosts))
        changes = diff(config, seen, config, time.time(), complete=True, memo=place.own(RenderCache))
        surplus = [f"device {name}" for name in backend.found(place) if name != config.name]
        wanted_peers = {peer.public_key for peer in config.peers}
        exact = interface.device.peers.keys() == wanted_peers and interface.device.listen_port == config.listen_port
        return [*changes.reasons, *surplus, *(() if exact else ("peers or port",))]
