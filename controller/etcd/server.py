"""Command `linkwire-etcd`: runs the stack's etcd, and opens it only after its users and roles are set.

Each start has two parts. In the first, etcd answers on loopback alone, and only to a certificate whose authority was
made for this start: ours, as the user root. When authentication is on, etcd is started again for everybody. So a
wiped etcd is at no moment open without roles. The authority's key is gone when the first part begins, and root's
certificate stays in a folder of this container's memory.

While etcd runs, its users follow the nodes of the Swarm (controller.etcd.accounts). etcd reads its trusted roots only
at its start, so it is started again when Swarm has another root. It asks for rights only when a watch begins, so it
is started again when a node was revoked: no connection outlives that.
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
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from controller.etcd import owner
from controller.etcd import upkeep as etcd_upkeep
from controller.etcd.accounts import Accounts, Trust
from controller.etcd.upkeep import Upkeep
from controller.reporting.etcd_metrics import EtcdMetrics
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.identity.ca import CertificateAuthority
from mesh.identity.etcd_users import ROOT_USER
from mesh.identity.tls import Tls
from mesh.process import hardening, metrics_page
from mesh.process import log_setup as logging
from mesh.process.options import Options, endpoints, listen, number
from mesh.store.etcd_channel import ChannelPool

log = structlog.get_logger(__name__)

STARTING = 60.0
"""Seconds for etcd to answer: it reads a large store first."""
LOOK_EVERY = 1.0
"""Seconds between two checks of etcd's users."""
HEARD_FIRST = 2.0
"""Seconds from the end of a revoked node's user to that of all connections: the others hear of it first."""
DAYS = 3650
"""Validity of root's certificate: longer than any start lasts."""
LEAST_QUOTA, MOST_QUOTA = 4 * 1024**2, 8 * 1024**3
"""Bytes; etcd warns of a quota above the second (etcdserver/backend.go)."""
_LOOPBACK = "127.0.0.1"
_STOPPING = 10.0


@dataclass(frozen=True, slots=True)
class Files:
    """Certificates of one start, in a folder that ends with the container."""

    own: Tls
    """For requests as root, over loopback."""
    server: Path
    """Key and certificate for loopback: for clients in the first part, for members in both."""


def main() -> None:
    """Run etcd until it ends or a signal comes."""
    hardening.protect()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    flags = Options("linkwire-etcd", "Starts etcd with Linkwire's users and roles.", os.environ)
    flags.add_common()
    flags.add("--data", "LINKWIRE_ETCD_DATA", "/var/lib/etcd", Path, "folder of etcd's data")
    flags.add(
        "--peer",
        "LINKWIRE_ETCD_PEER",
        f"https://{_LOOPBACK}:2380",
        endpoints,
        "URL that etcd's only member listens on",
    )
    quota, text = number(LEAST_QUOTA, MOST_QUOTA, "bytes"), "bytes at which etcd refuses all writes"
    flags.add("--quota", "LINKWIRE_ETCD_QUOTA", str(etcd_upkeep.QUOTA), quota, text)
    flags.add(
        "--metrics",
        "LINKWIRE_ETCD_METRICS",
        "127.0.0.1:9588",
        listen,
        "where Prometheus may scrape, HOST:PORT, or off",
    )
    flags.add("--installation", "LINKWIRE_INSTALLATION", "", str, "id of the installation that owns the data")
    read = flags.parser.parse_args()
    tls = flags.tls(read)
    logging.configure(read.log_level)
    if tls is None:
        flags.parser.error("--etcd: linkwire-etcd answers on https:// only: name an https:// URL")
    try:
        with tempfile.TemporaryDirectory(prefix="linkwire-etcd-") as folder:
            files = prepare(Path(folder))
            common = [*_member(read.data, read.peer[0], read.quota), *_peers(files)]
            upkeep = Upkeep(read.quota, _answer_metrics(read.metrics))
            while True:
                trust, other = authenticate(common, files, upkeep, read.installation)
                if other:
                    owner.set_aside(read.data, other)
                    continue
                serve(common, files, read.etcd, tls, trust, upkeep)
    except (LinkwireError, OSError) as error:
        log.error("etcd stopped", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)


def prepare(folder: Path) -> Files:
    """Make the certificates of one start. Their authority's key is gone when this returns."""
    authority = CertificateAuthority("Linkwire etcd, one start", DAYS)
    written = {"ca": authority.pem, "server": authority.server([_LOOPBACK]), "root": authority.client(ROOT_USER)}
    for name, content in written.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    root = folder / "root"
    return Files(Tls(folder / "ca", root, root), folder / "server")


