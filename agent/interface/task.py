"""State of one local task, and the work on it: wire it, unwire it, read its device, report it.

A state can be lost at any moment. All of it is found again: the container from Docker, the interface from its
namespace, the rest from the store.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import structlog

from agent.containers import start_gate
from agent.containers.docker_client import LocalTask
from agent.dns.task_dns import TaskDns
from agent.errors import HostsFileMissingError, PortTakenError, RulesRefusedError, RulesTooLargeError
from agent.firewall import nft
from agent.firewall.port_lists import Bounds
from agent.firewall.source_guard import SourceGuard
from agent.interface import reconcile
from agent.interface.diff import InterfaceDiff
from agent.interface.schedule import Schedule
from agent.interface.task_interface import TaskInterface, status_of
from agent.linux import hosts_file
from agent.linux.netns import TaskNetns
from agent.wireguard.backend import Backend
from mesh.crypto.keys import PublicKey
from mesh.errors import LinkwireError, NetnsGoneError, Retryable, Terminal
from mesh.model.records import Attachment, DeviceStatus, TaskReport
from mesh.topology.desired import device_name
from mesh.topology.peer_cache import PeerCache
from mesh.topology.wgtypes import HostEntry, InterfaceConfig

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class TaskState:
    """One local task.

    Attributes:
        local: its container as last seen.
        interface: what it has in its namespace.
        schedule: when it is worked on again.
        dns: what answers its DNS questions.
        error: why it is not wired, in words.
        port_taken: the UDP port that another program holds.
        peers: those that were last desired.
        unready: services that it waits for, and none of whose tasks is ready.
        suspects: the suspect endpoints that it may open connections to.
        named_for: the graph, and how often Docker had connected it, for which its links' names were written before it
            has a device; None where they were not.
        exposed: the public half of a private key that came into a namespace which proved to be another's.
        bounds: of its rules.
        busy: whether a thread is at work on it: until that has ended nobody else changes anything here but
            `schedule.listed`.
    """

    local: LocalTask
    interface: TaskInterface = field(default_factory=TaskInterface)
    schedule: Schedule = field(default_factory=Schedule)
    dns: TaskDns = field(default_factory=TaskDns)
    error: str | None = None
    port_taken: int | None = None
    peers: PeerCache = field(default_factory=PeerCache)
    unready: tuple[str, ...] = ()
    suspects: frozenset[IPv4Address] = frozenset()
    named_for: tuple[object, int] | None = None
    exposed: PublicKey | None = None
    bounds: Bounds = field(default_factory=Bounds)
    busy: bool = False
    virtual: tuple[Attachment, ...] = ()
    """Its service's own virtual IPs in Swarm, by which tasks answer on networks with direct server return."""
    _guard: SourceGuard = field(default_factory=SourceGuard)
    _guarded: tuple[tuple[Attachment, ...], bool] | None = None
    """Its addresses, and whether it is kept apart on the node's bridges, as the guard was put last."""
    _guessed: PublicKey | None = None
    """The key that is in a namespace of which Docker has not said that it is the task's."""
    _last: tuple[DeviceStatus | None, TaskReport | None] = (None, None)
    """Its last status and report, valid while a thread is at work on it."""

    # --- for the loop

    def write_names(self, entries: tuple[HostEntry, ...]) -> bool:
        """Write its links' names before it has a device; return whether they are there now."""
        try:
            if hosts_file.write(self.local.hosts, entries):
                log.info("early names written", task=self.local.task, name=self.local.name)
        except HostsFileMissingError:
            return False  # Docker makes it when it connects the container
        except LinkwireError as error:
            log.warning("early names not written", task=self.local.task, name=self.local.name, error=str(error))
            return False
        return True

    def is_in_no_hurry(self, desired: InterfaceConfig) -> bool:
        """Tell whether all that changes is which addresses outside the mesh it is kept apart from.

        Of two tasks that are kept apart, each refuses what the other sends: one that is being started does so from
        when it is wired on, and those that are wired already need not be changed before it.
        """
        applied = self.interface.applied
        if applied is None or self.schedule.dirty:
            return False
        return replace(desired, policy=replace(desired.policy, isolated=applied.policy.isolated)) == applied

    @property
    def is_new(self) -> bool:
        """Whether Docker has only just made its namespace, so that no device of ours can be in it.

        An unhealthy task counts as created too, but its process has begun, and an agent before this one may have
        wired it long ago: Docker tells the ways of a container only until its process begins.
        """
        return self.interface.netns is None and self.local.state == "created" and self.local.ways is not None

    def is_wired_still(self) -> bool:
        """Tell whether it is wired and its namespace is there; one that a thread is at work on counts as such."""
        return self.busy or self.interface.is_wired_still()

    def status(self, backend: Backend) -> DeviceStatus | None:
        """Read its device; what it read last while a thread is at work on it; None for none.

        What should be there and is not is made again.
        """
        if not self.busy:
            self._last = self._read_status(backend), self._last[1]
        return self._last[0]

    def report(self) -> TaskReport:
        """Build its report for the controller; while a thread is at work on it, return the last one."""
        status, last = self._last
        if last is not None and self.busy:
            return last
        applied = self.interface.applied
        report = TaskReport(
            task=self.local.task,
            service=self.local.service,
            state=self.local.state,
            wired=applied is not None,
            error=self.error or self.dns.problem(self.local.container, applied) or self.bounds.problem(),
            port_taken=self.port_taken,
            elsewhere=self.local.elsewhere,
            node="",
        )
        self._last = status, report
        return report

    def close(self) -> None:
        """Let go of its namespace: a socket kept in it would keep it, and its device, for ever."""
        self.dns.stop(self.local.container)
        self.interface.close()
        self.schedule.confirm_at = None

    def end(self, backend: Backend) -> None:
        """Let go of the namespace of a container that has ended.

        One that was only guessed may be another's: Docker never said so, and the device would stay there.
        """
        if self._guessed is not None and self.interface.netns is not None:
            self._take_back(backend, self.interface.netns)
            self._guessed = None
        self.close()

    # --- for the thread that is at work on it

    def wire(self, backend: Backend, desired: InterfaceConfig, *, complete: bool) -> None:
        """Make its interface what is desired; never raises, `error` tells."""
        self.schedule.tried = desired
        began = time.monotonic()
        if self.local.netns is None:
            self._prepare(backend, desired)
            return
        try:
            is_new = self.is_new
            netns = self._open(backend, self.local.netns)
            self._guessed = desired.private_key.public if self.local.is_guess else None
            self.dns.serve(self.local.container, netns, desired)
            changes = self._apply(backend, netns, desired, complete=complete, is_new=is_new)
            guarded = (*self.local.elsewhere, *self.virtual), bool(desired.policy.exits)
            if self.schedule.dirty or changes.create or guarded != self._guarded:
                self._guard.ensure(netns, guarded[0], is_apart=guarded[1])
                self._guarded = guarded
        except NetnsGoneError:
            self.close()
        except PortTakenError as error:
            self.port_taken = desired.listen_port
            self._fail(backend, error)
        except (RulesRefusedError, RulesTooLargeError) as error:
            self._wire_fewer(backend, desired, error, complete=complete)
        except LinkwireError as error:
            self._fail(backend, error)
        else:
            self._log_wired(changes, time.monotonic() - began)
            self.interface.applied, self.error, self.port_taken = desired, None, None
            self.open_gate()
            self.schedule.succeed()

    def _wire_fewer(
        self, backend: Backend, desired: InterfaceConfig, error: LinkwireError, *, complete: bool
    ) -> None:
        """Leave out the links that came last: rules that were taken before stay, and who is refused is who is new."""
        applied = self.interface.applied
        before = applied.policy if applied is not None else None
        policy = self.bounds.fewer(desired.policy, before, str(error), time.monotonic())
        if policy is None:
            self._fail(backend, error)
            return
        log.warning("links left out", task=self.local.task, name=self.local.name, error=self.bounds.problem())
        self.schedule.dirty = True
        self.wire(backend, replace(desired, policy=policy), complete=complete)

    def open_gate(self) -> None:
        """Let its process begin, now that it is wired; or say whom it still waits for."""
        if self.unready:
            start_gate.hold(self.local.container, self.unready)
        elif self.local.netns is not None:
            start_gate.open_for(self.local.container, self.local.netns)

    def unwire(self, backend: Backend, *, is_linked: bool = False) -> None:
        """Leave nothing of ours in its namespace; never raises, `error` tells.

        Args:
            backend: of its device.
            is_linked: whether its service has links: names that its node refuses stay then, for its address to come.
        """
        start_gate.shut(
            self.local.container, "its service has no link, or the controller has given it no address yet"
        )
        if self.local.netns is None:
            self.schedule.succeed()
            return
        try:
            hosts = None if is_linked and self.named_for is not None else self.local.hosts
            if removed := reconcile.remove(backend, self._open(backend, self.local.netns), hosts):
                log.info("task unwired", task=self.local.task, name=self.local.name, device=", ".join(removed))
            self._guard.remove()
        except NetnsGoneError:
            pass
        except LinkwireError as error:
            self._retry(error)
            return
        self.close()
        self.error, self.port_taken = None, None
        self.schedule.succeed()

    def put_off(self, error: LinkwireError) -> None:
        """Try again later, where the work could not even begin."""
        self._retry(error)

    def fail_unexpectedly(self, error: Exception) -> None:
        """Try again after an error that has no name here: say its kind, not its text, which may hold anything."""
        self._retry(Terminal(f"an error of Linkwire's own, {type(error).__name__}: see the agent's log"))

    def _apply(
        self, backend: Backend, netns: TaskNetns, desired: InterfaceConfig, *, complete: bool, is_new: bool
    ) -> InterfaceDiff:
        """Go on from what was read back last, or read, apply and read back. Raises as `reconcile.reconcile`."""
        hosts = self.local.hosts
        if complete and not self.schedule.dirty:
            changes = self.interface.advance(backend, netns, hosts, self.local.task, desired)
            if changes is not None:
                self.schedule.confirm_soon()
                return changes
        changes = self.interface.reconcile(backend, netns, hosts, desired, complete=complete, is_new=is_new)
        self.schedule.confirm_at = None
        return changes

    def _log_wired(self, changes: InterfaceDiff, seconds: float) -> None:
        task, name = self.local.task, self.local.name
        if changes.create and self.local.gated and self.local.state == "running":
            why = "is the gate this node's default runtime?"
            log.warning("task began before it was wired", task=task, name=name, reasons=why)
        if changes:
            log.info(
                "task wired", task=task, name=name, reasons="; ".join(changes.reasons), seconds=round(seconds, 3)
            )

    def _prepare(self, backend: Backend, desired: InterfaceConfig) -> None:
        """Do what can be done while it has no namespace: it will have one any moment, or it never can be wired."""
        self.error = self.local.problem or self.local.unread or None
        if self.local.problem is not None:
            start_gate.shut(self.local.container, self.local.problem)
        elif self.local.state == "created" and not self.local.unread:
            try:
                backend.prepare(desired.name)
            except LinkwireError as error:
                self._retry(error)
                return
            self.interface.prerender(desired)
        self.schedule.succeed()

    def _read_status(self, backend: Backend) -> DeviceStatus | None:
        is_wired = self.interface.netns is not None and self.interface.applied is not None
        read = self.interface.observe(backend)
        if read is None:
            self.schedule.dirty = self.schedule.dirty or is_wired
            return None
        observed, table = read
        is_whole = self.interface.has_its_rules(table) and self.interface.has_its_device(observed)
        self.schedule.dirty = self.schedule.dirty or not is_whole
        return status_of(self.local.task, observed, table)

    def _open(self, backend: Backend, path: str) -> TaskNetns:
        wrong = self.interface.netns
        if wrong is not None and wrong.path != path:
            # Docker names another namespace than the one that was found: no key may stay where it does not belong.
            log.warning("task is in another namespace", task=self.local.task, namespace=path, previous=wrong.path)
            self._take_back(backend, wrong)
            self.close()
        return self.interface.open(path)

    def _take_back(self, backend: Backend, wrong: TaskNetns) -> None:
        """Remove the task's device from a namespace that is another's, where somebody may have renamed it meanwhile.

        A key that was there is no longer the task's alone.
        """
        self.exposed = self._guessed or self.exposed
        device, exposed = device_name(self.local.task), self.exposed
        for step in (
            *(() if exposed is None else (lambda: backend.take_back(wrong, device, exposed),)),
            # Others of ours there are of the task whose namespace it is.
            lambda: backend.delete(wrong, device),
            lambda: None if backend.found(wrong) else nft.remove(wrong),
            self._guard.remove,
        ):
            try:
                step()
            except NetnsGoneError:
                return
            except LinkwireError as error:
                log.warning("device not removed", task=self.local.task, namespace=wrong.path, error=str(error))

    def _fail(self, backend: Backend, error: LinkwireError) -> None:
        """Leave nothing half-wired: a task that cannot be wired has no device, and only names that its node refuses.

        A passing error changes nothing.
        """
        netns = self.interface.netns
        if not isinstance(error, Retryable) and netns is not None:
            start_gate.shut(self.local.container, str(error))
            try:
                reconcile.remove(backend, netns, None if self.named_for else self.local.hosts)
            except LinkwireError as again:
                log.warning("device not removed", task=self.local.task, namespace=netns.path, error=str(again))
            self.interface.applied = None
        self._retry(error)

    def _retry(self, error: LinkwireError) -> None:
        if str(error) != self.error:
            log.warning("task not wired", task=self.local.task, name=self.local.name, error=str(error))
        self.error = str(error)
        if self.interface.applied is None:
            start_gate.shut(self.local.container, self.error)
        self.schedule.fail()
