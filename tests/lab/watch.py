"""Captures on every wire and bridge of a lab at once, also those that come meanwhile; finds a canary in them.

Outside the tasks all that a link's traffic may look like is WireGuard's UDP.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from tests.lab.capture import MissedError, missed_by, tcpdump_into
from tests.lab.lab import Lab
from tests.lab.layout import LabError
from tests.lab.node import Node

SNAP = 512  # bytes: a canary stands near its packet's beginning, VXLAN's headers (RFC 7348) included
EVERY_S = 0.25
BUFFER_MIB = 8
ICMP, UDP, VXLAN = 1, 17, 4789
KINDS = {6: "tcp", UDP: "udp"}


@dataclass(frozen=True, slots=True)
class Sighting:
    """A packet that was seen: where (`hub`, NODE or NODE-NETNS), when (seconds since the epoch), and what it is."""

    place: str
    at: float
    source: str
    destination: str
    kind: str


class Watch:
    """While entered, every packet on the lab's bridge, on every node's devices and on the bridge of every overlay."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._folder = tempfile.TemporaryDirectory(prefix="linkwire-watch-")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: list[subprocess.Popen[bytes]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._start("hub", self._lab.hub_command([]))
        self._look()
        for place, one in self._running.items():
            # An overlay may go while this begins; nodes and hub do not.
            if not _is_listening(one) and "-" not in place:
                raise LabError(f"tcpdump did not start on {place}")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for one in self._running.values():
            one.terminate()
        missed = sum(missed_by(one.communicate()[1].decode()) for one in (*self._running.values(), *self._ended))
        if missed and kind is None:
            raise MissedError(f"tcpdump missed {missed} packets: what was seen proves nothing")

    def close(self) -> None:
        """Forget what was captured."""
        self._folder.cleanup()

    @property
    def places(self) -> int:
        """On how many namespaces' devices packets were captured."""
        return len(list(Path(self._folder.name).iterdir()))

    @property
    def packets(self) -> int:
        """How many packets were captured."""
        return sum(1 for file in Path(self._folder.name).iterdir() for _ in _packets(file))

    def find(self, canary: bytes) -> list[Sighting]:
        """Every packet that holds the canary."""
        found: list[Sighting] = []
        for file in sorted(Path(self._folder.name).iterdir()):
            place = file.stem.rpartition("-")[0]
            found += [Sighting(place, at, *_ends(packet)) for at, packet in _packets(file) if canary in packet]
        return found

    def _follow(self) -> None:
        while not self._stopped.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        """Start what captures are missing: of a node that is back, of an overlay that has come to it."""
        for place, one in list(self._running.items()):
            if one.poll() is not None:
                self._ended.append(self._running.pop(place))
        for node in self._lab.nodes:
            pid = node.dockerd_pid
            if pid is None:
                continue
            self._start_in(node, node.name, [])
            folder = Path(f"/proc/{pid}/root/run/docker/netns")
            with contextlib.suppress(OSError):
                # An overlay's is the count of its sandboxes, a dash and its id (libnetwork drivers/overlay).
                for netns in [entry.name for entry in folder.iterdir() if "-" in entry.name]:
                    enter = ["nsenter", f"--net=/run/docker/netns/{netns}", "--"]
                    self._start_in(node, f"{node.name}-{netns}", enter)

    def _start_in(self, node: Node, place: str, enter: list[str]) -> None:
        if place not in self._running:
            with contextlib.suppress(LabError, OSError):  # the node has lost its power just now
                self._start(place, node.command(enter))

    def _start(self, place: str, command: list[str]) -> None:
        file = Path(self._folder.name) / f"{place}-{len(self._ended) + len(self._running)}.pcap"
        self._running[place] = subprocess.Popen(
            [*command, *tcpdump_into(file, SNAP, BUFFER_MIB)], stderr=subprocess.PIPE
        )


def _is_listening(one: subprocess.Popen[bytes]) -> bool:
    """Wait until it captures, or has ended."""
    assert one.stderr is not None
    return any(b"listening on" in line for line in iter(one.stderr.readline, b""))


def _ends(packet: bytes) -> tuple[str, str, str]:
    """Source, destination and kind of an IPv4 packet as `tcpdump -i any` keeps it; of what VXLAN carries, if it does.

    The layers are SLL2 (20 bytes, pcap-linktype(7)), IPv4 (RFC 791), UDP, VXLAN and Ethernet (8, 8, 14; RFC 7348).
    """
    ip = packet[20:]
    size = (ip[0] & 15) * 4
    if ip[9] == UDP and struct.unpack_from("!H", ip, size + 2)[0] == VXLAN:
        ip = ip[size + 8 + 8 + 14 :]
        size = (ip[0] & 15) * 4
    kind = f"icmp-{ip[size]}" if ip[9] == ICMP else KINDS.get(ip[9], str(ip[9]))
    return str(IPv4Address(ip[12:16])), str(IPv4Address(ip[16:20])), kind


def _packets(file: Path) -> Iterator[tuple[float, bytes]]:
    """The packets of a capture file with their times (pcap-savefile(5)); one that was cut off ends it."""
    data = file.read_bytes()
    at = 24
    while at + 16 <= len(data):
        seconds, micro, size = struct.unpack_from("=III", data, at)
        yield seconds + micro / 1e6, data[at + 16 : at + 16 + size]
        at += 16 + size
