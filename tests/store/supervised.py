"""Several `linkwire-etcd` on loopback, each at an address of its own, started again when they end, as Swarm does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from controller.etcd.server import READY
from mesh.identity.ca import CertificateAuthority
from mesh.identity.etcd_users import MEMBER
from mesh.identity.tls import Tls
from mesh.store.etcd_channel import ChannelPool
from mesh.store.etcd_member import EtcdMember
from mesh.store.members import members
from tests.store.etcd_server import free_port
from tests.store.secured import CLUSTER
from tests.store.waiting import until

HOSTS = {"a": "127.0.0.2", "b": "127.0.0.3", "c": "127.0.0.4", "d": "127.0.0.5"}
START_S = 60.0
_AGAIN_S = 1.0


@dataclass
class Member:
    """One supervisor, with its folder."""

    name: str
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    is_wanted: bool = False
    process: subprocess.Popen[bytes] | None = None
    ended_at: float = float("-inf")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def is_ready(self) -> bool:
        """As its health check says."""
        return self.process is not None and (self.folder / "tmp" / READY).exists()

    def logged(self) -> str:
        return (self.folder / "log").read_text() if (self.folder / "log").exists() else ""


class Supervised:
    """Supervisors of one etcd, and their clients' certificates."""

    def __init__(self, folder: Path, quota: int | None = None) -> None:
        self.folder = folder
        self.port, self.peer_port = free_port(), free_port()
        self.authority = CertificateAuthority("test")
        self.quota = quota
        self._issue("ca", self.authority.pem)
        self._issue("server", self.authority.server([*HOSTS.values(), "127.0.0.1"]))
        self._issue("peer", self.authority.member(MEMBER, [*HOSTS.values(), "127.0.0.1"]))
        self.members = {name: Member(name, folder / name) for name in HOSTS}
        for member in self.members.values():
            (member.folder / "tmp").mkdir(parents=True)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._keeper.join()
        for member in self.members.values():
            self._end(member, signal.SIGKILL)

    def tls(self, user: str) -> Tls:
        """What a client shows that is this user."""
        if not (self.folder / user).exists():
            self._issue(user, self.authority.client(user))
        return Tls(self.folder / "ca", self.folder / user, self.folder / user)

    def targets(self, names: Iterable[str]) -> list[str]:
        return [f"{HOSTS[name]}:{self.port}" for name in names]

    def line(self, *names: str, user: str = "controller") -> closing[ChannelPool]:
        return closing(ChannelPool(self.targets(names), 3.0, self.tls(user), CLUSTER))

    def deploy(self, name: str, desired: Sequence[str]) -> None:
        """Start one supervisor anew, for these members; without any as an only one."""
        member = self.members[name]
        self._end(member, signal.SIGTERM)
        several = {
            "LINKWIRE_ETCD_MEMBERS": ",".join(f"{one}=https://{HOSTS[one]}:{self.peer_port}" for one in desired),
            "LINKWIRE_ETCD_PEER_CERT": str(self.folder / "peer"),
        }
        server = str(self.folder / "server")
        with self._lock:
            member.settings = {
                "LINKWIRE_ETCD": ",".join(f"https://{target}" for target in self.targets(desired or name)),
                "LINKWIRE_ETCD_CA": str(self.folder / "ca"),
                "LINKWIRE_ETCD_CERT": server,
                "LINKWIRE_ETCD_KEY": server,
                "LINKWIRE_ETCD_DATA": str(member.data),
                "LINKWIRE_ETCD_METRICS": "off",
                "LINKWIRE_ETCD_PEER": f"https://127.0.0.1:{self.peer_port}",
                "LINKWIRE_INSTALLATION": "1" * 32,
                "LINKWIRE_NODE_ID": name,
                "TMPDIR": str(member.folder / "tmp"),
                **(several if desired else {}),
                **({"LINKWIRE_ETCD_QUOTA": str(self.quota)} if self.quota else {}),
            }
            member.is_wanted = True

    def roll(self, names: Sequence[str], desired: Sequence[str]) -> None:
        """Deploy one after the other, the next when one is ready, as Swarm updates a service."""
        for name in names:
            self.deploy(name, desired)
            self.wait_ready(name)

    def wait_ready(self, *names: str) -> None:
        until(lambda: all(self.members[name].is_ready for name in names), START_S)

    def kill(self, name: str, *, stays: bool = False) -> None:
        """Kill a supervisor with its etcd, as a power cut would; it is started again, unless it stays away."""
        with self._lock:
            self.members[name].is_wanted = not stays
        self._end(self.members[name], signal.SIGKILL)

    def wipe(self, name: str) -> None:
        """Kill one, and start it on a new disk."""
        self.kill(name, stays=True)
        shutil.rmtree(self.members[name].data)
        with self._lock:
            self.members[name].is_wanted = True

    def listed(self, *names: str) -> tuple[EtcdMember, ...]:
        """As a client sees members, each asked at its endpoint."""
        return members(self.targets(names), self.tls("controller"), CLUSTER)

    def wait_members(self, *names: str) -> None:
        """Wait until these answer clients, one of them leads, and they are all of the cluster."""

        def complete() -> bool:
            found = self.listed(*names)
            return not any(one.problem for one in found) and sum(one.is_leader for one in found) == 1

        until(complete, START_S)

    def leader(self, *names: str) -> str:
        found = self.listed(*names)
        return next(name for name, one in zip(names, found, strict=True) if one.is_leader)

    def logged(self, text: str) -> int:
        """How often all of them logged a text."""
        return sum(member.logged().count(text) for member in self.members.values())

    def tail(self) -> str:
        """The end of each log, for an assertion."""
        ours = {
            name: [line for line in one.logged().splitlines() if '"event"' in line]
            for name, one in self.members.items()
        }
        return "\n".join(f"{name}: {line}" for name, lines in ours.items() for line in lines[-6:])

    def _issue(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def _keep(self) -> None:
        """Start what is wanted and does not run, from one thread, with which all would end."""
        while not self._over.wait(0.1):
            with self._lock:
                for member in self.members.values():
                    if member.process is not None and member.process.poll() is not None:
                        self._reap(member)
                    again = time.monotonic() > member.ended_at + _AGAIN_S
                    if member.is_wanted and member.process is None and again:
                        self._start(member)

    @staticmethod
    def _start(member: Member) -> None:
        (member.folder / "tmp" / READY).unlink(missing_ok=True)
        command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "controller.etcd.server"]
        with (member.folder / "log").open("ab") as log:
            environment = {**os.environ, **member.settings}
            member.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self, member: Member, how: signal.Signals) -> None:
        with self._lock:
            member.is_wanted, process = member.is_wanted and how is signal.SIGKILL, member.process
            if process is None:
                return
            if how is signal.SIGTERM:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
            self._reap(member)

    @staticmethod
    def _reap(member: Member) -> None:
        assert member.process is not None
        with suppress(ProcessLookupError):
            os.killpg(member.process.pid, signal.SIGKILL)
        member.process.wait()
        member.process, member.ended_at = None, time.monotonic()
