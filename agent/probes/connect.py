"""TCP connections from inside a task's namespace, all at once; each is closed as soon as it is open."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address

from agent.linux.netns import TaskNetns
from mesh.diagnosis.link_facts import Tried

ANSWER_S = 2.0
"""For how long a connection may take; the kernel repeats its first packet after a second."""

Target = tuple[IPv4Address, int]
_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)


def connect(netns: TaskNetns, targets: Sequence[Target]) -> dict[Target, Tried]:
    """Try each address and port. Raises NetnsGoneError."""
    found: dict[Target, Tried] = dict.fromkeys(targets, "silent")
    with ExitStack() as opened:
        waiting: dict[int, tuple[socket.socket, Target]] = {}
        ready = select.poll()
        for target in found:
            tried = opened.enter_context(netns.run(_socket))
            code = tried.connect_ex((str(target[0]), target[1]))
            if code == errno.EINPROGRESS:
                waiting[tried.fileno()] = tried, target
                ready.register(tried, select.POLLOUT)
            else:
                found[target] = _outcome(code)
        deadline = time.monotonic() + ANSWER_S
        while waiting and (left := deadline - time.monotonic()) > 0:
            for number, _ in ready.poll(left * 1000):
                tried, target = waiting.pop(number)
                ready.unregister(number)
                found[target] = _outcome(tried.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    return found


def _socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _outcome(code: int) -> Tried:
    if not code:
        return "open"
    if code in _REFUSED:
        return "refused"
    return "silent" if code == errno.ETIMEDOUT else "unreachable"
