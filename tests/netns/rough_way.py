"""A way between two WireGuard devices that loses, delays and overtakes packets: a relay of UDP datagrams."""

from __future__ import annotations

import contextlib
import heapq
import random
import select
import socket
import threading
import time
from typing import Self

from agent.linux.netns import TaskNetns

_RCVBUFFORCE = 33  # SO_RCVBUFFORCE, asm-generic/socket.h

Place = tuple[str, int]


class RoughWay:
    """A relay in a node's namespace, while the block runs.

    Args:
        netns: the node's.
        ends: addresses and ports of the two devices; each finds the other behind a port of the relay.
        loss: of 1, of packets that do not arrive.
        late: of 1, of those that are overtaken.
        by: seconds for which they are held back, at most.
        seed: of the chances.
    """

    def __init__(
        self,
        netns: TaskNetns,
        address: str,
        ends: tuple[Place, Place],
        *,
        loss: float,
        late: float,
        by: float,
        seed: int,
    ) -> None:
        self.lost = self.overtaken = self.passed = 0
        self.ends = ends
        self._loss, self._late, self._by = loss, late, by
        self._chance = random.Random(seed)  # noqa: S311 - chances, not secrets
        self._sockets = tuple(netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in ends)
        for one in self._sockets:
            one.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 22)
            one.bind((address, 0))
            one.setblocking(False)
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rough-way", daemon=True)

    def towards(self, end: int) -> Place:
        """Return where one sends what is for this end: the other end's endpoint for it."""
        host, port = self._sockets[1 - end].getsockname()
        return host, port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for one in self._sockets:
            one.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            rest = self._waiting[0][0] - time.monotonic() if self._waiting else 0.05
            readable, _, _ = select.select(self._sockets, (), (), min(0.05, max(0.0, rest)))
            for one in readable:
                self._take(self._sockets.index(one))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self._waiting)
                self._pass(end, packet)

    def _take(self, came_from: int) -> None:
        with contextlib.suppress(OSError):
            for _ in range(32):
                packet = self._sockets[came_from].recv(1 << 16)
                chance = self._chance.random()
                if chance < self._loss:
                    self.lost += 1
                elif chance < self._loss + self._late:
                    self.overtaken += 1
                    due = time.monotonic() + self._chance.random() * self._by
                    heapq.heappush(self._waiting, (due, self.overtaken, 1 - came_from, packet))
                else:
                    self._pass(1 - came_from, packet)

    def _pass(self, end: int, packet: bytes) -> None:
        """Hand a packet on, from the port behind which its receiver knows its sender."""
        self.passed += 1
        with contextlib.suppress(OSError):
            self._sockets[end].sendto(packet, self.ends[end])
