"""`linkwire-etcd`: starts the stack's etcd, and lets nobody in before its users and roles are set.

Each start, on old data or none, has two parts. In the first etcd answers on loopback alone, and only to a certificate
whose authority was made for this start: ours, as the user root. When authentication is on, etcd is started once more,
for everybody. So a wiped etcd is at no moment one without roles, and no certificate of root is kept anywhere.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from mesh import log as logging
from mesh import memory
from mesh.certificates import Authority
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.etcd import Line
from mesh.etcd_roles import establish, grants
from mesh.etcd_users import ROOT_USER
from mesh.flags import Flags, endpoints
from mesh.tls import Tls

log = structlog.get_logger(__name__)

STARTING = 60.0
"""Seconds for etcd to answer on its data; a large store takes some to be read."""
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Files:
    """Certificates made for one start, in a folder that ends with the container."""

    own: Tls
    """To ask as root, over loopback."""
    server: Path
    """Key and certificate for loopback, for clients in the first part and members in both."""


def main() -> None:
    """Set etcd's users up, then become etcd."""
    memory.protect()
    flags = Flags("linkwire-etcd", "Starts etcd with Linkwire's users and roles.", os.environ)
    flags.add_common()
    flags.add("--data", "LINKWIRE_ETCD_DATA", "/var/lib/etcd", Path, "folder for etcd's data")
    flags.add("--peer", "LINKWIRE_ETCD_PEER", f"https://{_LOOPBACK}:2380", endpoints, "where its one member listens")
    read = flags.parser.parse_args()
    tls = flags.tls(read)
    logging.configure(read.log_level)
    if tls is None:
        flags.parser.error("linkwire-etcd answers on https:// only: say so in --etcd")
    try:
        with tempfile.TemporaryDirectory(prefix="linkwire-etcd-") as folder:
            files = prepare(Path(folder))
            common = [*_member(read.data, read.peer[0]), *_peers(files)]
            authenticate(common, files)
            tls.read()
            _become([*common, *serving(read.etcd, tls)])
    except (LinkwireError, OSError) as error:
        log.error("etcd does not start", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)


def prepare(folder: Path) -> Files:
    """Make the certificates of one start. Their authority's key is gone when this returns."""
    authority = Authority("Linkwire etcd, one start")
    written = {"ca": authority.pem, "server": authority.server([_LOOPBACK]), "root": authority.client(ROOT_USER)}
    for name, content in written.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    root = folder / "root"
    return Files(Tls(folder / "ca", root, root), folder / "server")


def authenticate(common: Sequence[str], files: Files) -> None:
    """Start etcd where only we reach it, set users and roles, stop it.

    Raises:
        LinkwireError: etcd does not start or does not do it.
    """
    port = _free_port()
    url = f"https://{_LOOPBACK}:{port}"
    own = str(files.server)
    listen = [f"--listen-client-urls={url}", f"--advertise-client-urls={url}", f"--cert-file={own}"]
    listen += [f"--key-file={own}", f"--trusted-ca-file={files.own.ca}", "--client-cert-auth"]
    with _running([*common, *listen]) as process:
        line = Line([f"{_LOOPBACK}:{port}"], 5.0, files.own)
        try:
            _wait(line, process)
            with line.use() as link:
                establish(link, grants())
        finally:
            line.close()
    log.info("etcd's users and roles are set")


def serving(urls: Sequence[str], tls: Tls) -> list[str]:
    """Arguments of an etcd for everybody who has a certificate."""
    listed = ",".join(urls)
    return [
        f"--listen-client-urls={listed}",
        f"--advertise-client-urls={listed}",
        f"--cert-file={tls.cert}",
        f"--key-file={tls.key}",
        f"--trusted-ca-file={tls.ca}",
        "--client-cert-auth",
    ]


def _member(data: Path, peer: str) -> list[str]:
    return [
        "etcd",
        "--name=linkwire",
        f"--data-dir={data}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=linkwire={peer}",
        "--auto-compaction-retention=1h",
        # It would ask in the server's name (CVE-2018-16886), and nobody here speaks JSON.
        "--enable-grpc-gateway=false",
        "--logger=zap",
    ]


def _peers(files: Files) -> list[str]:
    own = str(files.server)
    options = [f"--peer-cert-file={own}", f"--peer-key-file={own}", f"--peer-trusted-ca-file={files.own.ca}"]
    return [*options, "--peer-client-cert-auth"]


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """An etcd that ends with us, however we end."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
        process.terminate()
        process.wait(STARTING)
    finally:
        process.kill()
        process.wait()
        signal.signal(signal.SIGTERM, before)


def _wait(line: Line, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTING
    while True:
        try:
            with line.use() as link:
                # A second time: `root` may read nothing on an etcd that lost its role, and answers even then.
                link.ask(b"\0")
        except Retryable as error:
            if process.poll() is not None:
                raise Terminal(f"etcd ended with {process.returncode}; it said why above") from None
            if time.monotonic() > deadline:
                raise Terminal(f"etcd does not answer: {error}") from None
            time.sleep(0.05)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _become(command: Sequence[str]) -> NoReturn:
    os.execvp(command[0], list(command))  # noqa: S606 - etcd takes this process's place, and Docker's signals


if __name__ == "__main__":
    main()
