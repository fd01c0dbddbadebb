"""What this agent knows of one local task, and how it wires it: a state that can be lost at any moment.

All of it is found again: the container from Docker, the interface from its namespace, the rest from the store.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from agent import gate, memo, names, nft, reconcile
from agent.containers import LocalTask
from agent.diff import Changes
from agent.dns.resolv_conf import ResolvConf
from agent.dns.responder import Responder
from agent.errors import HostsFileMissing, PortTaken
from agent.netns import TaskNetns
from agent.rules import Table
from agent.wireguard import Backend
from mesh.errors import LinkwireError, NetnsGone, Retryable, Terminal
from mesh.peerconfigs import PeerConfigs
from mesh.policy import Resolving
from mesh.records import DeviceStatus, PeerStatus, TaskReport
from mesh.wgtypes import HostEntry, Interface, InterfaceConfig

log = structlog.get_logger(__name__)

RETRY_S = 0.1
MAX_RETRY_S = 5.0
CONFIRM_S = 1.0
"""Seconds after which a device is read that was changed without being read."""


@dataclass(slots=True)
class TaskState:
    """One local task.

    Attributes:
        local: its container as last seen.
        netns: its namespace, held open while it is wired.
        applied: what was applied and read back last; None while it is not wired.
        error: why it is not wired, in words.
        port_taken: the UDP port that another program holds.
        dirty: whether its namespace must be read again although nothing else changed.
        retry_at: when to try again after an error, by the monotonic clock; None for no need.
        tried: what was last meant, whether or not it worked.
        brought: the graph that it was last brought in line with.
        peers: those that were last meant.
        unready: services that it waits for, and none of whose tasks is ready.
        confirm_at: when its device must be read, by the monotonic clock, since its peers were changed without; None
            where all that `applied` says was read back.
        responder: what answers its DNS questions for its links; None where nothing can.
        resolv_conf: whom it asks.
        named_for: the graph, and how often Docker had connected it, for which its links' names were written before it
            has a device; None where they were not.
        suspects: the suspect endpoints that it may open connections to.
        busy: whether a thread is at work on it: until that has ended nobody else changes anything here but `listed`.
        later: by when, by the monotonic clock, a change is made that is in no hurry; None for no such change.
        listed: whether its container was in a new list, so that its namespace is to be read again.
    """

    local: LocalTask
    netns: TaskNetns | None = None
    applied: InterfaceConfig | None = None
    error: str | None = None
    port_taken: int | None = None
    dirty: bool = True
    retry_at: float | None = None
    tried: InterfaceConfig | None = None
    brought: object = None
    peers: PeerConfigs = field(default_factory=PeerConfigs)
    confirm_at: float | None = None
    responder: Responder | None = None
    resolv_conf: ResolvConf = field(default_factory=ResolvConf)
    unready: tuple[str, ...] = ()
    suspects: frozenset[IPv4Address] = frozenset()
    named_for: tuple[object, int] | None = None
    busy: bool = False
    later: float | None = None
    listed: bool = False
    _memo: memo.Memo = field(default_factory=memo.Memo)
    """Goes on in its namespace once there is one."""
    _status: DeviceStatus | None = None
    _report: TaskReport | None = None
    _settled: bool = False
    """Whether all of it was read back as `applied`, or as what that went on from, and nothing was left out."""
    _delay: float = field(default=RETRY_S)

    def name(self, entries: tuple[HostEntry, ...]) -> bool:
        """Write its links' names before it has a device; whether they are there now."""
        try:
            if names.write(self.local.hosts, entries):
                log.info("named", task=self.local.task, name=self.local.name)
        except HostsFileMissing:
            return False  # Docker makes it when it connects the container
        except LinkwireError as error:
            log.warning("not named yet", task=self.local.task, name=self.local.name, error=str(error))
            return False
        return True

    def wire(self, backend: Backend, desired: InterfaceConfig, *, complete: bool) -> None:
        """Make its interface what is meant; never raises, `error` tells."""
        self.tried = desired
        began = time.monotonic()
        if self.local.netns is None:
            self._prepare(backend, desired)
            return
        try:
            # An unhealthy task counts as created too, but what has begun may have had a device for long.
            is_new = self.netns is None and self.local.state == "created" and self.local.ways is not None
            netns = self._open(backend, self.local.netns)
            if self.responder is not None:
                self.responder.serve(self.local.container, netns, desired.answers, desired.policy.resolving)
            changes = self._advance(backend, netns, desired) if complete and not self.dirty else None
            if changes is None:
                changes = self._reconcile(backend, netns, desired, complete=complete, is_new=is_new)
        except NetnsGone:
            self.close()
        except PortTaken as error:
            self.port_taken = desired.listen_port
            self._failed(backend, error)
        except LinkwireError as error:
            self._failed(backend, error)
        else:
            if changes.create and self.local.gated and self.local.state == "running":
                log.warning(
                    "began before it was wired: is the gate this node's default runtime?", task=self.local.task
                )
            if changes:
                log.info(
                    "wired",
                    task=self.local.task,
                    name=self.local.name,
                    changes="; ".join(changes.reasons),
                    seconds=round(time.monotonic() - began, 3),
                )
            self.applied, self.error, self.port_taken = desired, None, None
            self.open_gate()
            self._done()

    def is_in_no_hurry(self, desired: InterfaceConfig) -> bool:
        """Whether all that changes is which addresses outside the mesh it is kept apart from.

        Of two tasks that are kept apart, each refuses what the other sends: one that is being started does so from
        when it is wired on, and those that are wired already need not be changed before it.
        """
        if self.applied is None or self.dirty:
            return False
        policy = replace(desired.policy, isolated=self.applied.policy.isolated)
        return replace(desired, policy=policy) == self.applied

    def open_gate(self) -> None:
        """Let its process begin, now that it is wired; or say whom it still waits for."""
        if self.unready:
            gate.hold(self.local.container, self.unready)
        elif self.local.netns is not None:
            gate.open_for(self.local.container, self.local.netns)

    def _advance(self, backend: Backend, netns: TaskNetns, desired: InterfaceConfig) -> Changes | None:
        """Go on from what was read back last; None where it must be read. Raises NetnsGone."""
        if self.applied is None or not self._settled:
            return None
        self._settled = False  # until it is known what came of it
        try:
            changes = reconcile.advance(backend, netns, self.local.hosts, desired, self.applied)
        except NetnsGone:
            raise
        except LinkwireError as error:
            log.info("is read anew", task=self.local.task, error=str(error))
            return None
        if changes is not None:
            self._settled = True
            if self.confirm_at is None:
                self.confirm_at = time.monotonic() + CONFIRM_S
        return changes

    def _reconcile(
        self, backend: Backend, netns: TaskNetns, desired: InterfaceConfig, *, complete: bool, is_new: bool
    ) -> Changes:
        """Read all of it, make it what is meant, read it back. Raises as `reconcile.reconcile`.

        What else of ours is in a namespace is looked for when its task has started, not while its process waits for
        us: Docker holds the kernel's lock of all devices then, and each look at them takes 15 ms.
        """
        self._settled = False
        if complete and not is_new:
            reconcile.remove(backend, netns, None, keep=desired.name)
        changes, _ = reconcile.reconcile(
            backend, netns, self.local.hosts, desired, self.applied, complete=complete, is_new=is_new
        )
        self.confirm_at, self._settled = None, complete
        return changes

    def _prepare(self, backend: Backend, desired: InterfaceConfig) -> None:
        """It has no namespace yet, and will have one any moment; or it never can be wired."""
        self.error = self.local.problem
        if self.error is not None:
            gate.shut(self.local.container, self.error)
        elif self.local.state == "created":
            try:
                backend.prepare(desired.name)
            except LinkwireError as error:
                self._retry(error)
                return
            self._memo.render(desired.policy, desired.name)
        self._done()

    def resolving(self, names: tuple[str, ...]) -> Resolving:
        """Which of its DNS questions are answered, the names of its links being these."""
        if self.responder is None or not self.responder.able:
            return Resolving()
        self.resolv_conf.look(str(Path(self.local.hosts).with_name("resolv.conf")))
        return Resolving(names, self.resolv_conf.servers, self.resolv_conf.search)

    def unwire(self, backend: Backend, *, is_linked: bool = False) -> None:
        """Leave nothing of ours in its namespace; never raises, `error` tells.

        Args:
            backend: of its device.
            is_linked: whether its service has links: names that its node refuses stay then, for its address to come.
        """
        gate.shut(self.local.container, "its service has no link, or the controller has given it no address yet")
        if self.local.netns is None:
            self._done()
            return
        try:
            hosts = None if is_linked and self.named_for is not None else self.local.hosts
            if removed := reconcile.remove(backend, self._open(backend, self.local.netns), hosts):
                log.info("unwired", task=self.local.task, name=self.local.name, devices=", ".join(removed))
        except NetnsGone:
            pass
        except LinkwireError as error:
            self._retry(error)
            return
        self.close()
        self.error, self.port_taken = None, None
        self._done()

    def status(self, backend: Backend) -> DeviceStatus | None:
        """Its device as it reads now, or as it read last while a thread is at work on it; None for none."""
        if not self.busy:
            self._status = self._read_status(backend)
        return self._status

    def _read_status(self, backend: Backend) -> DeviceStatus | None:
        read = self.read(backend)
        if read is None:
            return None
        observed, table = read
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
        return DeviceStatus(self.local.task, observed.device.public_key, peers, table.refused)

    def read(self, backend: Backend) -> tuple[Interface, Table] | None:
        """Its interface and rules as they read now; None where one is missing. What should be there is made again."""
        if self.netns is None or self.applied is None:
            return None
        observed, table = None, None
        with contextlib.suppress(LinkwireError):
            observed = reconcile.observe(backend, self.netns, self.applied.name)
            table = nft.read(self.netns)
        if observed is None or table is None:
            self.dirty = True
            return None
        self.dirty = self.dirty or table.rules != memo.of(self.netns).render(self.applied.policy, self.applied.name)
        return observed, table

    def failed_oddly(self, error: Exception) -> None:
        """Something failed that has no name here: say its kind, not its text, which may hold anything."""
        self._retry(Terminal(f"an error of Linkwire's own, {type(error).__name__}: see the agent's log"))

    def report(self) -> TaskReport:
        """What the controller should know of it; while a thread is at work on it, what that was before."""
        if self._report is None or not self.busy:
            self._report = TaskReport(
                task=self.local.task,
                service=self.local.service,
                state=self.local.state,
                wired=self.applied is not None,
                error=self.error or self._unanswered(),
                port_taken=self.port_taken,
                elsewhere=self.local.elsewhere,
                node="",
            )
        return self._report

    def is_wired_still(self) -> bool:
        """Whether it is wired and its namespace is there; one that a thread is at work on counts as such."""
        if self.busy:
            return True
        if self.netns is None or self.applied is None:
            return False
        try:
            self.netns.check()
        except NetnsGone:
            return False
        return True

    def _unanswered(self) -> str | None:
        """What of it does not work although it is wired."""
        if self.responder is None or self.applied is None or not self.applied.answers:
            return None
        return self.responder.problem(self.local.container)

    def close(self) -> None:
        """Let go of its namespace: a socket kept in it would keep it, and its device, for ever."""
        if self.responder is not None:
            self.responder.stop(self.local.container)
        if self.netns is not None:
            self.netns.close()
        self.netns = None
        self.applied = self.confirm_at = None

    def _open(self, backend: Backend, path: str) -> TaskNetns:
        if self.netns is not None and self.netns.path != path:
            self._leave(backend, self.netns)
        if self.netns is None:
            self.netns = TaskNetns(path)
            memo.keep(self.netns, self._memo)
        return self.netns

    def _leave(self, backend: Backend, wrong: TaskNetns) -> None:
        """Docker names another namespace than the one that was found: no key may stay where it does not belong."""
        log.warning("another namespace than thought", task=self.local.task, thought=wrong.path, is_=self.local.netns)
        try:
            reconcile.remove(backend, wrong, None)
        except NetnsGone:
            pass
        except LinkwireError as error:
            log.warning("could not be taken back", task=self.local.task, error=str(error))
        self.close()

    def _failed(self, backend: Backend, error: LinkwireError) -> None:
        """Not half-wired: a task that cannot be wired has no device, and no names but those that its node refuses.

        A passing error changes nothing.
        """
        if not isinstance(error, Retryable) and self.netns is not None:
            gate.shut(self.local.container, str(error))
            try:
                reconcile.remove(backend, self.netns, None if self.named_for else self.local.hosts)
            except LinkwireError as again:
                log.warning("could not be taken back", task=self.local.task, error=str(again))
            self.applied = None
        self._retry(error)

    def _retry(self, error: LinkwireError) -> None:
        if str(error) != self.error:
            log.warning("not wired", task=self.local.task, name=self.local.name, error=str(error))
        self.error = str(error)
        if self.applied is None:
            gate.shut(self.local.container, self.error)
        self.dirty, self.confirm_at = True, None
        self.retry_at = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, MAX_RETRY_S)

    def _done(self) -> None:
        self.dirty, self.retry_at, self._delay = False, None, RETRY_S
