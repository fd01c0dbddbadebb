"""Command `linkwire-etcd`: runs the stack's etcd, and opens it only after its users and roles are set.

Each start has two parts. In the first, etcd answers on loopback alone, and only to a certificate whose authority was
made for this start: ours, as the user root. When authentication is on, etcd is started again for everybody. So a
wiped etcd is at no moment open without roles. The authority's key is gone when the first part begins, and root's
certificate stays in a folder of this container's memory.

While etcd runs, its users follow the nodes of the Swarm (controller.etcd.accounts). etcd reads its trusted roots only
at its start, so it is started again when Swarm has another root. It asks for rights only when a watch begins, so it
is started again when a node was revoked: no connection outlives that.

Where etcd has several members, each has a supervisor like this one. Both parts of a start then have the other members
beside them, and the leader's supervisor alone sets users, keeps the quota and changes the cluster
(controller.etcd.cluster).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from controller.etcd import data_owner
from controller.etcd import upkeep as etcd_upkeep
from controller.etcd.accounts import Accounts, Trust
from controller.etcd.cluster import arguments
from controller.etcd.cluster.membership import Membership, Role
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
READY = "linkwire-etcd-ready"
"""File in the folder for temporary files, which is the container's own."""
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
    text = "all members of etcd where there are several, as NAME=URL that the others reach it at, comma separated"
    flags.add("--members", "LINKWIRE_ETCD_MEMBERS", "", arguments.members, text)
    flags.add("--member", "LINKWIRE_NODE_ID", "", str, "name of this member, its node's id")
    text = "certificate and key that members show each other, in one PEM file"
    flags.add("--peer-cert", "LINKWIRE_ETCD_PEER_CERT", "", Path, text)
    flags.add("--installation", "LINKWIRE_INSTALLATION", "", str, "id of the installation that owns the data")
    read = flags.parser.parse_args()
    tls = flags.tls(read)
    logging.configure(read.log_level)
    if tls is None:
        flags.parser.error("--etcd: linkwire-etcd answers on https:// only: name an https:// URL")
    try:
        with tempfile.TemporaryDirectory(prefix="linkwire-etcd-") as folder:
            _run(read, tls, prepare(Path(folder)), membership(read, tls) if read.members else None)
    except (LinkwireError, OSError) as error:
        log.error("etcd stopped", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)


def membership(read: argparse.Namespace, tls: Tls) -> Membership:
    """Return this member's place among several.

    Raises:
        Terminal: it has no certificate for the others.
    """
    if read.peer_cert is None or not read.peer_cert.is_file():
        raise Terminal("several members of etcd need LINKWIRE_ETCD_PEER_CERT, which they show each other")
    shown = Tls(tls.ca, read.peer_cert, read.peer_cert)
    own = read.members.get(read.member, "")
    return Membership(read.member, own, tuple(read.members.values()), shown, read.data, read.installation)


def _run(read: argparse.Namespace, tls: Tls, files: Files, among: Membership | None) -> None:
    """Run etcd again and again, until it ends or a signal comes. Raises LinkwireError, OSError."""
    upkeep = Upkeep(read.quota, _answer_metrics(read.metrics))
    urls = [url for url in read.etcd if among is None or arguments.host(url) == arguments.host(among.own)]
    while True:
        loopback = Tls(files.own.ca, files.server, files.server)
        member = arguments.alone(read.peer[0], loopback) if among is None else among.wait()
        if member is None:
            _say_ready()
            while True:  # Swarm would start it again
                time.sleep(LOOK_EVERY)
        common = [*arguments.common(read.data, read.quota), *member]
        # One that is not desired leaves the others, and its etcd ends.
        with suppress(Terminal) if among is not None and not among.own else nullcontext():
            trust, other = authenticate(common, files, upkeep, read.installation, among)
            if other:
                data_owner.set_aside(read.data, other)
                continue
            serve(common, files, urls, tls, trust, upkeep, among)


def prepare(folder: Path) -> Files:
    """Make the certificates of one start. Their authority's key is gone when this returns."""
    authority = CertificateAuthority("Linkwire etcd, one start", DAYS)
    written = {"ca": authority.pem, "server": authority.server([_LOOPBACK]), "root": authority.client(ROOT_USER)}
    for name, content in written.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    root = folder / "root"
    return Files(Tls(folder / "ca", root, root), folder / "server")


