"""A TCP connection whose data are sent back and compared, round after round, while something is done to its way."""

from __future__ import annotations

import os
import socket
import threading
import time
from ipaddress import ip_address
from typing import Self

from agent.linux.netns import TaskNetns

_PORT = 7777
_PATIENCE_S = 20.0


class Transfer:
    """Rounds over one connection, while the block runs."""

    SIZE = 500_000
    """Bytes, in each direction: some hundred full packets."""

    def __init__(self, source: TaskNetns, target: TaskNetns, address: str) -> None:
        self.rounds = 0
        self.longest = 0.0
        """Seconds that a round took."""
        self.problem = ""
        self._stopped = threading.Event()
        # Of any address: one that is asked for may be a VIP.
        family, here = (socket.AF_INET6, "::") if ip_address(address).version == 6 else (socket.AF_INET, "0.0.0.0")  # noqa: S104 - in a namespace
        self._listener = target.run(lambda: socket.create_server((here, _PORT), family=family))
        self._listener.settimeout(_PATIENCE_S)
        self._client = source.run(lambda: socket.create_connection((address, _PORT), _PATIENCE_S))
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._serve, self._ask)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in reversed(self._threads):
            thread.join()
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def _ask(self) -> None:
        with self._client as client:
            try:
                while not self._stopped.is_set():
                    self._round(client)
            except OSError as error:
                self.problem = repr(error)

    def _round(self, client: socket.socket) -> None:
        data, began = os.urandom(self.SIZE), time.monotonic()
        sender = threading.Thread(target=client.sendall, args=(data,), daemon=True)
        sender.start()
        received = bytearray()
        while len(received) < self.SIZE:
            part = client.recv(1 << 16)
            if not part:
                raise OSError("the connection ended")
            received += part
        sender.join()
        if received != data:
            raise OSError("other data came back")
        self.longest = max(self.longest, time.monotonic() - began)
        self.rounds += 1
