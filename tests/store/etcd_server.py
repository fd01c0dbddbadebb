"""A real etcd of one member on loopback, which tests start, kill, restart and wipe by its own pid."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from mesh.identity.ca import CertificateAuthority
from mesh.identity.tls import Tls
from mesh.store.etcd_channel import ChannelPool
from tests.support.patience import slowness

STARTS_WITHIN = 20.0  # seconds


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _issued(folder: Path) -> Tls:
    authority = CertificateAuthority("test")
    (folder / "server").write_bytes(authority.server(["127.0.0.1"]))
    for name, content in (("ca", authority.pem), ("client", authority.client("test"))):
        (folder / name).write_bytes(content)
    return Tls(folder / "ca", folder / "client", folder / "client")


class EtcdServer:
    """One etcd with its data under `folder`, on the same ports for as long as the object lives.

    It dies with the thread that started it, so that a test run that is killed leaves none behind.
    """

    def __init__(self, folder: Path, *, secure: bool = False, arguments: tuple[str, ...] = ()) -> None:
        """Prepare it; `secure` with mutual TLS, by an authority of its own; `arguments` are etcd's."""
        self._arguments = arguments
        for program in ("etcd", "etcdctl", "setpriv"):
            if shutil.which(program) is None:
                raise RuntimeError(f"{program} is not installed: run deploy/bootstrap.sh")
        self._folder = folder
        self._data = folder / "data"
        self._port = free_port()
        self._peer_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.tls = _issued(folder) if secure else None
        """What a client shows, and whom it trusts; None in clear."""

    @property
    def endpoint(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.target}"

    @property
    def target(self) -> str:
        """The same without a scheme."""
        return f"127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        """The pid of the running etcd."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill9()

    def start(self) -> None:
        """Start it and wait until it answers."""
        peer = f"http://127.0.0.1:{self._peer_port}"
        command = ["setpriv", "--pdeathsig", "KILL", "etcd", "--name", "one", "--data-dir", str(self._data)]
        command += ["--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"one={peer}", "--logger", "zap", "--log-level", "error"]
        command += self._arguments
        if self.tls is not None:
            server = str(self._folder / "server")
            command += ["--cert-file", server, "--key-file", server]
            command += ["--client-cert-auth", "--trusted-ca-file", str(self.tls.ca)]
        with (self._folder / "etcd.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + STARTS_WITHIN * slowness()
        while self._ctl("endpoint", "health", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"etcd did not start: {(self._folder / 'etcd.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill9(self) -> None:
        """Kill it as a power cut would, so far as a process can be."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10 * slowness())
            self._process = None

    def restart(self) -> None:
        """Kill it and start it on the same data."""
        self.kill9()
        self.start()

    def wipe(self) -> None:
        """Kill it and start it with no data: its revisions begin again."""
        self.kill9()
        shutil.rmtree(self._data)
        self.start()

    def compact(self) -> None:
        """Forget all history."""
        status = self._ctl("get", "--prefix", "--limit=1", "-w", "fields", "/").stdout
        revision = next(line.split(":")[1].strip() for line in status.splitlines() if '"Revision"' in line)
        self._ctl("compact", "--physical", revision)

    def put(self, key: str, value: str) -> None:
        """Write a value past the code under test."""
        self._ctl("put", "--", key, value)

    def put_bytes(self, key: bytes, value: bytes) -> None:
        """Write what need not be text, key or value."""
        if self.tls is not None:  # etcd's gateway has no certificate of a client
            line = ChannelPool([self.target], 5.0, self.tls, key)
            with contextlib.closing(line), line.use() as link:
                assert link.commit([], [(key, value, 0)], [])
            return
        body = {"key": base64.b64encode(key).decode(), "value": base64.b64encode(value).decode()}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        with contextlib.closing(connection):
            connection.request("POST", "/v3/kv/put", json.dumps(body))
            assert connection.getresponse().status == http.HTTPStatus.OK

    def delete(self, key: str) -> None:
        """Delete a key past the code under test."""
        self._ctl("del", "--", key)

    def delete_all(self, prefix: str) -> None:
        """Delete all keys below a prefix past the code under test."""
        self._ctl("del", "--prefix", "--", prefix)

    def keys(self, prefix: str) -> dict[str, bytes]:
        """All keys under a prefix with their values, as etcdctl tells it."""
        found = json.loads(self._ctl("get", "--prefix", "-w", "json", "--", prefix).stdout)
        return {
            base64.b64decode(kv["key"]).decode(): base64.b64decode(kv.get("value", "")) for kv in found.get("kvs", ())
        }

    def _ctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["etcdctl", "--endpoints", self.endpoint, "--command-timeout", "5s"]
        if self.tls is not None:
            command += ["--cacert", str(self.tls.ca), "--cert", str(self.tls.cert), "--key", str(self.tls.key)]
        command += words
        return subprocess.run(
            command, check=check, capture_output=True, text=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        )
