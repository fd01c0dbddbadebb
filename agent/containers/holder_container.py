"""Container of the holder (`agent.holder`): of the agent's own image, made by Docker, and no part of the stack.

Swarm replaces the agent's container with every change of its service, and ends it as a whole. What is to outlive that
must be another container, which no service has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.containers import start_gate
from agent.containers.docker_api import Docker
from mesh.errors import Terminal

NAME = "linkwire-wireguard-go"
FOLDER = start_gate.FOLDER / "wireguard"
"""Where stack.yml has the agents look."""
LABEL = "linkwire.role"
ROLE = "holder"
_PROGRAM = "linkwire-holder"
_CAPABILITIES = ("NET_ADMIN", "MKNOD")  # devices; /dev/net/tun
_INSIDE = "/run/wireguard"
_TIMEOUT_S = 30.0
_MOUNTS = Path("/proc/self/mountinfo")


class HolderContainer:
    """The one holder of a node.

    Args:
        url: of this node's Docker.
        folder: of the sockets; a container has it by the same path as the node.
    """

    def __init__(self, url: str, folder: Path = FOLDER) -> None:
        self._docker = Docker(url, _TIMEOUT_S)
        self._folder = folder

    def is_current(self) -> bool:
        """Tell whether it is of this agent's image. Raises Retryable, Terminal."""
        raw = self._own_kind()
        return raw is not None and raw["Image"] == self._image()

    def make(self) -> bool:
        """Make it, unless it runs; tells whether it did.

        Raises:
            Retryable: Docker could not; one that has just ended may be on its way out.
            Terminal: this process is in no container of this Docker, or another container has the name.
        """
        raw = self._own_kind()
        if raw is not None and raw["State"]["Running"]:
            return False
        image = self._image()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._docker.asked_to("make the holder of wireguard-go") as client:
            if raw is not None:
                client.remove_container(raw["Id"], force=True)
            made = client.create_container(
                image,
                name=NAME,
                entrypoint=[_PROGRAM],
                labels={LABEL: ROLE},
                host_config=client.create_host_config(
                    network_mode="host",
                    cap_drop=["ALL"],
                    cap_add=list(_CAPABILITIES),
                    security_opt=["no-new-privileges:true"],
                    read_only=True,
                    binds=[f"{self._folder}:{_INSIDE}"],
                    auto_remove=True,  # it leaves nothing; and no restart: an agent makes it when it needs one
                ),
            )
            client.start(made["Id"])
        return True

    def remove(self) -> bool:
        """End and remove it with all its devices; tells whether it was there. Raises Retryable, Terminal."""
        raw = self._own_kind()
        if raw is None:
            return False
        with self._docker.asked_to("remove the holder of wireguard-go") as client:
            client.remove_container(raw["Id"], force=True)
        return True

    def _own_kind(self) -> dict[str, Any] | None:
        raw = self._docker.inspect("container", NAME)
        if raw is not None and (raw["Config"].get("Labels") or {}).get(LABEL) != ROLE:
            raise Terminal(f"another's container has the name {NAME} on this node: remove it, or rename it")
        return raw

    def _image(self) -> str:
        """Return the id of the image that this process is in. Raises Retryable, Terminal."""
        container = own_container(_MOUNTS.read_text())
        raw = self._docker.inspect("container", container) if container else None
        if raw is None:
            raise Terminal("no holder of wireguard-go can be made: this agent is in no container of Docker's")
        return str(raw["Image"])


def own_container(mounts: str) -> str | None:
    """Return the id of the container that a process is in by its mounts, of which /etc/hosts is one (proc(5))."""
    for line in mounts.splitlines():
        _, _, _, root, target, *_ = line.split(" ")
        if target == "/etc/hosts" and Path(root).parent.parent.name == "containers":
            return Path(root).parent.name
    return None
