"""Keeper of this node's part in node encryption: a thread that makes it what the records say.

Level-based: it reads what is there, and changes only differences. So a new agent goes on with the devices, routes and
rules of the one before, and what somebody else took away is put back. Nothing of it ends with the agent.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from agent.firewall import nf_tables_netlink
from agent.interface.render_cache import RenderCache
from agent.linux.netlink_socket import NETLINK_NETFILTER, Subscription
from agent.node_encryption import overlays, policy_routing, readiness
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.diff import Observed, TunnelDiff, Way, additions, diff, off
from agent.node_encryption.key import SLOTS
from agent.node_encryption.policy_routing import NO_PORTS, PlainPorts
from agent.node_encryption.readiness import Readiness
from agent.node_encryption.tunnel import NodeTunnel, addresses
from mesh.crypto.keys import PublicKey
from mesh.errors import LinkwireError, Retryable
from mesh.model.encryption.status import EncryptionStatus, KeyStatus
from mesh.model.net import IPAddress
from mesh.topology.wgtypes import PeerConfig

log = structlog.get_logger(__name__)

LOOK_S = 2.0
"""Seconds between two looks at the device. Peers that stop to answer are known by it (peer_health.ANSWER_S)."""
SOON_S = 0.25
"""The same for SETTLING_S after a change of the records, while a peer is not ready: a handshake takes a moment."""
SETTLING_S = 15.0
CONFIRM_S = 1.0
"""Seconds until peers that were added without a reading are read back."""
IDLE_S = 60.0
"""Where node encryption is off."""
OVERLAYS_S = 15.0
"""Seconds between two looks at the overlays' forwarding entries."""
DRAIN_S = 2.0
"""Seconds for which no route has changed, until a node says that it sends by its newest key alone: what was on its
way through the other device has arrived by then."""
_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tunnel that the records say this node should have.

    Attributes:
        tunnel: None for none.
        complete: whether it rests on everything: else nothing is removed.
    """

    tunnel: NodeTunnel | None = None
    complete: bool = False


class Keeper:
    """Keeper of one node's tunnel.

    Args:
        device: the node's.
        folder: of the overlays' namespaces.
        filtered: names what on the node drops overlay packets in its devices, by their port, and where that is asked
            for what the node's programs are sent there; empty for nothing.
        after_reboot: has packets to a port refused from the node's next start on, or for 0 none; names what hinders
            it. Raises LinkwireError.
        plain: ports of what stays outside in mode `all`.
    """

    def __init__(
        self,
        device: NodeDevice,
        folder: Path = overlays.FOLDER,
        filtered: Callable[[int, bool], str] = lambda _port, _own: "",
        after_reboot: Callable[[int], str] = lambda _port: "",
        plain: PlainPorts = NO_PORTS,
    ) -> None:
        self._device = device
        self._filtered = filtered
        self._after_reboot = after_reboot
        self._plain = plain
        self._folder = folder
        self._changed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._wanted = Wanted()
        self._wanted_at = 0.0
        self._status: EncryptionStatus | None = None
        self._applied: NodeTunnel | None = None
        self._confirmed: NodeTunnel | None = None
        """What a whole look found to be so, with the peers that have come since."""
        self._confirm_by: float | None = None
        self._memos = tuple(RenderCache() for _ in range(SLOTS))
        self._readiness: Readiness = {}
        self._keys: KeyStatus | None = None
        self._moved_at = time.monotonic()
        self._uncovered: tuple[float, str] = (0.0, "")
        self._is_clean = False
        self._said = ""
        self._awake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def device_names(self) -> frozenset[str]:
        """Names of the node's devices, whether they are there or not."""
        return frozenset(self._device.names)

    @property
    def status(self) -> EncryptionStatus | None:
        """The node's part as it was last read back; None where it has none."""
        return self._status

    @property
    def keys(self) -> KeyStatus | None:
        """The epochs of its keys as they were last read back; None where they have never rotated."""
        return self._keys

    def start(self, changed: Callable[[], None]) -> None:
        """Start the thread; `changed` is called from it when the status has come to say something else."""
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="node-encryption", daemon=True)
        self._thread.start()

    def want(self, wanted: Wanted) -> None:
        """Have the tunnel be so from soon on; called again with the same it does nothing."""
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted, self._wanted_at, self._is_clean = wanted, time.monotonic(), False
        os.eventfd_write(self._awake, 1)

    def stop(self) -> None:
        """End the thread. Device, routes and rules stay."""
        self._stopped.set()
        os.eventfd_write(self._awake, 1)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            subscriptions = [
                stack.enter_context(contextlib.closing(Subscription(partial(each, self._device.home), _not_followed)))
                for each in (nf_tables_netlink.subscribed, policy_routing.subscribed)
            ]
            whole = True
            while not self._stopped.is_set():
                news = [each for one in subscriptions if (each := one.socket()) is not None]
                self._look_safely(whole=whole)
                whole = self._wait(news)

    def _look_safely(self, *, whole: bool = False) -> None:
        """Make all of it so; with `whole`, by a reading in any case: nothing was told of other records."""
        before, keys = self._status, self._keys
        with self._lock:
            wanted = self._wanted
        try:
            problem = self._said if not whole and self._add(wanted) else self._look(wanted)
        except LinkwireError as error:
            problem = str(error)
        except Exception as error:
            log.exception("node encryption crashed")
            problem = f"internal error: {type(error).__name__}"
        if problem and problem != self._said:
            log.warning("node encryption not as it should be", error=problem)
        self._said = problem
        if problem and (self._status is not None or wanted.tunnel is not None):
            status = self._status or EncryptionStatus(0, "off", 0, 0, 0)
            self._status = replace(status, problem=problem)
        if (_without_counts(before), keys) != (_without_counts(self._status), self._keys):
            self._changed()

    def _wait(self, news: list[socket.socket]) -> bool:
        """Wait until something that concerns us has changed, or for the time to look; False where the records did."""
        until = time.monotonic() + self._pause()
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self._awake, *(each.fileno() for each in news)], [], [], left)
            if self._awake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._awake)
                return False
            concerns = [_drain(each) for each in news]  # of each, and not only of the first that says so
            if any(concerns):
                break
        return True

    def _pause(self) -> float:
        with self._lock:
            wanted, since = self._wanted, time.monotonic() - self._wanted_at
        if wanted.tunnel is None:
            return IDLE_S if self._is_clean or not wanted.complete else LOOK_S
        status = self._status
        settled = status is not None and status.ready == status.peers and not status.problem
        settled = settled and (self._keys is None or not self._keys.waiting)
        pause = LOOK_S if settled or since > SETTLING_S else SOON_S
        return pause if self._confirm_by is None else min(pause, self._confirm_by - time.monotonic())

    # --- one look

    def _add(self, wanted: Wanted) -> bool:
        """Add peers that have come, without a reading, where all else was found as it should be; else return False.

        A node that joins costs each other node the same, however many there are. They are read back with the next
        look, within CONFIRM_S.
        """
        before, tunnel = self._confirmed, wanted.tunnel
        is_due = self._confirm_by is not None and time.monotonic() >= self._confirm_by
        if before is None or tunnel is None or tunnel is before or is_due or not wanted.complete:
            return False
        changes = additions(before, tunnel)
        if changes is None:
            return False
        self._confirmed = None
        try:
            if self._apply(changes, tunnel):
                return False
        except LinkwireError as error:  # the long way names it
            log.info("incremental update failed, re-reading node device", error=str(error))
            return False
        self._applied = self._confirmed = tunnel
        self._confirm_by = self._confirm_by or time.monotonic() + CONFIRM_S
        return True

    def _look(self, wanted: Wanted) -> str:
        """Make the tunnel so; return what is wrong though it was made, in words. Raises LinkwireError."""
        self._confirmed = self._confirm_by = None
        if wanted.tunnel is None:
            self._take_away(wanted)
            return ""
        tunnel, device = wanted.tunnel, self._device
        device.check(tunnel)
        observed, ready = self._read(tunnel)
        changes, problem = self._diff(wanted, tunnel, observed, ready), ""
        if changes:
            log.info("node encryption changed", step=tunnel.encryption.step, reasons=", ".join(changes.changed))
            problem = self._apply(changes, tunnel)
            observed, ready = self._read(tunnel)
            left = self._diff(wanted, tunnel, observed, ready)
            # A peer that has come to answer in between is no difference: its route comes with the next look.
            if replace(left, set_routes=()) and not problem:
                raise Retryable(f"node encryption does not read back as it was set: {', '.join(left.changed)}")
        self._applied = tunnel
        self._confirmed = tunnel if wanted.complete and not problem else None
        unkept = self._keep_refusal(tunnel, complete=wanted.complete)
        self._report(tunnel, observed, ready)
        encryption = tunnel.encryption
        filtered = self._filtered(encryption.data_path_port, encryption.mode == "all") if observed.devices else ""
        return "; ".join(filter(None, (problem, tunnel.problem, self._uncovered_problem(tunnel), filtered, unkept)))

    def _apply(self, changes: TunnelDiff, tunnel: NodeTunnel) -> str:
        """Make changes; return what is wrong with the newer of two devices, in words. Raises LinkwireError."""
        try:
            failed = self._device.apply(changes, tunnel.host.version if tunnel.host is not None else 4)
        finally:  # some may have moved
            if changes.set_routes or changes.remove_routes:
                self._moved_at = time.monotonic()
        if not failed:
            return ""
        first, *later = tunnel.devices
        if first.slot in failed or not later:
            raise failed[min(failed)]
        return str(failed[later[-1].slot])

    def _keep_refusal(self, tunnel: NodeTunnel, *, complete: bool) -> str:
        """Have `enforce`, which a node acknowledges after this, outlive a reboot; name what hinders it."""
        if tunnel.encryption.step == "enforce":
            return self._after_reboot(tunnel.encryption.data_path_port)
        return self._after_reboot(0) if complete else ""

    def _take_away(self, wanted: Wanted) -> None:
        if self._is_clean or not wanted.complete:
            return
        self._after_reboot(0)  # first, or the gate's script might put the rules back
        if changes := off(self._device.read()):
            log.info("node encryption taken away", reasons=", ".join(changes.changed))
            self._device.apply(changes)
            if not self._device.read().is_off:
                raise Retryable("node encryption was not taken away")
        self._applied, self._readiness, self._status, self._keys = None, {}, None, None
        with self._lock:
            self._is_clean = self._wanted == wanted

    def _read(self, tunnel: NodeTunnel) -> tuple[Observed, frozenset[PublicKey]]:
        observed, now = self._device.read(), time.monotonic()
        devices = [each.device for each in observed.devices.values()]
        self._readiness = readiness.follow(self._readiness, devices, now, time.time())
        return observed, readiness.ready(self._readiness, now) & {peer.public_key for peer in tunnel.peers}

    def _diff(
        self, wanted: Wanted, tunnel: NodeTunnel, observed: Observed, ready: frozenset[PublicKey]
    ) -> TunnelDiff:
        hosts = [peer.endpoint.host for peer in tunnel.peers]
        way = Way(self._device.names, self._device.mtu(hosts), time.time(), ready, self._memos, self._plain)
        return diff(tunnel, observed, self._applied, way, complete=wanted.complete)

    def _report(self, tunnel: NodeTunnel, observed: Observed, ready: frozenset[PublicKey]) -> None:
        encryption = tunnel.encryption
        present = {public for each in observed.devices.values() for public in each.device.peers}
        step: Literal["off", "accept", "send", "enforce"] = encryption.step
        peers = [peer for peer in tunnel.peers if peer.public_key in present]
        self._status = EncryptionStatus(
            generation=encryption.generation,
            step=step,
            peers=len(_nodes(peers)),
            ready=len(_nodes(peer for peer in peers if peer.public_key in ready)),
            refused=self._device.refused() if observed.table is not None else 0,
        )
        self._keys = self._key_status(tunnel, observed, ready)

    def _key_status(self, tunnel: NodeTunnel, observed: Observed, ready: frozenset[PublicKey]) -> KeyStatus | None:
        epochs = tuple(device.epoch for device in tunnel.devices if device.slot in observed.devices)
        if not any(epochs):
            return None
        newest = tunnel.devices[-1]
        reached = _nodes(peer for peer in newest.peers if peer.public_key in ready)
        if tunnel.encryption.step != "accept":
            reached &= {route.node for route in observed.routes}
            reached -= {route.node for route, slot in observed.routes.items() if slot != newest.slot}
        is_drained = time.monotonic() - self._moved_at >= DRAIN_S
        waiting = sorted(name for host, name in tunnel.names if host not in reached or not is_drained)
        return KeyStatus(epochs, tuple(waiting))

    def _uncovered_problem(self, tunnel: NodeTunnel) -> str:
        """Name the addresses that overlays send to and that no peer has: nothing sent there is encrypted."""
        at, problem = self._uncovered
        if time.monotonic() >= at:
            covered = set(tunnel.others)
            if tunnel.host is not None:
                covered.add(tunnel.host)
            uncovered = sorted(map(str, overlays.destinations(self._folder) - covered))
            text = "overlays send to addresses that no node has in node encryption: "
            problem = f"{text}{', '.join(uncovered)}" if uncovered else ""
            problem = "; ".join(filter(None, (problem, self._size_problem(tunnel))))
            self._uncovered = (time.monotonic() + OVERLAYS_S, problem)
        return problem

    def _size_problem(self, tunnel: NodeTunnel) -> str:
        """Name overlays whose packets do not fit, where that loses some: VXLAN is fragmented over IPv4 alone."""
        if tunnel.host is None or tunnel.host.version == 4:  # noqa: PLR2004 - IPv4
            return ""
        fits = self._device.mtu(tunnel.others) - overlays.VXLAN_BYTES[6]
        if (largest := overlays.largest_mtu(self._folder)) <= fits:
            return ""
        text = f"overlays have an MTU of up to {largest}, and over IPv6 {fits} fit: larger packets that may be "
        return f"{text}fragmented are lost"


def _not_followed(error: LinkwireError) -> None:
    log.warning("changes of node encryption not followed", error=str(error))


def _nodes(peers: Iterable[PeerConfig]) -> set[IPAddress]:
    """Return the addresses of the peers' nodes."""
    return set[IPAddress]().union(*map(addresses, peers))


def _without_counts(status: EncryptionStatus | None) -> EncryptionStatus | None:
    return replace(status, refused=0) if status is not None else None


def _drain(news: socket.socket) -> bool:
    """Read all that a subscription has; tell whether it concerns us. Of nftables every change may."""
    concerns = False
    with contextlib.suppress(BlockingIOError):
        while True:
            try:
                datagram = news.recv(_RECEIVE_BYTES)
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    raise
                return True  # ENOBUFS: there was more than could be told
            is_nftables = news.proto == NETLINK_NETFILTER
            concerns |= is_nftables or policy_routing.is_removal(datagram)
    return concerns
