"""Runs in a task: tries what it is told and says what came of each, with how long that took.

Stdin: a JSON list of [protocol, address, port], protocol tcp, udp or icmp. Stdout: a JSON list of [outcome, seconds]
in the same order, outcome `open` (somebody answered), `refused` (told so at once), `silent` (nothing came in time) or
`unknown` (there is a name instead of the address, and nobody knows it).

    probe.py [--timeout SECONDS] [--at-once N] [--before COMMAND]

With --before a shell runs that command all the while, over and over.
"""

import argparse
import contextlib
import ipaddress
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

ECHO = {4: (8, 0), 6: (128, 129)}  # ICMP types of request and reply (RFC 792, RFC 4443)
RECVERR = {4: (socket.SOL_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}  # linux/in.h, linux/in6.h
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def probe(protocol: str, address: str, port: int, seconds: float) -> tuple[str, float]:
    """Try one."""
    began = time.monotonic()
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        try:
            address, version = socket.gethostbyname(address), 4
        except OSError:
            return "unknown", time.monotonic() - began
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        if protocol == "icmp":
            outcome = echo(family, version, address, seconds)
        else:
            with socket.socket(family, KINDS[protocol]) as one:
                one.settimeout(seconds)
                one.connect((address, port))
                one.sendall(b"GET / HTTP/1.0\r\n\r\n")
                outcome = "open" if one.recv(4096) else "refused"
    except TimeoutError:
        outcome = "silent"
    except OSError:  # RST, ICMP unreachable, or the local rules' EPERM
        outcome = "refused"
    return outcome, time.monotonic() - began


def echo(family: int, version: int, address: str, seconds: float) -> str:
    """One ICMP echo."""
    request, reply = ECHO[version]
    mark = os.urandom(8)
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    with socket.socket(family, socket.SOCK_RAW, protocol) as one:
        one.connect((address, 0))
        one.setsockopt(*RECVERR[version], 1)  # refusals come back as errors
        packet = struct.pack("!BBHHH", request, 0, 0, 1, 1) + mark
        if version == 4:
            packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
        one.send(packet)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([one], [], [], left)[0]:
                answer = one.recv(4096)
                answer = answer[(answer[0] & 15) * 4 :] if version == 4 else answer
                if answer[0] == reply and answer[8:16] == mark:
                    return "open"
    return "silent"


def checksum(packet: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


@contextlib.contextmanager
def meanwhile(command: str) -> Iterator[None]:
    """Run a shell command over and over, the first time to its end before anything else."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.1):
            subprocess.run(["sh", "-c", command], stderr=subprocess.DEVNULL, check=False)

    if command:
        subprocess.run(["sh", "-c", command], check=True)
        threading.Thread(target=work, daemon=True).start()
    yield
    stop.set()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--timeout", type=float, default=1.0)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--before", default="")
    arguments = parser.parse_args()
    protocols, addresses, ports = zip(*json.load(sys.stdin), strict=True)
    with meanwhile(arguments.before), ThreadPoolExecutor(arguments.at_once) as pool:
        seconds = itertools.repeat(arguments.timeout)
        json.dump(list(pool.map(probe, protocols, addresses, ports, seconds)), sys.stdout)
