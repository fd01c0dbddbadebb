"""From what Swarm says and what the store holds to the changes that make the store say the same. Pure.

The safety rules, which hold after every prefix of a plan, whichever transaction is the last to succeed:

- an address, a VIP or a port is given only by creating its record, in the same transaction as what it is given to;
- an address is let go only by turning its record into a resting one, in the same transaction as the end of
  what held it: at no revision of the store is it neither held nor resting;
- nothing is planned from a snapshot that is not complete, and `Swarm` exists only complete;
- each change names the revision of the record that it replaces: a plan made from an old picture does nothing.

Keypairs and leases come from outside: `Allocate` and `Release` become transactions by `allocation` and `release`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from controller.observed import Swarm, SwarmNode, SwarmService, SwarmTask
from mesh import keyspace
from mesh.addresses import pick_address, pick_port
from mesh.errors import Terminal
from mesh.keys import PrivateKey, seal
from mesh.records import Address, Cluster, Endpoint, Node, Port, SealedKey, Service, TaskReport
from mesh.snapshot import Delete, Op, Put, Snapshot
from mesh.wgtypes import IPAddress, UdpEndpoint


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction that needs nothing from outside."""

    ops: tuple[Op, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Allocate:
    """Give a task its place: it needs a new keypair.

    `endpoint` has everything but the keypair; `revision` and `key_revision` are 0 for a new one.
    """

    task: SwarmTask
    node: Node
    address: IPv4Address
    underlay: UdpEndpoint
    epoch: int
    revision: int
    key_revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """End what held addresses: it needs a lease that is as long as an address rests."""

    deletes: tuple[Delete, ...]
    addresses: tuple[tuple[IPv4Address, int], ...]
    """Each with the revision of its record."""
    reason: str


Step = Change | Allocate | Release


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in order; and what stands in the way, in words."""

    steps: tuple[Step, ...]
    problems: tuple[str, ...]


def allocation(step: Allocate, private_key: PrivateKey) -> tuple[Op, ...]:
    """The transaction of an Allocate: all of it or nothing."""
    task, node = step.task, step.node
    endpoint = Endpoint(
        service=task.service,
        task=task.id,
        slot=task.slot,
        node=task.node,
        address=step.address,
        public_key=private_key.public,
        epoch=step.epoch,
        underlay=step.underlay,
        ready=False,
    )
    sealed = SealedKey(task.id, task.node, step.epoch, node.sealing_key, seal(private_key, node.sealing_key))
    ops: tuple[Op, ...] = (Put(endpoint, step.revision), Put(sealed, step.key_revision))
    if step.revision == 0:
        ops += (
            Put(Address(step.address, f"task/{task.id}"), 0),
            Put(Port(task.node, step.underlay.port, task.id), 0),
        )
    return ops


def release(step: Release, lease: int) -> tuple[Op, ...]:
    """The transaction of a Release: what held the addresses ends, and they rest until the lease does."""
    rests = tuple(Put(Address(address, None), revision, lease) for address, revision in step.addresses)
    return (*step.deletes, *rests)


def plan(swarm: Swarm, stored: Snapshot, subnet: IPv4Network) -> Plan:
    """What has to change in the store.

    Args:
        swarm: complete lists.
        stored: everything under the root. If it is not complete, nothing is planned.
        subnet: for a store that no controller has used yet; afterwards the store's own record counts.
    """
    if not stored.complete:
        return Plan((), ())
    planner = _Planner(swarm, stored, subnet)
    steps = tuple(planner.steps())
    return Plan(steps, tuple(planner.problems))


class _Planner:
    """One run of `plan`: the indexes, and what this run has given away so far."""

    def __init__(self, swarm: Swarm, stored: Snapshot, subnet: IPv4Network) -> None:
        self.swarm = swarm
        self.stored = stored
        self.cluster = stored.get(keyspace.CLUSTER, Cluster)
        self.subnet = self.cluster.subnet if self.cluster else subnet
        self.problems: list[str] = []
        self.services = {record.id: record for record in stored.all(Service)}
        self.endpoints = {record.task: record for record in stored.all(Endpoint)}
        self.nodes = {record.id: record for record in stored.all(Node)}
        self.reports = {record.task: record for record in stored.all(TaskReport)}
        self.taken = {record.address for record in stored.all(Address)}
        self.ports: dict[str, set[int]] = {}
        for port in stored.all(Port):
            self.ports.setdefault(port.node, set()).add(port.port)
        for report in self.reports.values():
            if report.port_taken is not None:
                self.ports.setdefault(report.node, set()).add(report.port_taken)
        for key in stored.invalid:  # an unreadable record still holds its address and port
            self._hold_unreadable(key)
        self.live = {task.id: task for task in swarm.tasks.values() if swarm.live(task)}
        self.wired = self._wired()

    def _hold_unreadable(self, key: str) -> None:
        self.problems.append(f"store: {self.stored.invalid[key]}")
        kind, _, rest = key.partition("/")
        try:
            if kind == "addresses":
                self.taken.add(IPv4Address(rest))
            elif kind == "ports":
                node, _, number = rest.partition("/")
                self.ports.setdefault(node, set()).add(int(number))
        except ValueError:
            pass  # not even the key is one of ours: it holds nothing

    def steps(self) -> Iterator[Step]:
        """Every change, in the order in which it is safe and quick."""
        if self.cluster is None:
            record = Cluster(self.swarm.cluster, self.subnet)
            yield Change((Put(record, 0),), f"take the store into use with subnet {self.subnet}")
        yield from self._service_steps()
        yield from self._endpoint_steps()
        yield from self._release_steps()
        yield from self._report_steps()

    # --- services

    def _wired(self) -> frozenset[str]:
        """Ids of the services that link or are linked to, among those that exist or still have live tasks."""
        by_name = {record.name: record.id for record in self.services.values()}
        by_name.update((service.name, service.id) for service in self.swarm.services.values())
        draining = {task.service for task in self.live.values()} - self.swarm.services.keys()
        found: set[str] = set()
        for service in sorted(self.swarm.services.values(), key=lambda s: s.name):
            self.problems.extend(f"service {service.name}: {error}" for error in service.label_errors)
            for link in service.labels.links:
                found.add(service.id)
                if link.provider in by_name:
                    found.add(by_name[link.provider])
                else:
                    self.problems.append(
                        f"service {service.name}: links to {link.provider}, which does not exist (yet)"
                    )
        for service_id in draining & self.services.keys():
            record = self.services[service_id]
            found.add(service_id)
            found.update(by_name[link.provider] for link in record.links if link.provider in by_name)
        return frozenset(found)

    def _service_steps(self) -> Iterator[Step]:
        for service in sorted(self.swarm.services.values(), key=lambda s: s.id):
            if service.id not in self.wired or keyspace.service(service.id) in self.stored.invalid:
                continue
            stored = self.services.get(service.id)
            if stored is None:
                yield from self._new_service(service)
            elif (wanted := _service_record(service, stored.vip)) != stored:
                revision = self.stored.revision_of(keyspace.service(service.id))
                yield Change((Put(wanted, revision),), f"service {service.name}: its links or options changed")

    def _new_service(self, service: SwarmService) -> Iterator[Step]:
        try:
            vip = pick_address(self.subnet, self.taken, f"service/{service.id}")
        except Terminal as error:
            self.problems.append(f"service {service.name}: {error}")
            return
        self.taken.add(vip)
        record = _service_record(service, vip)
        ops = (Put(record, 0), Put(Address(vip, f"service/{service.id}"), 0))
        yield Change(ops, f"service {service.name}: linked, VIP {vip}")

    # --- endpoints

    def _endpoint_steps(self) -> Iterator[Step]:
        panicking = self._panicking()
        for task in sorted(self.live.values(), key=lambda t: t.id):
            if task.service not in self.wired:
                continue
            endpoint = self.endpoints.get(task.id)
            node = self.nodes.get(task.node)
            if endpoint is None:
                yield from self._new_endpoint(task, node)
                continue
            if node is not None and (rekey := self._rekey(task, node, endpoint)):
                yield rekey
                continue
            yield from self._changed_endpoint(task, node, endpoint, panicking)

    def _new_endpoint(self, task: SwarmTask, node: Node | None) -> Iterator[Step]:
        key = keyspace.endpoint(task.service, task.id)
        if not task.wanted or key in self.stored.invalid:
            return
        if task.service not in self.swarm.services and task.service not in self.services:
            return
        if node is None:
            name = self.swarm.nodes[task.node].hostname
            self.problems.append(f"task {task.id}: its node {name} has no agent (yet), so it is not wired")
            return
        try:
            address = pick_address(self.subnet, self.taken, f"task/{task.id}")
            port = self._pick_port(node, task.id)
        except Terminal as error:
            self.problems.append(f"task {task.id}: {error}")
            return
        self.taken.add(address)
        underlay = UdpEndpoint(self._node_address(node), port)
        key_revision = self.stored.revision_of(keyspace.sealed_key(task.node, task.id))
        reason = f"task {task.id}: placed on {node.hostname}, address {address}, UDP {underlay}"
        yield Allocate(task, node, address, underlay, 0, 0, key_revision, reason)

    def _rekey(self, task: SwarmTask, node: Node, endpoint: Endpoint) -> Allocate | None:
        key = keyspace.sealed_key(task.node, task.id)
        if key in self.stored.invalid:
            return None
        sealed = self.stored.get(key, SealedKey)
        if sealed is not None and sealed.sealed_to == node.sealing_key:
            return None
        return Allocate(
            task=task,
            node=node,
            address=endpoint.address,
            underlay=endpoint.underlay,
            epoch=endpoint.epoch + 1,
            revision=self.stored.revision_of(keyspace.endpoint(endpoint.service, endpoint.task)),
            key_revision=self.stored.revision_of(key),
            reason=f"task {task.id}: its node cannot open the old key, so it gets a new one",
        )

    def _changed_endpoint(
        self, task: SwarmTask, node: Node | None, endpoint: Endpoint, panicking: frozenset[str]
    ) -> Iterator[Step]:
        report = self.reports.get(task.id)
        ready = self._ready(task, ignore_lease=task.service in panicking)
        host = self._node_address(node) if node else endpoint.underlay.host
        number = endpoint.underlay.port
        ports: tuple[Op, ...] = ()
        if node and report and report.port_taken == number:
            try:
                number = self._pick_port(node, task.id)
            except Terminal as error:
                self.problems.append(f"task {task.id}: {error}")
            else:
                ports = self._port_ops(endpoint, number)
        wanted = replace(endpoint, ready=ready, underlay=UdpEndpoint(host, number))
        if wanted != endpoint:
            revision = self.stored.revision_of(keyspace.endpoint(endpoint.service, endpoint.task))
            yield Change((Put(wanted, revision), *ports), f"task {task.id}: {_difference(endpoint, wanted)}")

    def _port_ops(self, endpoint: Endpoint, number: int) -> tuple[Op, ...]:
        old = keyspace.port(endpoint.node, endpoint.underlay.port)
        return (Put(Port(endpoint.node, number, endpoint.task), 0), Delete(old, None))

    def _pick_port(self, node: Node, hint: str) -> int:
        taken = self.ports.setdefault(node.id, set())
        number = pick_port(node.first_port, node.last_port, taken, hint)
        taken.add(number)
        return number

    def _node_address(self, node: Node) -> IPAddress:
        observed: SwarmNode | None = self.swarm.nodes.get(node.id)
        return observed.address if observed and observed.address else node.address

    def _ready(self, task: SwarmTask, *, ignore_lease: bool) -> bool:
        """Swarm's word, hastened by the node's: up when either says so, down when either says so."""
        report = self.reports.get(task.id)
        if not task.wanted or report is None or not report.wired or report.state == "gone":
            return False
        if task.node not in self.nodes and not ignore_lease:
            return False
        return task.running or report.state == "running"

    def _panicking(self) -> frozenset[str]:
        """Services whose every ready task is on a node whose agent fell silent.

        An agent's silence is not proof of its node's death: the tunnels outlive it. With other tasks to go to it
        is reason enough to send new connections there; with none, keeping all beats refusing all.
        """
        with_lease: set[str] = set()
        without: set[str] = set()
        for task in self.live.values():
            if self._ready(task, ignore_lease=False):
                with_lease.add(task.service)
            elif self._ready(task, ignore_lease=True):
                node = self.swarm.nodes.get(task.node)
                if node is not None and not node.down:
                    without.add(task.service)
        return frozenset(without - with_lease)

    # --- ends

    def _release_steps(self) -> Iterator[Step]:
        left: set[str] = set()
        for endpoint in sorted(self.endpoints.values(), key=lambda e: e.task):
            if endpoint.task in self.live and endpoint.service in self.wired:
                left.add(endpoint.service)
                continue
            deletes = (
                Delete(
                    keyspace.endpoint(endpoint.service, endpoint.task),
                    self.stored.revision_of(keyspace.endpoint(endpoint.service, endpoint.task)),
                ),
                Delete(keyspace.sealed_key(endpoint.node, endpoint.task), None),
                Delete(keyspace.port(endpoint.node, endpoint.underlay.port), None),
            )
            why = "it is no longer linked" if endpoint.task in self.live else "it ended"
            yield Release(
                deletes, self._rest(endpoint.address, f"task/{endpoint.task}"), f"task {endpoint.task}: {why}"
            )
        for service in sorted(self.services.values(), key=lambda s: s.id):
            if service.id not in self.wired and service.id not in left:
                key = keyspace.service(service.id)
                rest = self._rest(service.vip, f"service/{service.id}")
                end = (Delete(key, self.stored.revision_of(key)),)
                yield Release(end, rest, f"service {service.name}: no longer linked")

    def _rest(self, address: IPv4Address, holder: str) -> tuple[tuple[IPv4Address, int], ...]:
        key = keyspace.address(address)
        held = self.stored.get(key, Address)
        return ((address, self.stored.revision_of(key)),) if held and held.holder == holder else ()

    def _report_steps(self) -> Iterator[Step]:
        """Reports that no agent will ever take back: of tasks that are over, on nodes without an agent."""
        for report in self.reports.values():
            if report.node not in self.nodes and report.task not in self.live:
                key = keyspace.report(report.node, report.task)
                yield Change((Delete(key, self.stored.revision_of(key)),), f"task {report.task}: over, its agent too")


def _service_record(service: SwarmService, vip: IPv4Address) -> Service:
    labels = service.labels
    return Service(
        id=service.id,
        name=service.name,
        vip=vip,
        links=labels.links,
        expose=labels.expose,
        strict=labels.strict,
        dnsrr=service.dnsrr,
    )


def _difference(old: Endpoint, new: Endpoint) -> str:
    parts: Iterable[str] = (
        ("ready" if new.ready else "not ready") if old.ready != new.ready else "",
        f"UDP {old.underlay} -> {new.underlay}" if old.underlay != new.underlay else "",
    )
    return ", ".join(part for part in parts if part)
