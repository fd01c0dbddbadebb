"""Guard of the node's own table (agent.firewall.node_ruleset): puts it back, and says whether it is in place.

A link's name may stand in a task's hosts file before its device is there only while this node refuses the mesh's
networks: else the task's first packets would leave in plain text. The table is put back as soon as somebody flushes
it, such as `firewall-cmd --reload` or `nft flush ruleset`; the kernel tells of every change of nftables.

Where the node itself has a way to a part of the mesh's networks, it is left alone: then there is no table, and names
come with the device.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network, IPv6Network

import structlog

from agent.firewall import nf_tables_netlink, nft, node_ruleset
from agent.firewall.ruleset import NAME
from agent.linux import interfaces
from agent.linux.netlink_socket import Subscription
from agent.linux.netns import OWN_NETNS, TaskNetns
from agent.linux.nft_json import Rules
from mesh.errors import LinkwireError, Retryable

log = structlog.get_logger(__name__)

LOOK_S = 15.0
"""Seconds between two looks at the node's routes, whose changes are not followed."""
RETRY_S = 1.0
"""Seconds until the next look after one that failed."""
SHARE = 20
"""Looking takes at most one part in so many of a processor: a node may have very many routes."""
NAMES_FIRST_S = 1.0
"""From `is_given_up` on, for names to be taken back before the table is."""
PAUSE_S = 0.05
"""Between two looks: a firewall that is loaded changes much, one after the other."""
_RECEIVE_BYTES = 1 << 16

Networks = tuple[IPv4Network, IPv6Network]


class NodeTable:
    """The table of one node.

    Args:
        home: the node's own namespace, or whichever is to be guarded.
    """

    def __init__(self, home: TaskNetns) -> None:
        self._home = home
        self._changed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._networks: Networks | None = None
        self._seen: tuple[int, tuple[bytes, ...]] | None = None
        self._said: str | None = None
        self._has_failed = False
        self._news = Subscription(partial(nf_tables_netlink.subscribed, home), self._not_followed)
        self._awake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.is_given_up = False
        """Whether the node has a way of its own to the networks: then no name may stand without a device."""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, changed: Callable[[], None]) -> None:
        """Start the thread; `changed` is called from it when `holds` has come to say something else."""
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="node-table", daemon=True)
        self._thread.start()

    def refuse(self, networks: Networks) -> None:
        """Have these networks refused from soon on; called again with the same ones it does nothing."""
        with self._lock:
            if networks == self._networks:
                return
            self._networks, self._seen = networks, None
        os.eventfd_write(self._awake, 1)

    def holds(self) -> bool:
        """Tell whether the node refuses the networks at this moment: asked of the kernel, in a few system calls."""
        with self._lock:
            if self._seen is None:
                return False
            generation, rules = self._seen
            try:
                now = nf_tables_netlink.generation(self._home)
                if now == generation:
                    return True
                if nf_tables_netlink.listed(self._home, NAME) == rules:
                    self._seen = (now, rules)
                    return True
            except LinkwireError as error:
                log.warning("node table not read", error=str(error))
            self._seen = None
        os.eventfd_write(self._awake, 1)
        return False

    def stop(self) -> None:
        """End the thread. The table stays: the names that rest on it do."""
        self._stopped.set()
        os.eventfd_write(self._awake, 1)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._news):
            while not self._stopped.is_set():
                news = self._news.socket()
                began = time.thread_time()
                try:
                    self._look()
                except Exception:
                    # Whatever it is: without the table names come late, and that is all.
                    log.exception("node table upkeep crashed")
                self._stopped.wait(max(PAUSE_S, SHARE * (time.thread_time() - began)))
                self._wait(news)

    @staticmethod
    def _not_followed(error: LinkwireError) -> None:
        log.warning("changes of nftables not followed", error=str(error))

    def _wait(self, news: socket.socket | None) -> None:
        """Wait for a change of nftables, a request to look, or the time to: soon where the last look failed."""
        seconds = RETRY_S if self._has_failed else LOOK_S
        select.select([self._awake, *([news.fileno()] if news else [])], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._awake)
        with contextlib.suppress(OSError):  # nothing is left; or ENOBUFS: there was more than could be told
            while news and news.recv(_RECEIVE_BYTES):
                pass

    def _look(self) -> None:
        with self._lock:
            networks, before, was_put = self._networks, self._seen is not None, False
        if networks is None:
            return
        try:
            self._has_failed = True  # until it is known what came of it
            if ways := interfaces.ways_to(self._home, networks):
                self._give_up(networks, ways)
            elif not self.holds():
                self._put(node_ruleset.render(*networks))
                was_put = True
                if not self._said:
                    log.info("mesh networks refused on this node", address=", ".join(map(str, networks)))
                self._said = ""
            self._has_failed = False
        except LinkwireError as error:
            with self._lock:
                self._seen = None
            self._warn(f"{error}")
        if was_put or (self._seen is not None) != before:  # somebody may have been told no meanwhile
            self._changed()

    def _put(self, rules: Rules) -> None:
        nft.apply(self._home, rules)
        generation = nf_tables_netlink.generation(self._home)
        listed = nf_tables_netlink.listed(self._home, NAME)
        table = nft.read(self._home)
        if table is None or table.rules != rules or generation != nf_tables_netlink.generation(self._home):
            raise Retryable("the node's table does not read back as it was set")
        with self._lock:
            self._seen = (generation, listed)
        self.is_given_up = False

    def _give_up(self, networks: Networks, ways: tuple[str, ...]) -> None:
        with self._lock:
            self._seen = None
        if not self.is_given_up:
            self.is_given_up = True
            self._changed()
            self._stopped.wait(NAMES_FIRST_S)
        nft.remove(self._home)
        self._warn(
            f"this node reaches a part of the mesh's {networks[0]} or {networks[1]} itself, and goes on to: "
            f"{', '.join(ways)}. Give the mesh another subnet (the controller's --subnet)"
        )

    def _warn(self, why: str) -> None:
        if why != self._said:
            log.warning("early names disabled", reasons=why)
        self._said = why


def remove(home: str = OWN_NETNS) -> bool:
    """Take a node's table away, for when no agent is to run there any more; returns whether there was one.

    Raises:
        Retryable, Terminal: it could not be done.
    """
    with TaskNetns(home) as netns:
        was_there = nf_tables_netlink.exists(netns, NAME)
        nft.remove(netns)
    return was_there
