"""Two controllers of one mesh, each a process with a way to etcd and a Docker of its own, and all that they write."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mesh.crypto.signed_envelope import peek
from mesh.identity.key_files import verify_keys_text
from mesh.model import keyspace
from mesh.model.keyspace import ROOT
from mesh.model.records import Leader
from mesh.model.vault.records import Vault
from tests.store.etcd_server import EtcdServer
from tests.store.faulty_swarm import ManagersDocker
from tests.store.proxy import Proxy
from tests.store.small_mesh import LINK_SEED, NODES, Reader, SmallMesh
from tests.store.waiting import until
from tests.support.effort import LONG
from tests.support.faults.fork_server import ForkServer, Supervised
from tests.support.signing import CLUSTER, SIGNING_KEY

ENDPOINTS = f"{ROOT}{keyspace.ENDPOINTS}"
ADDRESSES = f"{ROOT}{keyspace.ADDRESSES}"
EPOCHS = f"{ROOT}{keyspace.EPOCHS}"
MANIFEST = f"{ROOT}{keyspace.MANIFEST}"
SILENCE_S = 6.0 if LONG else 2.0
"""Seconds of silence of the leader, or of Swarm; the long form has the controllers' own."""
IDLE_S = 1.0


@dataclass
class Written:
    """One write, as etcd's history has it; `body` is None where it deletes."""

    revision: int
    key: str
    generation: int = 0
    body: dict[str, Any] | None = None


class History:
    """Every write from entering on, in etcd's own order; what any writer did in between is in it."""

    def __init__(self, endpoint: str, file: Path) -> None:
        self._endpoint, self._file = endpoint, file
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        argv = ["etcdctl", "--endpoints", self._endpoint, "watch", "--prefix", ROOT, "-w", "json"]
        with self._file.open("wb") as out:
            environment = {**os.environ, "ETCDCTL_API": "3"}
            self._process = subprocess.Popen(argv, stdout=out, env=environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def writes(self) -> Iterator[Written]:
        """Yield so far each deletion, and each write of the manifest, an endpoint, an address or an epoch."""
        lines = self._file.read_text().splitlines(keepends=True)
        for line in lines:
            if not line.endswith("\n"):
                return  # it is being written
            for event in json.loads(line)["Events"]:
                kv = event["kv"]
                key, revision = base64.b64decode(kv["key"]).decode(), int(kv["mod_revision"])
                if event.get("type"):
                    yield Written(revision, key)
                    continue
                value = base64.b64decode(kv["value"])
                if key.startswith((MANIFEST, ENDPOINTS, ADDRESSES, EPOCHS)):  # others are compressed, or not signed
                    said = peek(key.removeprefix(ROOT), value)
                    yield Written(revision, key, said.generation, json.loads(said.body))

    def wrong(self) -> list[str]:
        """Name what two writers in turn would not have done: a second key, a shared address, an older set signed."""
        keys, holders = dict[str, str](), dict[str, str | None]()
        signed, wrong = 0, list[str]()
        for write in self.writes():
            body = write.body
            if write.key == MANIFEST and body is not None:
                wrong += [f"generation {write.generation} after {signed}"] if write.generation <= signed else []
                signed = write.generation
            elif write.key.startswith(ENDPOINTS) and body is not None:
                if keys.setdefault(write.key, body["public_key"]) != body["public_key"]:
                    wrong.append(f"{write.key}: two keys")
            elif write.key.startswith(ADDRESSES):
                holder = body["holder"] if body is not None else "free"
                before = holders.get(write.key, "free")
                if holder not in ("free", None) and before != "free":
                    wrong.append(f"{write.key}: {before} -> {holder}")
                holders[write.key] = holder
        return wrong

    def epochs(self) -> list[int]:
        """List the epochs of link keys that began."""
        return [write.body["epoch"] for write in self.writes() if write.key.startswith(EPOCHS) and write.body]

    def suspects(self) -> list[str]:
        """List the endpoints that were ever suspect."""
        endpoints = (write for write in self.writes() if write.key.startswith(ENDPOINTS) and write.body)
        return [write.key for write in endpoints if write.body and write.body.get("suspect")]

    def signs(self) -> int:
        """Count the signatures of the whole set."""
        return sum(write.key == MANIFEST for write in self.writes())


@dataclass
class Candidate:
    """A controller with what only it uses.

    Attributes:
        docker: the manager that it asks.
        way: to etcd.
        process: the controller itself.
    """

    name: str
    docker: ManagersDocker
    way: Proxy
    process: Supervised

    def stop(self) -> None:
        """Have it do nothing at all, in the middle of whatever it does."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo `stop`."""
        os.kill(self.process.pid, signal.SIGCONT)

    def wait_idle(self) -> None:
        """Wait until it has said nothing for a while: it waits for no answer of etcd's then."""
        before, since = "", time.monotonic()
        while time.monotonic() - since < IDLE_S:
            if (now := self.process.log()) != before:
                before, since = now, time.monotonic()
            time.sleep(0.05)

    def said(self, text: str) -> int:
        """How often its log has a text."""
        return self.process.log().count(text)


@dataclass
class Pair:
    """A store, two nodes that report, and two controllers.

    Attributes:
        first: it leads when this is made.
        second: it stands by.
        history: all writes.
    """

    first: Candidate
    second: Candidate
    history: History
    readers: tuple[Reader, ...]

    def leader(self) -> str:
        """Name the controller that the store says leads; empty for none."""
        found = self.readers[0].store.load((keyspace.LEADER,)).get(keyspace.LEADER, Leader)
        return found.holder if found is not None else ""

    def heirs(self) -> set[str]:
        """Name the nodes whose controllers can open the vault."""
        vault = self.readers[0].store.load((keyspace.VAULT,)).get(keyspace.VAULT, Vault)
        return {box.node for box in vault.boxes} if vault is not None else set()

    def start_task(self, *candidates: Candidate) -> str:
        """Start a task in the eyes of some controllers' managers, of both without any; return its id."""
        (task, *_) = [one.docker.start("web") for one in candidates or (self.first, self.second)]
        return task

    def has(self, task: str) -> bool:
        """Whether the task has its place in the store."""
        key = keyspace.endpoint("#web", task)
        return bool(self.readers[0].store.load((key,)).revision_of(key))

    def seconds_until_written(self, task: str, seconds: float) -> float:
        """Wait until a task has its place; return for how long."""
        began = time.monotonic()
        until(lambda: self.has(task), seconds)
        return time.monotonic() - began


@dataclass(frozen=True)
class Place:
    """What all pairs share."""

    etcd: EtcdServer
    servers: tuple[ForkServer, ForkServer]
    folder: Path


@contextmanager
def place(folder: Path, environments: tuple[dict[str, str], dict[str, str]] = ({}, {})) -> Iterator[Place]:
    """Start etcd and what controllers are forked from; `environments` has more variables for the first and second."""
    (folder / "etcd").mkdir()
    (folder / "keys").write_text(verify_keys_text(CLUSTER, [SIGNING_KEY.verify_key]))
    (folder / "signing").write_text(SIGNING_KEY.raw.hex())
    (folder / "link").write_text(LINK_SEED.raw.hex())
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdServer(folder / "etcd"))
        servers = [ForkServer("tests.store.faulty_controller", more) for more in environments]
        for server in servers:
            stack.callback(server.close)
        yield Place(etcd, (servers[0], servers[1]), folder)