def authenticate(common: Sequence[str], files: Files, upkeep: Upkeep, installation: str = "") -> tuple[Trust, str]:
    """Start etcd on loopback, check the owner of its data, set users and roles, and stop it.

    Args:
        common: arguments of both parts.
        files: of this start.
        upkeep: makes room if etcd refuses all writes.
        installation: id of the data's owner; empty for any.

    Returns:
        Trust for `serve`; and the data's owner if that is another installation: then nothing was set.

    Raises:
        LinkwireError: etcd does not start or refuses.
    """
    port = _free_port()
    listen = _listening([f"https://{_LOOPBACK}:{port}"], [], Tls(files.own.ca, files.server, files.server))
    listen += _own_metrics(upkeep)
    with _running([*common, *listen]) as process:
        line = ChannelPool([f"{_LOOPBACK}:{port}"], 5.0, files.own)
        try:
            _wait(line, process)
            upkeep.mend(line)  # or nothing can be set
            if other := owner.claim(line, installation):
                return Trust(), other
            return Accounts().update(line, upkeep.barred(time.monotonic())) or Trust(), ""
        finally:
            line.close()


def serve(  # noqa: PLR0917 - called once, from main
    common: Sequence[str], files: Files, urls: Sequence[str], tls: Tls, trust: Trust, upkeep: Upkeep
) -> None:
    """Run etcd for all clients with a certificate and update its users, until its trust should be another one.

    Args:
        common: arguments of both parts.
        files: of this start.
        urls: for all clients.
        tls: its certificate, and the authority that it trusts besides ours and Swarm's.
        trust: of this run.
        upkeep: keeps it within its quota.

    Raises:
        Terminal: etcd ended.
    """
    trusted = files.server.with_name("trusted")
    trusted.write_bytes(tls.read()[0] + files.own.read()[0] + "".join(trust.roots).encode())
    port = _free_port()
    listen = _listening([f"https://{_LOOPBACK}:{port}"], urls, Tls(trusted, tls.cert, tls.key))
    listen += _own_metrics(upkeep)
    accounts, ends_at = Accounts(), float("inf")
    # Its own certificate is the only one that we trust.
    line = ChannelPool([f"{_LOOPBACK}:{port}"], 5.0, Tls(tls.cert, files.own.cert, files.own.key))
    with _running([*common, *listen]) as process, closing(line):
        _wait(line, process)
        while process.poll() is None:
            try:
                now = accounts.update(line, upkeep.barred(time.monotonic())) or trust
                if now.roots != trust.roots:
                    log.info("Swarm root changed, restarting etcd")
                    return
                if now.revoked - trust.revoked:
                    ends_at = min(ends_at, time.monotonic() + HEARD_FIRST)
                trust = replace(trust, revoked=trust.revoked & now.revoked)
            except LinkwireError as error:
                log.warning("etcd users not updated, retrying", error=str(error))
            if time.monotonic() >= ends_at:
                log.info("node revoked, ending all connections to etcd")
                return
            upkeep.look(line, time.monotonic())
            time.sleep(LOOK_EVERY)
        raise Terminal(f"etcd ended with {process.returncode}: see its own log lines above")


def _answer_metrics(address: tuple[str, int] | None) -> EtcdMetrics | None:
    """Serve metrics from now on. A port that is taken does not stop etcd."""
    if address is None:
        return None
    metrics = EtcdMetrics()
    metrics_page.serve(metrics.registry, address)
    return metrics


def _own_metrics(upkeep: Upkeep) -> list[str]:
    """Return the arguments that have this start's etcd answer for the page; none where there is no page."""
    return upkeep.metrics.follow(_free_port()) if upkeep.metrics is not None else []


def _listening(own: Sequence[str], urls: Sequence[str], tls: Tls) -> list[str]:
    return [
        f"--listen-client-urls={','.join([*own, *urls])}",
        f"--advertise-client-urls={','.join(urls or own)}",
        f"--cert-file={tls.cert}",
        f"--key-file={tls.key}",
        f"--trusted-ca-file={tls.ca}",
        "--client-cert-auth",
    ]


def _member(data: Path, peer: str, quota: int) -> list[str]:
    return [
        "etcd",
        "--name=linkwire",
        f"--data-dir={data}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=linkwire={peer}",
        f"--auto-compaction-retention={etcd_upkeep.HISTORY}",
        f"--quota-backend-bytes={quota}",
        # It would act in the server's name (CVE-2018-16886), and no client of ours speaks JSON.
        "--enable-grpc-gateway=false",
        "--logger=zap",
    ]


def _peers(files: Files) -> list[str]:
    own = str(files.server)
    options = [f"--peer-cert-file={own}", f"--peer-key-file={own}", f"--peer-trusted-ca-file={files.own.ca}"]
    return [*options, "--peer-client-cert-auth"]


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run an etcd that ends with this process, however it ends."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOPPING)
        finally:
            process.kill()
            process.wait()


def _wait(line: ChannelPool, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTING
    while True:
        try:
            with line.use() as link:
                # `root` may have lost its role and read nothing, but etcd answers even then.
                link.ask(b"\0")
        except Retryable as error:
            if process.poll() is not None:
                raise Terminal(f"etcd ended with {process.returncode}: see its own log lines above") from None
            if time.monotonic() > deadline:
                raise Terminal(f"etcd does not answer: {error}") from None
            time.sleep(0.05)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
