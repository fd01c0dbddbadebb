"""Captures what crosses the lab's wires, and searches it for a canary."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.lab import Lab
from tests.lab.layout import LabError
from tests.lab.node import Node
from tests.support.patience import slowness

STARTING_S = 10.0
_WHOLE = 16_384
"""Bytes of the largest packet on a wire of the lab, and more."""
_BUFFER_MIB = 64
"""Each packet takes the place of the largest there, so the 2 MiB by default are eight packets."""
_DROPPED = re.compile(r"(\d+) packets? dropped by kernel")


class MissedError(LabError):
    """A capture is not whole."""


def tcpdump_into(file: Path, size: int, buffer_mib: int) -> list[str]:
    """Return the command that keeps the first `size` bytes of each packet on every device."""
    buffer = str(buffer_mib * 1024)
    return ["tcpdump", "-i", "any", "-s", str(size), "-B", buffer, "-U", "--immediate-mode", "-w", str(file)]


def missed_by(said: str) -> int:
    """Return how many packets tcpdump has missed, by its last words."""
    found = _DROPPED.search(said)
    return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a capture held.

    Attributes:
        packets: how many there were.
        udp: how many of them were UDP to or from a port of Linkwire's range.
        canary: in how many the canary stood in plain text.
    """

    packets: int
    udp: int
    canary: int


class Capture:
    """Every packet on every bridge port of the lab, or on every device of one node, until it is left."""

    def __init__(self, lab: Lab, node: Node | None = None, *, size: int = 0, only: str = "") -> None:
        """Prepare: with a node its own devices, without one the bridge that joins all nodes.

        Of each packet the first `size` bytes are kept, by default all; by a filter, only what that lets through.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="linkwire-capture-")
        self._file = Path(self._folder.name) / "wire.pcap"
        tcpdump = [*tcpdump_into(self._file, size or _WHOLE, _BUFFER_MIB), *([only] if only else [])]
        self._command = node.command(tcpdump) if node else lab.hub_command(tcpdump)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + STARTING_S
        assert self._process.stderr is not None
        while "listening on" not in (line := self._process.stderr.readline()):
            if not line or time.monotonic() > deadline:
                raise LabError("tcpdump did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            time.sleep(0.5 * slowness())  # what is still under way, and what tcpdump has not read yet
            self._process.terminate()
            _, said = self._process.communicate()
            if error is None and (missed := missed_by(said)):
                raise MissedError(f"tcpdump missed {missed} packets: what it has captured proves nothing")

    def close(self) -> None:
        """Forget what was captured."""
        self._folder.cleanup()

    def search(self, canary: bytes, ports: tuple[int, int] = (51820, 53819)) -> Seen:
        """Look through what was captured, once it has ended."""
        data = self._file.read_bytes()
        return Seen(self.count(""), self.count(f"udp portrange {ports[0]}-{ports[1]}"), data.count(canary))

    def count(self, expression: str) -> int:
        """How many packets of what was captured a filter lets through (pcap-filter(7))."""
        argv = ["tcpdump", "-r", str(self._file), "-n", "-q", *([expression] if expression else [])]
        return len(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())
