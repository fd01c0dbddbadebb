"""Interface of one task: its namespace held open, what was applied there, and what is remembered of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from agent.firewall import nft
from agent.firewall.ruleset import Table
from agent.interface import reconcile
from agent.interface.diff import InterfaceDiff
from agent.interface.render_cache import RenderCache
from agent.linux.netns import TaskNetns
from agent.wireguard.backend import Backend
from agent.wireguard.peer_health import Health, Reading, follow
from mesh.crypto.keys import PublicKey
from mesh.errors import LinkwireError, NetnsGoneError
from mesh.model.records import BrokenPeers, DeviceStatus, PeerStatus
from mesh.topology.wgtypes import Interface, InterfaceConfig, Peer

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class TaskInterface:
    """A task's interface, from one look at it to the next.

    Attributes:
        netns: its namespace, held open while it is wired.
        applied: what was applied and read back last; None while it is not wired.
    """

    netns: TaskNetns | None = None
    applied: InterfaceConfig | None = None
    _health: dict[PublicKey, Health] = field(default_factory=dict)
    """Of each peer, as of the last reading."""
    _memo: RenderCache = field(default_factory=RenderCache)
    """Goes on in the namespace once there is one."""
    _settled: bool = False
    """Whether all of it was read back as `applied`, or as what that went on from, and nothing was left out."""

    def open(self, path: str) -> TaskNetns:
        """Open its namespace, once. Raises as `TaskNetns`."""
        if self.netns is None:
            self.netns = TaskNetns(path)
            self.netns.own(RenderCache, self._memo)
        return self.netns

    def close(self) -> None:
        """Let go of its namespace: a socket kept in it would keep it, and its device, for ever."""
        if self.netns is not None:
            self.netns.close()
        self.netns = self.applied = None
        self._health = {}

    def is_wired_still(self) -> bool:
        """Tell whether it is wired and its namespace is there."""
        if self.netns is None or self.applied is None:
            return False
        try:
            self.netns.check()
        except NetnsGoneError:
            return False
        return True

    def prerender(self, desired: InterfaceConfig) -> None:
        """Render the rules before there is a namespace for them."""
        self._memo.render(desired.policy, desired.name)

    def advance(
        self, backend: Backend, netns: TaskNetns, hosts: str, task: str, desired: InterfaceConfig
    ) -> InterfaceDiff | None:
        """Go on from what was read back last; None where it must be read. Raises NetnsGoneError."""
        if self.applied is None or not self._settled:
            return None
        self._settled = False  # until it is known what came of it
        try:
            changes = reconcile.advance(backend, netns, hosts, desired, self.applied)
        except NetnsGoneError:
            raise
        except LinkwireError as error:
            log.info("incremental update failed, re-reading device", task=task, error=str(error))
            return None
        self._settled = changes is not None
        return changes

    def reconcile(
        self,
        backend: Backend,
        netns: TaskNetns,
        hosts: str,
        desired: InterfaceConfig,
        *,
        complete: bool,
        is_new: bool,
    ) -> InterfaceDiff:
        """Read all of it, make it what is desired, read it back. Raises as `reconcile.reconcile`.

        What else of ours is in a namespace is looked for when its task has started, not while its process waits for
        us: Docker holds the kernel's lock of all devices then, and each look at them takes 15 ms.
        """
        self._settled = False
        if complete and not is_new:
            reconcile.remove(backend, netns, None, keep=desired.name)
        changes, _ = reconcile.reconcile(
            backend, netns, hosts, desired, self.applied, complete=complete, is_new=is_new
        )
        self._settled = complete
        return changes

    def observe(self, backend: Backend) -> tuple[Interface, Table] | None:
        """Read interface and rules; None where it is not wired, or one of them is missing."""
        if self.netns is None or self.applied is None:
            return None
        with contextlib.suppress(LinkwireError):
            observed, table = reconcile.observe(backend, self.netns, self.applied.name), nft.read(self.netns)
            if observed is not None and table is not None:
                self._follow(observed.device.peers)
                return observed, table
        return None

    def broken_peers(self, task: str) -> BrokenPeers | None:
        """Return the peers that did not answer by the last reading; None where all did."""
        silent = {key: seconds for key, health in self._health.items() if (seconds := health.broken_for) is not None}
        return BrokenPeers(task, tuple(sorted(silent)), round(max(silent.values()), 1)) if silent else None

    def _follow(self, peers: Mapping[PublicKey, Peer]) -> None:
        now, before = time.monotonic(), self._health
        self._health = {
            key: follow(before.get(key), Reading(now, peer.rx_bytes, peer.tx_bytes, peer.last_handshake or 0.0))
            for key, peer in peers.items()
        }

    def has_its_device(self, observed: Interface) -> bool:
        """Tell whether nothing is missing of an interface that was read: somebody may have made the device anew."""
        applied, device = self.applied, observed.device
        return (
            applied is not None
            and observed.up
            and device.public_key == applied.private_key.public
            and observed.addresses.issuperset(applied.addresses)
            and observed.routes.issuperset(applied.routes)
            # A peer whose preshared key is not known yet is not made.
            and all(peer.public_key in device.peers or peer.preshared_key is None for peer in applied.peers)
        )

    def has_its_rules(self, table: Table) -> bool:
        """Tell whether a table that was read is as it was applied."""
        if self.netns is None or self.applied is None:
            return False
        return table.rules == self.netns.own(RenderCache).render(self.applied.policy, self.applied.name)


def status_of(task: str, observed: Interface, table: Table) -> DeviceStatus:
    """Summarise a task's device and rules, as they were just read, for the node's report."""
    now = time.time()
    peers = tuple(
        PeerStatus(
            public_key=peer.public_key,
            handshake_age=round(max(0.0, now - peer.last_handshake), 1) if peer.last_handshake else None,
            rx_bytes=peer.rx_bytes,
            tx_bytes=peer.tx_bytes,
            endpoint=str(peer.endpoint) if peer.endpoint else None,
        )
        for _, peer in sorted(observed.device.peers.items())
    )
    return DeviceStatus(task, observed.device.public_key, peers, table.refused)
