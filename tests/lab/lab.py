"""The lab: real Swarm nodes, an etcd and a registry on one machine, with faults as verbs.

Promises: the machine's own Docker is never touched; `up` works whatever an earlier run left; `down` leaves no
process, namespace, mount, device, cgroup or file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tests.lab import cgroup, engine, network, process, servers, swarm
from tests.lab.layout import DEFAULT_NAME, STATE, LabError, Layout
from tests.lab.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COMMANDS = ("dockerd", "containerd", "runc", "etcd", "docker-registry", "ip", "nsenter", "unshare", "setsid")
PLENTY = 8 << 30  # bytes of memory, of which a lab of three nodes with all images takes about 1.5 GiB
DOCKER_FOLDER = Path("/var/lib/docker")


def default_name() -> str:
    """The lab's name where none is given: LINKWIRE_LAB, or lw."""
    return os.environ.get("LINKWIRE_LAB") or DEFAULT_NAME


class Lab:
    """A lab of one name. Making the object does nothing; `up` does."""

    def __init__(
        self,
        name: str | None = None,
        nodes: int = 3,
        managers: int = 1,
        say: Callable[[str], None] = lambda _: None,
        mtu: int | None = None,
        *,
        gate: bool = False,
        newest: Sequence[str] = (),
    ) -> None:
        """Describe a lab.

        Args:
            name: up to 8 letters and digits.
            nodes: how many.
            managers: how many of them manage.
            say: is told what is being done.
            mtu: of its wires, in bytes; None: as they are, which is 1500 in a new one.
            gate: start every container by deploy/linkwire-runc from now on; else as it is, without in a new one.
            newest: names of nodes that run Debian's newest Docker engine from their next start on.
        """
        self._newest = newest
        self._mtu = mtu
        self._gate = gate
        self.layout = Layout(name or default_name(), nodes, managers)
        self.network = network.Network(self.layout)
        self.etcd = servers.etcd(self.layout)
        self.registry_server = servers.registry(self.layout)
        self.nodes = tuple(Node(node, self.layout, self.network) for node in self.layout.node_names)
        self._say = say

    @classmethod
    def existing(cls, name: str | None = None, say: Callable[[str], None] = lambda _: None) -> Lab:
        """The lab of that name as it was last brought up.

        Raises:
            LabError: there is none.
        """
        size = _recorded(name or default_name())
        if size is None:
            raise LabError(f"there is no lab {name or default_name()!r}; bring it up first")
        return cls(name, nodes=size["nodes"], managers=size["managers"], say=say)

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def etcd_endpoint(self) -> str:
        """HOST:PORT of etcd, reachable from every node and from the machine; plain HTTP."""
        return self.layout.etcd_endpoint

    @property
    def registry(self) -> str:
        """HOST:PORT to put before an image's name."""
        return self.layout.registry

    @property
    def manager(self) -> Node:
        """The first node, which is always a manager."""
        return self.nodes[0]

    def node(self, name: str) -> Node:
        """The node called n1, n2, ...

        Raises:
            LabError: there is none of that name.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"there is no node {name!r}; there are {', '.join(self.layout.node_names)}")

    # -- up and down ------------------------------------------------------------------------------------

    def up(self) -> None:
        """Bring everything up, mending what is missing and leaving alone what is well."""
        _need_root()
        process.need(*COMMANDS, process.docker_cli())
        with self._locked():
            self._remove_surplus()
            self._place()
            self._record()
            if self._gate:
                self.layout.gate.touch()
            for name in self._newest:
                self._give_engine(self.node(name))
            self.network.ensure_hub()
            if self._mtu is not None:
                self.network.set_mtu(self._mtu)
            with ThreadPoolExecutor() as pool:
                # All waited for, then the first error raised: nothing goes on starting behind a failed `up`.
                for result in [pool.submit(self._ensure, part) for part in self._parts()]:
                    result.result()
            swarm.form(self.nodes, self.layout.managers, self._say)
            self._say(f"{len(self.nodes)} nodes ready; etcd {self.etcd_endpoint}; registry {self.registry}")

    @contextlib.contextmanager
    def anew(self) -> Iterator[Lab]:
        """While entered, have it up from nothing, whatever a run that was killed left of it; then take it away.

        Raises:
            LabError: another process has entered it.
        """
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                # An abstract name (unix(7)): it goes with its process, however that ends, and leaves no file.
                claim.bind(f"\0linkwire-lab/{self.name}")
            except OSError as error:
                message = f"another process runs its tests in lab {self.name!r}: name another with LINKWIRE_LAB"
                raise LabError(message) from error
            try:
                self.down()
                self.up()
                yield self
            finally:
                self.down()

    def down(self) -> None:
        """Take everything away."""
        _need_root()
        with self._locked():
            self._say("killing every process")
            cgroup.Group(f"{self.name}-lab").kill()
            self._say("removing namespaces, devices and data")
            self.network.remove_all()
            cgroup.Group(f"{self.name}-lab").remove()
            _unmount(self.layout.root)
            shutil.rmtree(self.layout.root, ignore_errors=True)
            if self.layout.root.exists():  # once more, loudly
                shutil.rmtree(self.layout.root)
            self._leave_machine()

    def _parts(self) -> tuple[servers.Server | Node, ...]:
        return (*self.nodes, self.etcd, self.registry_server)

    def _give_engine(self, node: Node) -> None:
        if not node.engine.exists():
            node.folder.mkdir(parents=True, exist_ok=True)
            node.engine.symlink_to(engine.newest(self._say))

    def _ensure(self, part: servers.Server | Node) -> None:
        if isinstance(part, Node):
            if not part.is_whole():
                self._say(f"{part.name}: starts dockerd at {part.address}")
                part.start()
            elif self.network.is_cut(part.name):
                self._say(f"{part.name}: heals its wire")
                self.network.set_port(part.name, up=True)
            part.configure()
        elif not part.is_up():
            self._say(f"{part.name}: starts")
            part.start()

    def _remove_surplus(self) -> None:
        """Remove the nodes of an earlier, larger lab of this name."""
        size = _recorded(self.name)
        if size is None or size["nodes"] <= len(self.nodes):
            return
        earlier = Lab(self.name, nodes=size["nodes"], managers=size["managers"])
        for node in earlier.nodes[len(self.nodes) :]:
            self._say(f"{node.name}: removed")
            node.remove()

    def _place(self) -> None:
        """Give a new lab memory for a disk, where there is plenty: image layers are many small files and fsyncs."""
        root = self.layout.root
        if _recorded(self.name) is not None:
            return
        _unmount(root)  # from an `up` that came no further than here
        if _available_memory() < PLENTY or os.environ.get("LINKWIRE_LAB_DISK") == "1":
            return
        root.mkdir(parents=True, exist_ok=True)
        process.answer(["mount", "-t", "tmpfs", "-o", "mode=755,size=50%", f"{self.name}-lab", str(root)])

    def _record(self) -> None:
        """Write the lab's size down, for those who have only its name."""
        with _state_locked():
            self.layout.root.mkdir(parents=True, exist_ok=True)
            if not DOCKER_FOLDER.exists():  # the nodes mount their own over it, so it must be there
                (STATE / "made-docker-folder").touch()
                DOCKER_FOLDER.mkdir(mode=0o710)
        fresh = _size_file(self.name).with_suffix(".new")
        fresh.write_text(json.dumps({"nodes": len(self.nodes), "managers": self.layout.managers}))
        fresh.replace(_size_file(self.name))

    def _leave_machine(self) -> None:
        """Remove what labs share, if this was the last, and the lock, which the caller holds."""
        with _state_locked():
            others = [entry for entry in STATE.iterdir() if entry.is_dir()]
            mark = STATE / "made-docker-folder"
            if mark.exists() and not others:
                with contextlib.suppress(OSError):  # not empty: the machine's own Docker uses it by now
                    DOCKER_FOLDER.rmdir()
                mark.unlink()
            (STATE / f"{self.name}.lock").unlink()
            with contextlib.suppress(OSError):  # not empty: another lab's
                STATE.rmdir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lab alone; the kernel lets go when this process ends, however it ends."""
        with self._lock_file():
            yield

    def _lock_file(self) -> TextIO:
        path = STATE / f"{self.name}.lock"
        while True:
            try:
                STATE.mkdir(parents=True, exist_ok=True)
                lock = path.open("w")
            except (FileExistsError, FileNotFoundError):  # another lab's `down`, the last so far, removes the folder
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("waits for another process that is working on this lab")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # A `down` that we waited for has removed the file: what we hold then nobody else sees.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    return lock
            lock.close()

    # -- faults -----------------------------------------------------------------------------------------

    def stop_node(self, name: str) -> None:
        """Cut the node's power: dockerd, containerd and every container process, and its namespaces."""
        with self._locked():
            self.node(name).kill()

    def start_node(self, name: str) -> None:
        """Give the node its power back; returns when its dockerd answers."""
        with self._locked():
            node = self.node(name)
            if not node.is_whole():
                node.start()

    def cut(self, name: str) -> None:
        """Cut the node off the network: its port on the bridge goes down."""
        with self._locked():
            self._running(name)
            self.network.set_port(name, up=False)

    def heal(self, name: str) -> None:
        """Undo `cut`."""
        with self._locked():
            self._running(name)
            self.network.set_port(name, up=True)

    def _running(self, name: str) -> None:
        if self.node(name).dockerd_pid is None:
            raise LabError(f"{name} is stopped")

    def set_mtu(self, mtu: int) -> None:
        """Let every wire of the lab take packets of at most so many bytes, 1280 to 65535."""
        with self._locked():
            self.network.set_mtu(mtu)

    def kill_etcd(self) -> None:
        """SIGKILL etcd."""
        with self._locked():
            self.etcd.kill()

    def restart_etcd(self) -> None:
        """SIGKILL etcd if it runs, start it on the same data, wait until it answers."""
        with self._locked():
            self.etcd.start()

    def wipe_etcd(self) -> None:
        """Start etcd with nothing in it."""
        with self._locked():
            self.etcd.wipe()
            self.etcd.start()

    # -- seeing -----------------------------------------------------------------------------------------

    def status(self) -> list[str]:
        """One line for each part, as it is found."""
        members: dict[str, str] = {}
        for node in self.nodes[: self.layout.managers]:
            if not members and node.is_up():
                members = swarm.roles(node)
        lines = []
        for node in self.nodes:
            if node.dockerd_pid is None:
                state = "stopped"
            elif not node.is_up():
                state = "not answering"
            else:
                state = "cut" if self.network.is_cut(node.name) else "up"
            lines.append(f"{node.name:10}{node.address:16}{state:15}{members.get(node.name, '')}")
        for server in (self.etcd, self.registry_server):
            address = self.etcd_endpoint if server is self.etcd else self.registry
            lines.append(f"{server.name:10}{address:24}{'up' if server.is_up() else 'stopped'}")
        return lines

    def hub_command(self, argv: list[str]) -> list[str]:
        """The command line that runs `argv` beside the bridge, where every node's packets pass."""
        return ["nsenter", f"--net={network.NETNS / self.layout.hub_netns}", "--", *argv]


@contextlib.contextmanager
def _state_locked() -> Iterator[None]:
    """Hold what all labs share: two that come up at once must not both make Docker's folder."""
    folder = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _size_file(name: str) -> Path:
    return STATE / name / "lab.json"


def _recorded(name: str) -> dict[str, Any] | None:
    try:
        size: dict[str, Any] = json.loads(_size_file(name).read_text())
    except FileNotFoundError:
        return None
    return size


def _available_memory() -> int:
    """In bytes; zero where it is not known."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _unmount(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for _ in range(mounts.count(str(folder))):
        process.answer(["umount", str(folder)])


def _need_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and starts dockerd: run it as root")
