"""Runs in a task: talks to everybody it can find, by every way, from its first instruction on.

    gossip.py NAME CANARY [--links HOST,...] [--neighbours SERVICE,...] [--strangers SERVICE,...]

`links` are names in its hosts file. `neighbours` and `strangers` it looks up in Docker's own DNS, so they lead to
addresses on networks that it shares with them; and it tries the first addresses of the node's bridges. What it sends
holds the canary, but to strangers. It says on stdout, once each, which address answered it by what.
"""

import argparse
import contextlib
import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

UDP, TCP = 9000, 9001
DOCKER0 = "172.17.0"
DOCKER_DNS = ("127.0.0.11", 53)
PAUSE_S = 0.4


class Gossip:
    """What one task says and hears."""

    def __init__(self, name: str, canary: str) -> None:
        self.name, self.canary = name.encode(), canary.encode()
        self.udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.udp.bind(("::", UDP))
        self.icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.server = socket.create_server(("", TCP))
        self.heard: set[tuple[str, str, str]] = set()

    def note(self, how: str, address: str, who: bytes) -> None:
        """Say that an address answered, the first time."""
        one = (how, address.removeprefix("::ffff:"), who.decode(errors="replace"))
        if one not in self.heard:
            self.heard.add(one)
            sys.stdout.write(" ".join(one) + "\n")  # at once: two threads write
            sys.stdout.flush()

    def hear(self) -> None:
        """Answer and note what comes, for ever."""
        while True:
            for ready in select.select([self.udp, self.icmp, self.server], [], [])[0]:
                with contextlib.suppress(OSError):
                    if ready is self.udp:
                        text, sender = self.udp.recvfrom(2048)
                        kind, who, _ = text.split(b" ", 2)
                        if kind == b"ask":
                            self.udp.sendto(b"answer " + self.name + b" " + text.split(b" ", 2)[2], sender)
                        self.note("asked-by" if kind == b"ask" else "udp", sender[0], who)
                    elif ready is self.icmp:
                        packet, sender = self.icmp.recvfrom(2048)
                        if packet[(packet[0] & 15) * 4] == 0 and self.canary in packet:
                            self.note("icmp", sender[0], b"?")
                    else:
                        one, _ = self.server.accept()
                        with one:
                            one.settimeout(0.2)
                            one.sendall(self.name + b" " + one.recv(2048))

    def ask(self, addresses: Iterable[str], canary: bytes) -> None:
        """One datagram to each."""
        for address in addresses:
            with contextlib.suppress(OSError):
                target = address if ":" in address else f"::ffff:{address}"
                self.udp.sendto(b"ask " + self.name + b" " + canary, (target, UDP))

    def ping(self, addresses: Iterable[str]) -> None:
        """One ICMP echo to each."""
        packet = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + self.canary.ljust(64)
        total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
        total = (total >> 16) + (total & 0xFFFF)
        packet = packet[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]
        for address in addresses:
            with contextlib.suppress(OSError):
                self.icmp.sendto(packet, (address, 0))

    def connect(self, addresses: Iterable[str]) -> None:
        """One TCP connection to each, all at once; what is sent holds the canary."""
        begun: dict[socket.socket, str] = {}
        for address in addresses:
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            one.setblocking(False)
            with contextlib.suppress(OSError):
                one.connect((address, TCP))
            begun[one] = address
        time.sleep(PAUSE_S)
        for one in select.select([], list(begun), [], 0)[1] if begun else ():
            with contextlib.suppress(OSError):
                one.settimeout(PAUSE_S)
                one.sendall(self.canary)
                self.note("tcp", begun[one], one.recv(2048).split(b" ")[0])
        for one in begun:
            one.close()


def lookup(name: str) -> set[str]:
    """A name's IPv4 addresses in Docker's DNS, whatever the hosts file says (RFC 1035, 4.1)."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack("!HHHHHH", os.getpid() & 0xFFFF, 0x100, 1, 0, 0, 0) + question + b"\0\0\1\0\1"
    found: set[str] = set()
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(0.5)
        one.sendto(query, DOCKER_DNS)
        answer = one.recv(4096)
        at = len(query)
        for _ in range(struct.unpack("!H", answer[6:8])[0]):
            # Docker writes the name again in each answer, as a pointer or in full.
            at = at + 2 if answer[at] >= 192 else answer.index(b"\0", at) + 1
            kind, size = struct.unpack("!H6xH", answer[at : at + 10])
            if kind == 1:
                found.add(socket.inet_ntoa(answer[at + 10 : at + 14]))
            at += 10 + size
    return found


def own() -> tuple[set[str], set[str]]:
    """This task's own addresses, and the first few of every bridge of the node that it is on."""
    mine: set[str] = set()
    near: set[str] = set()
    for link in json.loads(subprocess.run(["ip", "-json", "-4", "addr"], capture_output=True, check=True).stdout):
        for address in link["addr_info"]:
            mine.add(address["local"])
            if address["local"].startswith("172."):
                # .1 is the node itself, .2 of docker_gwbridge Swarm's ingress.
                bridge, _, _ = address["local"].rpartition(".")
                near |= {f"{bridge}.{last}" for last in range(2 if bridge == DOCKER0 else 3, 12)}
    return mine, near


def hosts(names: Iterable[str]) -> set[str]:
    """What names are in the hosts file."""
    found: set[str] = set()
    with open("/etc/hosts", encoding="utf-8") as file:  # noqa: PTH123 - quick, at the first instruction
        for line in file:
            address, *aliases = line.partition("#")[0].split() or [""]
            if set(aliases) & set(names):
                found.add(address)
    return found


def main(arguments: argparse.Namespace) -> None:
    """Talk for ever."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    gossip = Gossip(arguments.name, arguments.canary)
    threading.Thread(target=gossip.hear, daemon=True).start()
    for turn in itertools.count():
        if turn % 5 == 0:
            mine, near = own()
        beside = set().union(near, *map(lookup, arguments.neighbours)) - mine
        gossip.ask(beside, gossip.canary)
        gossip.ask(hosts(arguments.links), gossip.canary)
        gossip.ask(set().union(*map(lookup, arguments.strangers)), b"nothing of note")
        gossip.ping(beside)
        gossip.connect(beside)


def names(text: str) -> list[str]:
    """Names, comma separated."""
    return text.split(",")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("canary")
    for kind in ("--links", "--neighbours", "--strangers"):
        parser.add_argument(kind, type=names, default=[])
    main(parser.parse_args())
