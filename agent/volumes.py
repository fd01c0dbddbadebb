"""Volumes of this node's Docker, and the folder that Docker keeps its data in.

Docker's data folder is not the same on every node (`data-root`), while a Swarm service names one path for all. So the
agent's service mounts volumes by name, and on each node the volume of that name is a bind of that node's folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import docker
import docker.errors
import requests

from agent.containers import connect
from mesh.errors import Retryable

STACK = "linkwire"
BOUND = {f"{STACK}_containers": "containers", f"{STACK}_certificates": "swarm/certificates"}
"""Volume to the folder below Docker's data folder that it is a bind of; stack.yml has both."""
DEFAULT_ROOT = "/var/lib/docker"
"""Where stack.yml expects them: a node with another has volumes of its own before the agent comes."""
_STACK_LABEL = "com.docker.stack.namespace"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Engine:
    """What Docker says of itself."""

    node: str
    """Swarm's id of the node; empty where it is in no Swarm."""
    hostname: str
    root: str
    """Its data folder."""
    version: str


class Volumes:
    """Asks one Docker; every method raises Retryable."""

    def __init__(self, url: str) -> None:
        """Connect. Raises Retryable."""
        with _wrapped("reach Docker"):
            self._client = connect(url, _TIMEOUT_S)

    def engine(self) -> Engine:
        """What it says of itself."""
        with _wrapped("ask Docker what it is"):
            info = self._client.info()
        node = str((info.get("Swarm") or {}).get("NodeID") or "")
        return Engine(node, str(info.get("Name", "")), str(info["DockerRootDir"]), str(info.get("ServerVersion", "")))

    def names(self) -> tuple[str, ...]:
        """Those of our stack."""
        with _wrapped("list volumes"):
            found = self._client.volumes(filters={"label": f"{_STACK_LABEL}={STACK}"})
        return tuple(sorted(str(one["Name"]) for one in found.get("Volumes") or ()))

    def device(self, name: str) -> str | None:
        """The folder that a volume is a bind of, empty for one with data of its own; None where there is none."""
        with _wrapped(f"inspect the volume {name}"):
            try:
                found = self._client.inspect_volume(name)
            except docker.errors.NotFound:
                return None
        return str((found.get("Options") or {}).get("device", ""))

    def bind(self, name: str, device: str) -> None:
        """Make a volume that is a bind of a folder."""
        options = {"type": "none", "o": "bind", "device": device}
        with _wrapped(f"make the volume {name}"):
            self._client.create_volume(name, "local", options, {_STACK_LABEL: STACK})

    def remove(self, name: str) -> None:
        """Remove a volume, and containers that use it and have ended."""
        with _wrapped(f"remove the volume {name}"):
            for container in self._client.containers(all=True, filters={"volume": name}):
                if container.get("State") in {"created", "exited", "dead"}:
                    self._client.remove_container(container["Id"], force=True)
            self._client.remove_volume(name)

    def running(self) -> tuple[str, ...]:
        """Names of our stack's containers that run."""
        with _wrapped("list containers"):
            found = self._client.containers(filters={"label": f"{_STACK_LABEL}={STACK}"})
        return tuple(sorted(str((one.get("Names") or ["?"])[0]).lstrip("/") for one in found))


@contextmanager
def _wrapped(what: str) -> Iterator[None]:
    try:
        yield
    except docker.errors.APIError as error:
        raise Retryable(f"{what}: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise Retryable(f"{what}: {error}") from error
