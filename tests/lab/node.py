"""One Swarm node: a real dockerd in network, mount and UTS namespaces of its own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import cgroup, network, process
from tests.lab.layout import LabError, Layout

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

# Run as: sh -c START node data disk dockerd-arguments... by nsenter and unshare, NOT by `ip netns exec`, which mounts
# another /sys and hides the cgroups.
#  - The machine's /run/netns is let go, or this node would keep alive every namespace that it shows.
#  - /run and /var/lib/docker are shared mounts: a container that binds /run/docker/netns with rslave is refused
#    on others, and would not see a namespace made after its start.
#  - containerd makes /opt/containerd, which is not to stay behind on the machine.
#  - The start gate's files are each node's own, and outlive a power cut as a disk would: /etc and /usr/local/bin.
#  - Another engine's /usr goes over the machine's, for a node that has one; it has cgroup version 2 alone as well,
#    with those controllers that the machine has not given to version 1.
#  - The pidfile lies in that fresh /run: a stale one silently stops the next start.
START = """
set -eu
node=$1 data=$2 disk=$3 engine=$4
shift 4
hostname "$node"
if [ -n "$engine" ]; then
    mount -t overlay -o "lowerdir=$engine/usr:/usr" overlay /usr
    umount -R -l /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
umount -l /run/netns 2>/dev/null || :
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns /run/docker /run/lock /run/opt /run/opt/new /run/opt/work
mount --make-shared /run
mount -t overlay -o lowerdir=/opt,upperdir=/run/opt/new,workdir=/run/opt/work overlay /opt
mount --bind "$data" /var/lib/docker
mount --make-shared /var/lib/docker
for folder in etc usr/local/bin; do
    mkdir -p "$disk/$folder/new" "$disk/$folder/work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$disk/$folder/new,workdir=$disk/$folder/work" overlay "/$folder"