@contextmanager
def pair(where: Place, folder: Path) -> Iterator[Pair]:
    """Start the first, have it lead and write, and start the second."""
    where.etcd.delete_all(ROOT)
    mesh = SmallMesh(where.etcd.endpoint, ROOT, folder)
    with ExitStack() as stack:
        history = stack.enter_context(History(where.etcd.endpoint, folder / "history"))
        readers = tuple(stack.enter_context(mesh.reader(node)) for node in NODES)
        made = []
        for name, server in zip(("first", "second"), where.servers, strict=True):
            docker = stack.enter_context(ManagersDocker(folder / f"{name}.sock"))
            way = stack.enter_context(Proxy(where.etcd.port))
            docker.begin()
            process = Supervised(server, _order(where, folder, name, way.endpoint, docker.url))
            stack.callback(process.kill)
            stack.callback(docker.answers.set)
            made.append(Candidate(name, docker, way, process))
        first, second = made
        both = Pair(first, second, history, readers)
        first.process.start()
        until(lambda: all(reader.verified() for reader in readers) and both.leader() == "first", 20)
        second.process.start()
        until(lambda: NODES[1] in both.heirs(), 20)  # it can do the first one's work
        both.seconds_until_written(both.start_task(), 20)
        yield both


def _order(where: Place, folder: Path, name: str, etcd: str, docker: str) -> dict[str, Any]:
    node = NODES[0] if name == "first" else NODES[1]
    arguments = [
        *("--etcd", etcd, "--docker", docker, "--subnet", "10.1.0.0/16"),
        *("--verify-keys", str(where.folder / "keys"), "--signing-seed", str(where.folder / "signing")),
        *("--link-seed", str(where.folder / "link"), "--name", name, "--metrics", "off"),
        *("--node", node, "--own-key", str(folder / f"own-{name}" / "key")),
    ]
    files = {"log": str(folder / f"{name}.log"), "calls": str(folder / f"{name}.calls")}
    return {**files, "arguments": arguments, "silence": SILENCE_S}
