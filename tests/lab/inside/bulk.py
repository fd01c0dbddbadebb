"""Runs in a task: moves many bytes over one TCP connection, and counts those that arrive at its other end.

    bulk.py serve PORT
    bulk.py up|down HOST PORT FAMILY BYTES

The client prints how many bytes came to the end that receives, and the seconds from the first to the last.
"""

import json
import socket
import struct
import sys
import threading
import time

HEADER = struct.Struct("!?Q")  # whether the server receives, and how many bytes
PART = bytes(65536)


def receive(one: socket.socket, size: int) -> int:
    """Receive so many bytes, or fewer if no more come; how many came."""
    got = 0
    while got < size and (part := one.recv(65536)):
        got += len(part)
    return got


def send(one: socket.socket, size: int) -> None:
    """Send so many bytes."""
    for sent in range(0, size, len(PART)):
        one.sendall(PART[: size - sent])


def answer(one: socket.socket) -> None:
    """Serve one client."""
    with one:
        is_up, size = HEADER.unpack(one.recv(HEADER.size, socket.MSG_WAITALL))
        if is_up:
            one.sendall(struct.pack("!Q", receive(one, size)))
        else:
            send(one, size)


def serve(port: int) -> None:
    """Serve clients for ever."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],)).start()


def ask(*, is_up: bool, host: str, port: int, family: str, size: int) -> tuple[int, float]:
    """Move bytes to (up) or from the server; how many arrived, and the seconds."""
    version = socket.AF_INET if family == "4" else socket.AF_INET6
    with socket.socket(version, socket.SOCK_STREAM) as one:
        one.settimeout(20)
        one.connect((host, port))
        began = time.monotonic()
        one.sendall(HEADER.pack(is_up, size))
        if is_up:
            send(one, size)
            (got,) = struct.unpack("!Q", one.recv(8, socket.MSG_WAITALL))
        else:
            got = receive(one, size)
        return got, time.monotonic() - began


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "serve":
        serve(int(words[0]))
    else:
        host, port, family, size = words
        done = ask(is_up=what == "up", host=host, port=int(port), family=family, size=int(size))
        json.dump(done, sys.stdout)
