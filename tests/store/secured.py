"""A `linkwire-etcd` as the stack runs it, with the files around it, and certificates to show to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import LinkwireError, Retryable
from mesh.identity.ca import CertificateAuthority
from mesh.identity.tls import Tls
from mesh.model import keyspace
from mesh.store.etcd_channel import ChannelPool
from tests.store.etcd_server import free_port

ROOT = keyspace.ROOT.encode()
CLUSTER = ROOT + b"cluster"


@dataclass
class Secured:
    """A running `linkwire-etcd` and the files around it."""

    folder: Path
    port: int
    authority: CertificateAuthority
    process: subprocess.Popen[bytes] | None = None
    installation: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    """More variables for it."""

    def issue(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def tls(self, user: str) -> Tls:
        own = self.folder / user
        if not own.exists():
            self.issue(user, self.authority.client(user))
        return Tls(self.folder / "ca", own, own)

    def line(self, tls: Tls | None) -> ChannelPool:
        return ChannelPool([f"127.0.0.1:{self.port}"], 3.0, tls, CLUSTER)

    @classmethod
    def made(cls, folder: Path) -> Secured:
        """With everything that it needs, and not started."""
        one = cls(folder, free_port(), CertificateAuthority("test"))
        (folder / "tmp").mkdir()
        one.issue("ca", one.authority.pem)
        one.issue("server", one.authority.server(["127.0.0.1"]))
        return one

    def start(self) -> None:
        server = str(self.folder / "server")
        settings = {
            "LINKWIRE_ETCD": f"https://127.0.0.1:{self.port}",
            "LINKWIRE_ETCD_CA": str(self.folder / "ca"),
            "LINKWIRE_ETCD_CERT": server,
            "LINKWIRE_ETCD_KEY": server,
            "LINKWIRE_ETCD_DATA": str(self.folder / "data"),
            "LINKWIRE_INSTALLATION": self.installation,
            "TMPDIR": str(self.folder / "tmp"),
            "LINKWIRE_ETCD_METRICS": "off",
            "LINKWIRE_ETCD_PEER": f"https://127.0.0.1:{free_port()}",
        }
        with (self.folder / "log").open("ab") as log:
            command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "controller.etcd.server"]
            environment = {**os.environ, **settings, **self.settings}
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while True:
            with closing(self.line(self.tls("controller"))) as line:
                try:
                    with line.use() as link:
                        link.ask(CLUSTER)
                        return
                except Retryable:
                    assert self.process.poll() is None, self.logged()[-2000:]
                    assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        """As a container ends that is killed: with all that runs in it."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def logged(self) -> str:
        return (self.folder / "log").read_text()


def write(line: ChannelPool, key: bytes, value: bytes = b"x") -> str:
    """Put something under a key: `written`, or what etcd says."""
    try:
        with line.use() as link:
            return "written" if link.commit([], [(key, value, 0)], []) else "not"
    except LinkwireError as error:
        return str(error)
