"""A real etcd of three members on loopback, and a client's writes and watch while members break."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mesh.errors import LinkwireError
from mesh.identity.tls import Tls
from mesh.store.etcd_channel import ChannelPool
from mesh.store.watch_stream import Ranges, WatchStream
from tests.store.etcd_server import EtcdServer, free_port

NAMES = ("a", "b", "c")
ROOT = b"/linkwire/v1/"
PREFIX = b"vitals/"


@contextmanager
def three_members(folder: Path) -> Iterator[tuple[EtcdServer, ...]]:
    """Run a cluster of three members."""
    peers = {name: f"http://127.0.0.1:{free_port()}" for name in NAMES}
    cluster = ",".join(f"{name}={peer}" for name, peer in peers.items())
    servers = []
    for name, peer in peers.items():
        own = ("--name", name, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer)
        (folder / name).mkdir()
        servers.append(EtcdServer(folder / name, arguments=(*own, "--initial-cluster", cluster)))
    # Each dies with the thread that starts it, and answers only with another.
    with ThreadPoolExecutor(max_workers=len(NAMES)) as threads:
        list(threads.map(EtcdServer.start, servers))
        yield tuple(servers)
        for server in servers:
            server.kill9()


class Traffic:
    """Writes without pause, and a watch of them, both as an agent's; each begins again after an error."""

    def __init__(self, targets: Sequence[str], tls: Tls | None = None, timeout: float = 5.0) -> None:
        self.acknowledged: dict[int, float] = {}
        """Number written -> when etcd had confirmed it."""
        self.seen: dict[int, float] = {}
        """Number -> when the watch had it."""
        self.errors: list[str] = []
        self._line = ChannelPool(targets, timeout, tls, ROOT + b"cluster")
        self._stream = WatchStream(targets, timeout, Ranges.of(ROOT, [PREFIX]), tls)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._watch)]
        self.begun = time.monotonic()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._threads[0].join()
        self._line.close()
        self._stream.close()
        self._threads[1].join()

    def gap(self, times: dict[int, float], since: float = 0.0) -> float:
        """The longest pause between two of them, or to now, since a moment."""
        moments = [max(since, self.begun), *(at for at in times.values() if at > since), time.monotonic()]
        return max(after - before for before, after in itertools.pairwise(moments))

    def go_on(self, seconds: float) -> bool:
        """Whether, from now on, a write is confirmed and another seen, each within so many seconds."""
        since = time.monotonic()
        while time.monotonic() < since + seconds:
            if all(any(at > since for at in list(times.values())[-1:]) for times in (self.acknowledged, self.seen)):
                return True
            time.sleep(0.02)
        return False

    def _write(self) -> None:
        number = 0
        while not self._over.wait(0.02):
            number += 1
            try:
                with self._line.use() as link:
                    if link.commit([], [(ROOT + PREFIX + b"%d" % number, b"%d" % number, 0)], []):
                        self.acknowledged[number] = time.monotonic()
            except LinkwireError as error:
                self.errors.append(str(error))

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            try:
                for batch in self._stream.batches():
                    now = time.monotonic()
                    for change in batch.changes:
                        self.seen.setdefault(int(change.key.removeprefix(PREFIX)), now)
            except LinkwireError as error:
                self.errors.append(str(error))


def lost(traffic: Traffic, line: ChannelPool) -> set[int]:
    """The numbers whose write etcd has confirmed, and which are not there."""
    first, found = ROOT + PREFIX, set()
    while True:
        with line.use() as link:
            page = link.page(first, ROOT + PREFIX[:-1] + b"0", 0)
        found |= {int(entry.value) for entry in page.kvs}
        if not page.more:
            return set(traffic.acknowledged) - found
        first = page.kvs[-1].key + b"\0"
