"""Liveness of suspect endpoints: ICMP echo requests through each task's own tunnel.

A silent agent is no proof of its node's death. An answer is proof of life: it has come through WireGuard from who has
the endpoint's key, so its node, its namespace and the way there and back work. A rule of every link lets it pass
(agent.firewall.ruleset). Nothing is asked while no agent is silent.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from ipaddress import IPv4Address
from types import MappingProxyType

import structlog

from agent.linux.netns import TaskNetns
from mesh.errors import LinkwireError, NetnsGoneError

log = structlog.get_logger(__name__)

ROUND_S = 0.5
"""From the beginning of a round of questions to that of the next, where asking takes no time."""
ANSWER_S = 0.35
"""For how long a round waits for answers."""
MISSES = 2
"""Rounds without an answer after which an endpoint counts as unreachable."""
SHARE = 10
"""A round's questions take at most one part in so many of a processor."""
_ECHO = struct.Struct("!BBHHH")  # RFC 792: type, code, checksum, identifier, sequence number
_ECHO_REQUEST = 8
_LONGEST = 1500

Targets = Mapping[str, frozenset[IPv4Address]]
"""Path of a task's namespace -> the suspect endpoints that it may open connections to."""


def judge(
    misses: Mapping[IPv4Address, int], asked: Iterable[IPv4Address], answered: Iterable[IPv4Address]
) -> dict[IPv4Address, int]:
    """Count for each endpoint the rounds in a row without an answer, after one more round. Pure.

    Args:
        misses: the same before this round; what is not asked any more is forgotten.
        asked: in this round, by whichever task.
        answered: at least one of the tasks.
    """
    heard = frozenset(answered)
    return {address: 0 if address in heard else misses.get(address, 0) + 1 for address in asked}


class Prober:
    """Prober of suspect endpoints: a thread that sleeps while there are none."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Start the thread; `changed` is called from it when `unreachable` becomes another."""
        self._changed = changed
        self._woken = threading.Event()
        self._targets: Targets = MappingProxyType({})
        self._unreachable: frozenset[IPv4Address] = frozenset()
        threading.Thread(target=self._run, name="liveness", daemon=True).start()

    @property
    def unreachable(self) -> frozenset[IPv4Address]:
        """The suspect endpoints that have not answered any task of this node lately."""
        return self._unreachable

    def ask(self, targets: Targets) -> None:
        """Probe these from now on, and no others."""
        if targets != self._targets:
            self._targets = MappingProxyType(dict(targets))
            self._woken.set()

    def _run(self) -> None:
        misses: Mapping[IPv4Address, int] = {}
        while True:
            targets, began, spent = self._targets, time.monotonic(), time.thread_time()
            try:
                asked, answered = _round(targets)
            except Exception:
                # Whatever it is, there was no answer; and the next round may have one.
                log.exception("probing of suspect endpoints crashed")
                asked, answered = frozenset[IPv4Address]().union(*targets.values()), frozenset()
            misses = judge(misses, asked, answered)
            unreachable = frozenset(address for address, count in misses.items() if count >= MISSES)
            if unreachable != self._unreachable:
                for address in unreachable ^ self._unreachable:
                    if address in unreachable:
                        log.info("suspect endpoint unreachable", address=str(address))
                    else:
                        log.info("suspect endpoint reachable, or suspect no more", address=str(address))
                self._unreachable = unreachable
                self._changed()
            pause = max(ROUND_S, SHARE * (time.thread_time() - spent)) - (time.monotonic() - began)
            self._woken.wait(max(0.0, pause) if targets else None)
            self._woken.clear()


def _round(targets: Targets) -> tuple[frozenset[IPv4Address], frozenset[IPv4Address]]:
    """Ask all of them once, from every task; return the endpoints asked, and those that answered.

    Sockets live for one round only: what is kept open in a namespace keeps it, and with it a device.
    """
    asked: set[IPv4Address] = set()
    answered: set[IPv4Address] = set()
    sockets: dict[int, tuple[socket.socket, frozenset[IPv4Address]]] = {}
    ready = select.poll()
    with ExitStack() as opened:
        for path, addresses in targets.items():
            asked |= addresses
            try:
                pinger = opened.enter_context(_opened(path))
            except NetnsGoneError:
                continue
            except (LinkwireError, OSError) as error:
                log.info("suspect endpoints not probed", namespace=path, error=str(error))
                continue
            sockets[pinger.fileno()] = pinger, addresses
            ready.register(pinger, select.POLLIN)
            _send(pinger, addresses)
        deadline = time.monotonic() + ANSWER_S
        while answered < asked and (left := deadline - time.monotonic()) > 0:
            for number, _ in ready.poll(left * 1000):
                pinger, addresses = sockets[number]
                answered |= addresses & _answer(pinger)
    return frozenset(asked), frozenset(answered)


def _opened(path: str) -> socket.socket:
    """Open a ping socket in a namespace: Docker allows them to all there (net.ipv4.ping_group_range, moby#41030)."""
    with closing(TaskNetns(path)) as netns:
        return netns.run(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
        )


def _send(pinger: socket.socket, addresses: Iterable[IPv4Address]) -> None:
    for address in addresses:
        try:  # the kernel fills in checksum and identifier
            pinger.sendto(_ECHO.pack(_ECHO_REQUEST, 0, 0, 0, 1), (str(address), 0))
        except OSError as error:  # no peer has it (any more): no answer, then
            log.debug("suspect endpoint not probed", address=str(address), error=str(error))


def _answer(pinger: socket.socket) -> frozenset[IPv4Address]:
    """Return the endpoint that answered; none where the answer was an error."""
    try:
        _, (host, _) = pinger.recvfrom(_LONGEST)
    except OSError:
        return frozenset()
    return frozenset((IPv4Address(host),))
