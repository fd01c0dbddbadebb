"""Servers of the connectivity test.

One line in, one line of JSON out: `get BYTES` is answered with the server's node, generation and addresses, and so
many bytes more; `put TEXT` is kept, and `list` answered with all texts.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

PORT = 7777
"""Which the link allows, for TCP and UDP."""
CLOSED = 7778
"""TCP, on which the server listens too, and which no link allows."""
DEVICE = "lw"
"""How names of Linkwire's devices begin."""
LINE = 4096
"""Bytes of a request at most."""
MOST_TEXTS = 1000
LARGEST = 1 << 20
_INET6 = Path("/proc/net/if_inet6")
_FIB = Path("/proc/net/fib_trie")
_MAPPED = "::ffff:"
_LEAVING_S = 3.0
"""Seconds for which a task that is told to stop goes on to answer: it takes as long until nobody asks it any more."""
_IDLE_S = 10.0


def serve(environ: dict[str, str]) -> None:
    """Answer until the process is ended.

    Args:
        environ: LINKWIRE_NODE is the node's name, LINKWIRE_GENERATION changes at an update.
    """
    about = {"node": environ.get("LINKWIRE_NODE", ""), "generation": environ.get("LINKWIRE_GENERATION", "")}
    texts: list[str] = []
    signal.signal(signal.SIGTERM, _leave)
    with _listening(PORT) as server, _listening(CLOSED) as closed, _bound(PORT) as datagrams:
        for target in (lambda: _accept(server, about, texts), lambda: _accept(closed, about, texts)):
            threading.Thread(target=target, daemon=True).start()
        while True:
            data, sender = datagrams.recvfrom(65_535)
            datagrams.sendto(data, sender)


def _leave(_signal: int, _frame: object) -> None:
    time.sleep(_LEAVING_S)
    os._exit(0)


def _listening(port: int) -> socket.socket:
    if not _has_ipv6():
        return socket.create_server(("", port), backlog=128)
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)


def _bound(port: int) -> socket.socket:
    if not _has_ipv6():
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("", port))
        return datagrams
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", port))
    return datagrams


def _has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all: with ipv6.disable=1 there is not even a socket of it."""
    return _INET6.exists()


def _accept(server: socket.socket, about: dict[str, str], texts: list[str]) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_guarded, args=(connection, about, texts), daemon=True).start()


def _guarded(connection: socket.socket, about: dict[str, str], texts: list[str]) -> None:
    connection.settimeout(_IDLE_S)
    with connection:
        try:
            line = connection.makefile("rb").readline(LINE).decode("utf-8", "replace").strip()
            here = str(connection.getsockname()[0]).removeprefix(_MAPPED)
            connection.sendall(_answer(line, {**about, "address": here}, texts))
        except (OSError, ValueError):
            return


def _answer(line: str, about: dict[str, str], texts: list[str]) -> bytes:
    word, _, rest = line.partition(" ")
    if word == "put" and len(texts) < MOST_TEXTS:
        texts.append(rest)
    if word in ("put", "list"):
        return json.dumps(sorted(set(texts))).encode() + b"\n"
    document = {**about, "addresses": addresses()}
    return json.dumps(document).encode() + b"\n" + bytes(min(int(rest or 0), LARGEST))


def addresses() -> dict[str, list[str]]:
    """Return this task's addresses: `link`, those of IPv6 on Linkwire's device; `other`, the rest but loopback."""
    found: dict[str, list[str]] = {"link": [], "other": []}
    for line in _INET6.read_text().splitlines() if _has_ipv6() else ():
        address, _, _, _, _, device = line.split()
        if device != "lo" and not address.startswith("fe80"):
            text = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))
            found["link" if device.startswith(DEVICE) else "other"].append(text)
    found["other"] += _local4(_FIB.read_text())
    return found


def _local4(trie: str) -> list[str]:
    """Return the addresses that the kernel's routing trie calls this host's own."""
    found, last = [], ""
    for line in trie.splitlines():
        text = line.strip()
        if text.startswith("|-- "):
            last = text[4:]
        elif text.startswith("/32 host LOCAL") and not last.startswith("127.") and last not in found:
            found.append(last)
    return found