def authenticate(
    common: Sequence[str], files: Files, upkeep: Upkeep, installation: str = "", among: Membership | None = None
) -> tuple[Trust, str]:
    """Start etcd on loopback, check the owner of its data, set users and roles, and stop it.

    Args:
        common: arguments of both parts.
        files: of this start.
        upkeep: makes room if etcd refuses all writes.
        installation: id of the data's owner; empty for any.
        among: other members; None for the only one.

    Returns:
        Trust for `serve`; and the data's owner if that is another installation: then nothing was set.

    Raises:
        LinkwireError: etcd does not start or refuses.
    """
    port = _free_port()
    listen = arguments.listening([f"https://{_LOOPBACK}:{port}"], [], Tls(files.own.ca, files.server, files.server))
    listen += _own_metrics(upkeep)
    with _running([*common, *listen]) as process:
        line = ChannelPool([f"{_LOOPBACK}:{port}"], 5.0, files.own)
        try:
            _wait(line, process)
            if among is not None and not (role := among.role(line)).leads:
                return _follow(line, process, among, role), ""
            upkeep.mend(line)  # or nothing can be set
            if other := data_owner.claim(line, installation):
                return Trust(), other
            trust = Accounts().update(line, upkeep.barred(time.monotonic())) or Trust()
            if among is not None:
                among.confirm(role)
            return trust, ""
        finally:
            line.close()


def _follow(line: ChannelPool, process: subprocess.Popen[bytes], among: Membership, role: Role) -> Trust:
    """Wait until another member's supervisor has set users and roles; return the trust for `serve`."""
    among.confirm(role)
    deadline = time.monotonic() + STARTING
    while True:
        try:
            return Accounts().read(line, first=True) or Trust()
        except Retryable:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_EVERY)


def serve(  # noqa: PLR0917 - called once, from main
    common: Sequence[str],
    files: Files,
    urls: Sequence[str],
    tls: Tls,
    trust: Trust,
    upkeep: Upkeep,
    among: Membership | None = None,
) -> None:
    """Run etcd for all clients with a certificate and update its users, until its trust should be another one.

    Args:
        common: arguments of both parts.
        files: of this start.
        urls: for all clients.
        tls: its certificate, and the authority that it trusts besides ours and Swarm's.
        trust: of this run.
        upkeep: keeps it within its quota.
        among: other members; None for the only one.

    Raises:
        Terminal: etcd ended.
    """
    trusted = files.server.with_name("trusted")
    trusted.write_bytes(tls.read()[0] + files.own.read()[0] + "".join(trust.roots).encode())
    port = _free_port()
    listen = arguments.listening([f"https://{_LOOPBACK}:{port}"], urls, Tls(trusted, tls.cert, tls.key))
    listen += _own_metrics(upkeep)
    ends = _Ends(trust, among.turn if among else 0.0)
    accounts = Accounts()
    # Its own certificate is the only one that we trust.
    line = ChannelPool([f"{_LOOPBACK}:{port}"], 5.0, Tls(tls.cert, files.own.cert, files.own.key))
    with _running([*common, *listen]) as process, closing(line):
        _wait(line, process)
        if among is None or among.own:
            _say_ready()
        while process.poll() is None:
            leads = True
            try:
                role = among.role(line) if among else None
                leads = role is None or role.leads
                barred = upkeep.barred(time.monotonic())
                ends.hear(accounts.update(line, barred) if leads else accounts.read(line))
                if among is not None and role is not None:
                    among.look(line, role)
            except LinkwireError as error:
                log.warning("etcd users not updated, retrying", error=str(error))
            if ends.are_due():
                return
            (upkeep.look if leads else upkeep.look_own)(line, time.monotonic())
            time.sleep(LOOK_EVERY)
        raise Terminal(f"etcd ended with {process.returncode}: see its own log lines above")


class _Ends:
    """Moments at which etcd is to be started again. Members of a cluster take turns."""

    def __init__(self, trust: Trust, turn: float) -> None:
        self._trust = trust
        self._turn = turn
        self._at: dict[str, float] = {}

    def hear(self, now: Trust | None) -> None:
        """Compare the trust that etcd runs with to the one that it should have."""
        if now is None:
            return
        if now.roots != self._trust.roots:
            self._at.setdefault("roots", time.monotonic() + self._turn)
        if now.revoked - self._trust.revoked:
            self._at.setdefault("revoked", time.monotonic() + HEARD_FIRST + self._turn)
        self._trust = replace(self._trust, revoked=self._trust.revoked & now.revoked)

    def are_due(self) -> bool:
        """Tell whether etcd is to be started again now."""
        due = [why for why, at in self._at.items() if time.monotonic() >= at]
        if "roots" in due:
            log.info("Swarm root changed, restarting etcd")
        elif due:
            log.info("node revoked, ending all connections to etcd")
        return bool(due)


def _say_ready() -> None:
    """Say that this member serves, for the health check by which Swarm replaces one member after the other."""
    (Path(tempfile.gettempdir()) / READY).touch()


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
