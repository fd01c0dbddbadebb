"""This node's Docker, asked to run a container that has the node's rights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from docker import APIClient
from docker.errors import NotFound
from docker.types import LogConfig

from agent.containers.docker_api import Docker
from agent.node_gate.errors import GateError

SOCKET = "/var/run/docker.sock"
HELPER = "linkwire-gate"
"""The name of the container that does the work; one that an earlier run left is removed."""
_TASK = "com.docker.swarm.task.id"
_MARK = {"linkwire.role": "gate"}
_CAPABILITIES = (
    "SYS_PTRACE",  # reading dockerd's process, which has more rights
    "SYS_ADMIN",  # setns() into its mount namespace
    "SYS_CHROOT",  # likewise
    "KILL",  # SIGHUP, should dockerd not be root's
    "DAC_OVERRIDE",  # its files, whoever has them
    "FOWNER",
)
_TIMEOUT_S = 120


class Engine:
    """Docker on this node."""

    def __init__(self, path: str = SOCKET) -> None:
        """Connect when first asked; `path` of Docker's socket."""
        self._docker = Docker(f"unix://{path}", _TIMEOUT_S, GateError)

    def info(self) -> Mapping[str, Any]:
        """Return the answer of `docker info`. Raises Refused."""
        with self._docker.asked_to("ask Docker how it runs") as client:
            info: dict[str, Any] = client.info()
        return info

    def run_on_node(self, task: str, argv: Sequence[str]) -> str:
        """Run a command in a container that sees the node's processes, of the image of a Swarm task.

        A Swarm task can have neither the node's PID namespace, in which dockerd is to be found, nor be free of
        AppArmor, which forbids to look at dockerd and to signal it.

        Args:
            task: the id of the Swarm task that this is.
            argv: what to run.

        Returns:
            What it wrote to its standard output.

        Raises:
            Refused: Docker could not run it, or it failed; with the end of its error output.
        """
        with self._docker.asked_to("run a container") as client:
            own = client.containers(filters={"label": f"{_TASK}={task}"})
            if not own:
                raise GateError("this task's own container was not found")
            _remove(client)
            settings = client.create_host_config(
                runtime="runc",
                cap_drop=["ALL"],
                cap_add=list(_CAPABILITIES),
                security_opt=["apparmor=unconfined", "seccomp=unconfined", "label=disable"],
                pid_mode="host",
                network_mode="host",
                userns_mode="host",
                read_only=True,
                binds=[f"{SOCKET}:{SOCKET}"],
                log_config=LogConfig(type=LogConfig.types.JSON),
            )
            client.create_container(
                own[0]["ImageID"], list(argv), name=HELPER, labels=_MARK, host_config=settings, entrypoint=""
            )
            try:
                client.start(HELPER)
                code = int(client.wait(HELPER)["StatusCode"])
                out = client.logs(HELPER, stdout=True, stderr=False).decode("utf-8", "replace")
                error = client.logs(HELPER, stdout=False, stderr=True).decode("utf-8", "replace")
            finally:
                _remove(client)
        if code != 0:
            raise GateError(f"the container {HELPER} ended with exit code {code}: {error.strip()[-500:]}")
        return out


def _remove(client: APIClient) -> None:
    with suppress(NotFound):
        client.remove_container(HELPER, force=True)


def is_rootless(info: Mapping[str, Any]) -> bool:
    """Tell whether this Docker has no root on its node."""
    return any("name=rootless" in str(option) for option in info.get("SecurityOptions") or ())


def default_runtime(info: Mapping[str, Any]) -> str:
    """Return the default runtime that dockerd has now."""
    return str(info.get("DefaultRuntime", ""))


def runtime_path(info: Mapping[str, Any], runtime: str) -> str | None:
    """Return the program of a runtime that dockerd knows; None: it does not know it."""
    entry = (info.get("Runtimes") or {}).get(runtime)
    return None if entry is None else str(entry.get("path", ""))