done
exec dockerd "$@"
"""
GATE = {
    "runtimes": {"linkwire": {"path": str(Path(__file__).resolve().parents[2] / "deploy/linkwire-runc")}},
    "default-runtime": "linkwire",
}
STARTING = 60.0  # seconds a dockerd may take to answer; 3 on an idle machine


class UnreachableError(Exception):
    """A dockerd does not answer on its socket."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a lab, running or not."""

    name: str
    layout: Layout
    network: network.Network

    @property
    def address(self) -> str:
        return self.layout.node_address(self.name)

    @property
    def address6(self) -> str:
        return self.layout.node_address6(self.name)

    @property
    def folder(self) -> Path:
        return self.layout.root / self.name

    @property
    def socket(self) -> Path:
        """Its dockerd's unix socket, reachable from everywhere on the machine."""
        return self.folder / "docker.sock"

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    @property
    def config(self) -> Path:
        return self.folder / "daemon.json"

    @property
    def engine(self) -> Path:
        """A link to the root file system with its own Docker engine; not there where it runs the machine's."""
        return self.folder / "engine"

    @property
    def group(self) -> cgroup.Group:
        """The cgroup that holds all processes of the node: daemon, tasks and what `run` started."""
        return cgroup.Group(f"{self.layout.name}-lab/{self.name}")

    @property
    def dockerd_pid(self) -> int | None:
        """The pid of its dockerd in the machine's pid namespace; none when it is not running."""
        return self.group.child("daemon").command_pid("dockerd")

    def is_up(self) -> bool:
        """Whether its dockerd answers."""
        try:
            self.get("/_ping", seconds=3)
        except UnreachableError:
            return False
        return True

    def is_whole(self) -> bool:
        """Whether its dockerd answers, from the namespace that bears its name, which is wired to the bridge."""
        pid = self.dockerd_pid
        return (
            pid is not None
            and network.same_netns(pid, self.layout.node_netns(self.name))
            and self.network.node_is_wired(self.name)
            and self.is_up()
        )

    def start(self) -> None:
        """Start it in fresh namespaces on the data it had, and wait until dockerd answers."""
        self.kill()
        self.network.make_node(self.name)
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        self.configure()
        enter = ["nsenter", f"--net={network.NETNS / self.layout.node_netns(self.name)}"]
        unshare = ["unshare", "--mount", "--uts", "--propagation", "slave"]
        script = [
            "sh",
            "-c",
            START,
            "sh",
            self.name,
            str(data),
            str(self.folder / "disk"),
            str(self.engine.resolve()) if self.engine.exists() else "",
            "--config-file",
            str(self.config),
        ]
        daemon = self.group.child("daemon")
        process.detach([*enter, *unshare, *script], daemon, self.log)
        process.wait_for_daemon(f"dockerd of {self.name}", self.is_up, daemon, self.log, seconds=STARTING)

    def configure(self) -> None:
        """Write what dockerd is told; one that runs reads it again."""
        before = json.loads(self.config.read_text()) if self.config.exists() else {}
        config = {**before, **self._daemon_config()}  # what `docker linkwire gate install` has merged in stays
        if config == before:
            return
        self.config.write_text(json.dumps(config, indent=2))
        if pid := self.dockerd_pid:
            os.kill(pid, signal.SIGHUP)

    def _daemon_config(self) -> dict[str, object]:
        # In a file of its own, because the machine's /etc/docker/daemon.json is for the machine's own Docker;
        # likewise the key, which is /etc/docker/key.json otherwise.
        return {
            "hosts": [f"unix://{self.socket}", "unix:///run/docker.sock"],
            "pidfile": "/run/docker.pid",
            # Not "tasks": every version 1 group has a file of that name.
            "cgroup-parent": f"/{self.group.child('containers').path}",
            "insecure-registries": [self.layout.registry],
            "deprecated-key-path": "/var/lib/docker/key.json",
            **(GATE if self.layout.gate.exists() else {}),
        }

    def kill(self) -> None:
        """SIGKILL everything on the node at once and take its namespaces away, like a power cut."""
        self.group.kill()
        self.network.remove_node(self.name)

    def remove(self) -> None:
        """Kill it and forget its data."""
        self.kill()
        self.group.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def docker(
        self,
        *args: str,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the Docker CLI against this node, `timeout` in seconds.

        Raises:
            LabError: with `check`, it failed (the message has its stderr); always, it took too long.
        """
        return process.answer(self.docker_command(*args), check=check, stdin=stdin, timeout=timeout, env=env)

    def docker_command(self, *args: str) -> list[str]:
        """The command line of `docker ARGS` against this node, for those who start it themselves."""
        return [process.docker_cli(), "-H", f"unix://{self.socket}", *args]

    def run(
        self, argv: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node's network, mount and UTS namespaces.

        Raises:
            LabError: the node is stopped; with `check`, the command failed; always, it took too long.
        """
        return process.answer(self.command(argv), check=check, stdin=stdin, timeout=timeout)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the node, for those who start it themselves.

        The command joins the node's cgroup, so that it ends with the node.

        Raises:
            LabError: the node is stopped.
        """
        pid = self.dockerd_pid
        if pid is None:
            raise LabError(f"{self.name} is stopped")
        group = self.group.child("run")
        group.make()
        # Its network by name: dockerd's first thread may at any moment be in a container's (netns.Set in libnetwork).
        netns = network.NETNS / self.layout.node_netns(self.name)
        enter = ["nsenter", f"--target={pid}", f"--net={netns}", "--mount", "--uts", "--", *argv]
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group.procs), *enter]

    def get(self, path: str, *, seconds: float = 10.0) -> Any:  # noqa: ANN401 - it is JSON
        """GET something from its dockerd's API; cheaper than a CLI where it is asked again and again.

        Raises:
            UnreachableError: no answer within `seconds`, or no good one.
        """
        connection = _UnixConnection(self.socket, seconds)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{self.name}: {error}") from error
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise UnreachableError(f"{self.name}: GET {path}: {response.status}: {body.decode(errors='replace')}")
        return json.loads(body) if response.headers.get_content_type() == "application/json" else body.decode()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
