"""Volumes of this node's Docker, and its data folder.

Docker's data folder is not the same on every node (`data-root`), while a Swarm service names one path for all. So the
agent's service mounts volumes by name, and on each node the volume of that name is a bind of that node's folder.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.containers.docker_api import Docker

STACK = "linkwire"
BOUND = {f"{STACK}_containers": "containers", f"{STACK}_certificates": "swarm/certificates"}
"""Volume to the folder below Docker's data folder that it is a bind of; stack.yml has both."""
DEFAULT_ROOT = "/var/lib/docker"
"""Where stack.yml expects them: a node with another has volumes of its own before the agent comes."""
_STACK_LABEL = "com.docker.stack.namespace"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Engine:
    """Description of a Docker engine."""

    node: str
    """Swarm's id of the node; empty where it is in no Swarm."""
    hostname: str
    root: str
    """Its data folder."""
    version: str


class Volumes:
    """Volumes of one Docker; every method raises Retryable."""

    def __init__(self, url: str) -> None:
        """Connect when first asked; `url` of the engine."""
        self._docker = Docker(url, _TIMEOUT_S)

    def engine(self) -> Engine:
        """Read the engine's description."""
        with self._docker.asked_to("ask Docker what it is") as client:
            info = client.info()
        node = str((info.get("Swarm") or {}).get("NodeID") or "")
        return Engine(node, str(info.get("Name", "")), str(info["DockerRootDir"]), str(info.get("ServerVersion", "")))

    def names(self) -> tuple[str, ...]:
        """List the volumes of our stack."""
        with self._docker.asked_to("list volumes") as client:
            volumes = client.volumes(filters={"label": f"{_STACK_LABEL}={STACK}"})
        return tuple(sorted(str(volume["Name"]) for volume in volumes.get("Volumes") or ()))

    def device(self, name: str) -> str | None:
        """Return the folder that a volume is a bind of, empty for one with data of its own; None for no volume."""
        # Not by its own request: for one that it lacks, a manager's Docker from 23 on asks Swarm's leader, who may be
        # missing, or of an older engine that does not know the question.
        with self._docker.asked_to(f"look for the volume {name}") as client:
            listed = client.volumes(filters={"name": name}).get("Volumes") or ()
        found = next((volume for volume in listed if volume["Name"] == name), None)
        return None if found is None else str((found.get("Options") or {}).get("device", ""))

    def bind(self, name: str, device: str) -> None:
        """Make a volume that is a bind of a folder."""
        options = {"type": "none", "o": "bind", "device": device}
        with self._docker.asked_to(f"make the volume {name}") as client:
            client.create_volume(name, "local", options, {_STACK_LABEL: STACK})

    def remove(self, name: str) -> None:
        """Remove a volume, and containers that use it and have ended."""
        with self._docker.asked_to(f"remove the volume {name}") as client:
            for container in client.containers(all=True, filters={"volume": name}):
                if container.get("State") in {"created", "exited", "dead"}:
                    client.remove_container(container["Id"], force=True)
            client.remove_volume(name)

    def running(self) -> tuple[str, ...]:
        """List the names of our stack's containers that run."""
        with self._docker.asked_to("list containers") as client:
            containers = client.containers(filters={"label": f"{_STACK_LABEL}={STACK}"})
        return tuple(sorted(str((container.get("Names") or ["?"])[0]).lstrip("/") for container in containers))
