"""From what Swarm says and what the store holds to the changes that make the store say the same. Pure.

The safety rules, which hold after every prefix of a plan, whichever transaction is the last to succeed:

- an address, a VIP or a port is given only by creating its record, in the same transaction as what it is given to;
- an address is let go only by turning its record into a resting one, in the same transaction as the end of
  what held it: at no revision of the store is it neither held nor resting;
- nothing is planned from a snapshot that is not complete, and `Swarm` exists only complete;
- each change names the revision of the record that it replaces: a plan made from an old picture does nothing;
- a record that cannot be read counts as unknown: it holds what its key names, and nothing is concluded from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network

from controller.attachments import Attachments
from controller.linkkeys_plan import LinkKeyPlan
from controller.observed import Swarm, SwarmNode, SwarmService, SwarmTask
from controller.steps import Allocate, Change, Plan, Release, Step
from controller.taken import Taken
from mesh import keyspace
from mesh.addresses import pick_address, pick_port, ula
from mesh.errors import Terminal
from mesh.hybrid import NodePublicKey
from mesh.records import Address, Attachment, Cluster, Endpoint, Node, Port, SealedKey, Service, TaskReport
from mesh.snapshot import Delete, Holds, Op, Put, Snapshot
from mesh.wgtypes import IPAddress, UdpEndpoint


def plan(swarm: Swarm, stored: Snapshot, subnet: IPv4Network, now: int, members: Mapping[str, NodePublicKey]) -> Plan:
    """What has to change in the store.

    Args:
        swarm: complete lists.
        stored: everything under the root. If it is not complete, nothing is planned.
        subnet: for a store that no controller has used yet; afterwards the store's own record counts.
        now: seconds since the epoch of the controller's clock: link keys are renewed by it, and nothing else.
        members: the nodes that have shown a sealing key to be theirs (controller.members), with it. Nothing new is
            sealed to another node, and nothing that is there already is taken from it.
    """
    if not stored.complete:
        return Plan((), ())
    cluster = stored.get(keyspace.CLUSTER, Cluster)
    if cluster is not None and cluster.id != swarm.cluster:
        # Its records are of tasks that this Swarm does not know: they would all be taken away.
        text = (
            f"the store belongs to the Swarm {cluster.id}, and this is {swarm.cluster}: give each an etcd of its own"
        )
        return Plan((), (text,))
    planner = _Planner(swarm, stored, subnet, now, members)
    steps = tuple(planner.steps())
    return Plan(steps, tuple(dict.fromkeys((*planner.problems, *planner.link_keys.problems))), planner.link_keys.due)


class _Planner:
    """One run of `plan`: the indexes, and what this run has given away so far."""

    def __init__(
        self, swarm: Swarm, stored: Snapshot, subnet: IPv4Network, now: int, members: Mapping[str, NodePublicKey]
    ) -> None:
        self.swarm = swarm
        self.members = members
        self.stored = stored
        self.cluster = stored.get(keyspace.CLUSTER, Cluster)
        self.subnet = self.cluster.subnet if self.cluster else subnet
        self.problems: list[str] = []
        if self.subnet != subnet:
            self.problems.append(f"the mesh's subnet is {self.subnet} since its first use; {subnet} is ignored")
        self.services = {record.id: record for record in stored.all(Service)}
        self.endpoints = {record.task: record for record in stored.all(Endpoint)}
        self.nodes = {record.id: record for record in stored.all(Node)}
        self.held = {record.holder: record.address for record in stored.all(Address) if record.holder}
        for key in sorted(stored.invalid):
            self.problems.append(f"store: {stored.invalid[key]}")
        self.live = {task.id: task for task in swarm.tasks.values() if swarm.live(task)}
        self.attachments = Attachments.of(swarm)
        self.wired = self._wired()
        linked = [task for task in self.live.values() if task.service in self.wired]
        self.link_keys = LinkKeyPlan(swarm, stored, linked, members, now)

    @cached_property
    def taken(self) -> Taken:
        """Addresses and ports that are held or rest, and what this run has given: not looked up before that."""
        return Taken.of(self.stored)

    def steps(self) -> Iterator[Step]:
        """Every change, in the order in which it is safe and quick."""
        if keyspace.CLUSTER in self.stored.invalid:
            return  # which subnet is not known
        if self.cluster is None:
            record = Cluster(self.swarm.cluster, self.subnet, ula(self.swarm.cluster))
            yield Change((Put(record, 0),), f"take the store into use with subnet {self.subnet}")
        yield from self.link_keys.first_steps()
        yield from self._service_steps()
        yield from self._endpoint_steps()
        yield from self._release_steps()
        yield from self._orphan_steps()
        yield from self.link_keys.last_steps()

    # --- services

    def _wired(self) -> frozenset[str]:
        """Ids of the services that link or are linked to, among those that exist or still have live tasks."""
        ending = {task.service for task in self.live.values()} - self.swarm.services.keys()
        links = {service.id: service.labels.links for service in self.swarm.services.values()}
        links |= {found: self.services[found].links for found in ending & self.services.keys()}
        by_name: dict[str, set[str]] = {}  # two of a name while one ends and is made again
        for found in links:
            name = self.swarm.services[found].name if found in self.swarm.services else self.services[found].name
            by_name.setdefault(name, set()).add(found)
        wired = {found for found in ending if found in links or keyspace.service(found) in self.stored.invalid}
        for service in sorted(self.swarm.services.values(), key=lambda s: s.name):
            self.problems.extend(f"service {service.name}: {error}" for error in service.label_errors)
            self.problems.extend(
                f"service {service.name}: links to {link.provider}, which does not exist (yet)"
                for link in service.labels.links
                if link.provider not in by_name
            )
        for found, its in links.items():
            if its:
                wired.add(found)
            wired.update(*(by_name.get(link.provider, ()) for link in its))
        return frozenset(wired)

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
        holder = f"service/{service.id}"
        vip = self.held.get(holder)
        others = {e.address for e in self.endpoints.values()} | {s.vip for s in self.services.values()} if vip else ()
        if vip and vip not in others:  # only its own record was lost, and the VIP stays for the service's life
            self.services[service.id] = record = _service_record(service, vip)
            still = Holds(keyspace.address(vip), self.stored.revision_of(keyspace.address(vip)))
            yield Change((Put(record, 0), still), f"service {service.name}: linked, and holds VIP {vip} already")
            return
        try:
            vip = pick_address(self.subnet, self.taken.addresses, holder)
        except Terminal as error:
            self.problems.append(f"service {service.name}: {error}")
            return
        self.taken.addresses.add(vip)
        ops = (Put(_service_record(service, vip), 0), Put(Address(vip, holder), 0))
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
            if node is not None and (rekey := self._rekey(task, endpoint)):
                yield rekey
                continue
            yield from self._changed_endpoint(task, node, endpoint, panicking)

    def _new_endpoint(self, task: SwarmTask, node: Node | None) -> Iterator[Step]:
        keys = (keyspace.endpoint(task.service, task.id), keyspace.sealed_key(task.node, task.id))
        if not task.wanted or any(key in self.stored.invalid for key in keys):
            return
        if task.service not in self.swarm.services and task.service not in self.services:
            return
        to = self.members.get(task.node)
        if node is None or to is None:
            silent = node is None and keyspace.node(task.node) not in self.stored.invalid
            why = "has no agent (yet)" if silent else "has not shown its keys"
            name = self.swarm.nodes[task.node].hostname
            self.problems.append(f"task {task.id}: its node {name} {why}, so it is not wired")
            return
        try:
            address = pick_address(self.subnet, self.taken.addresses, f"task/{task.id}")
            port = self._pick_port(node, task.id)
        except Terminal as error:
            self.problems.append(f"task {task.id}: {error}")
            return
        self.taken.addresses.add(address)
        underlay = UdpEndpoint(self._node_address(node), port)
        key_revision = self.stored.revision_of(keys[1])
        reason = f"task {task.id}: placed on {node.hostname}, address {address}, UDP {underlay}"
        yield from self.link_keys.for_task(task)
        yield Allocate(task, to, address, underlay, self._elsewhere(task, ()), 0, 0, key_revision, reason)

    def _rekey(self, task: SwarmTask, endpoint: Endpoint) -> Allocate | None:
        key, to = keyspace.sealed_key(task.node, task.id), self.members.get(task.node)
        if key in self.stored.invalid or to is None:
            return None
        sealed = self.stored.get(key, SealedKey)
        if sealed is not None and sealed.sealed_to == to.fingerprint:
            return None
        return Allocate(
            task=task,
            to=to,
            address=endpoint.address,
            underlay=endpoint.underlay,
            elsewhere=self._elsewhere(task, endpoint.elsewhere),
            epoch=endpoint.epoch + 1,
            revision=self.stored.revision_of(keyspace.endpoint(endpoint.service, endpoint.task)),
            key_revision=self.stored.revision_of(key),
            reason=f"task {task.id}: its node cannot open the old key, so it gets a new one",
        )

    def _changed_endpoint(
        self, task: SwarmTask, node: Node | None, endpoint: Endpoint, panicking: frozenset[str]
    ) -> Iterator[Step]:
        report = self._report(task)
        ready = self._ready(task, endpoint, ignore_lease=task.service in panicking)
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
        elsewhere = self._elsewhere(task, endpoint.elsewhere)
        underlay = endpoint.underlay
        if (ready, host, number, elsewhere) != (endpoint.ready, underlay.host, underlay.port, endpoint.elsewhere):
            wanted = replace(endpoint, ready=ready, underlay=UdpEndpoint(host, number), elsewhere=elsewhere)
            revision = self.stored.revision_of(keyspace.endpoint(endpoint.service, endpoint.task))
            yield Change((Put(wanted, revision), *ports), f"task {task.id}: {_difference(endpoint, wanted)}")

    def _port_ops(self, endpoint: Endpoint, number: int) -> tuple[Op, ...]:
        old = keyspace.port(endpoint.node, endpoint.underlay.port)
        return (Put(Port(endpoint.node, number, endpoint.task), 0), Delete(old, None))

    def _pick_port(self, node: Node, hint: str) -> int:
        taken = self.taken.ports[node.id]
        number = pick_port(node.first_port, node.last_port, taken, hint)
        taken.add(number)
        return number

    def _node_address(self, node: Node) -> IPAddress:
        observed: SwarmNode | None = self.swarm.nodes.get(node.id)
        return observed.address if observed and observed.address else node.address

    def _report(self, task: SwarmTask) -> TaskReport | None:
        """What the task's own node says of it; the word of another node counts for nothing."""
        return self.stored.get(keyspace.report(task.node, task.id), TaskReport)

    def _elsewhere(self, task: SwarmTask, before: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
        found, problem = self.attachments.elsewhere(task, before, self._report(task))
        if problem:
            self.problems.append(problem)
        return found

    def _ready(self, task: SwarmTask, endpoint: Endpoint, *, ignore_lease: bool) -> bool:
        """Swarm says whether it is wanted, its node whether it can be used.

        Swarm calls a task running until it has stopped it, also when its check fails: the node sees that first.
        """
        if not task.wanted:
            return False
        silent = task.node not in self.nodes and keyspace.node(task.node) not in self.stored.invalid
        if silent and (not ignore_lease or self.swarm.nodes[task.node].down):
            return False
        if keyspace.report(task.node, task.id) in self.stored.invalid:
            return endpoint.ready
        report = self._report(task)
        if report is None or not report.wired or report.state == "gone":
            return False
        return report.state == "running"

    def _panicking(self) -> frozenset[str]:
        """Services whose every ready task is on a node whose agent fell silent.

        An agent's silence is not proof of its node's death: the tunnels outlive it. With other tasks to go to it
        is reason enough to send new connections there; with none, keeping all beats refusing all.
        """
        silent = [task for task in self.live.values() if task.node not in self.nodes and task.id in self.endpoints]
        without = {
            task.service for task in silent if self._ready(task, self.endpoints[task.id], ignore_lease=True)
        }  # of the others' tasks the lease says nothing
        with_lease: set[str] = set()
        for task in self.live.values() if without else ():
            endpoint = self.endpoints.get(task.id)
            if endpoint is not None and task.service in without and self._ready(task, endpoint, ignore_lease=False):
                with_lease.add(task.service)
        return frozenset(without - with_lease)

    # --- ends

    def _release_steps(self) -> Iterator[Step]:
        for endpoint in sorted(self.endpoints.values(), key=lambda e: e.task):
            if endpoint.task in self.live and endpoint.service in self.wired:
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
            if service.id not in self.wired:
                key = keyspace.service(service.id)
                rest = self._rest(service.vip, f"service/{service.id}")
                end = (Delete(key, self.stored.revision_of(key)),)
                yield Release(end, rest, f"service {service.name}: no longer linked")

    def _rest(self, address: IPv4Address, holder: str) -> tuple[tuple[IPv4Address, int], ...]:
        """The address, if it is its holder's to let go; also one that lost its record."""
        key = keyspace.address(address)
        held = self.stored.get(key, Address)
        if key in self.stored.invalid or (held is not None and held.holder != holder):
            return ()
        return ((address, self.stored.revision_of(key)),)

    def _holds_port(self, port: Port) -> bool:
        endpoint = self.endpoints.get(port.task)
        return endpoint is not None and (endpoint.node, endpoint.underlay.port) == (port.node, port.port)

    def _orphan_steps(self) -> Iterator[Step]:
        """What nobody else will take back: left when a task or service ended whose record could not be read then.

        And reports of tasks that are over, on nodes without an agent.
        """
        unreadable = {key.rpartition("/")[2] for key in self.stored.invalid}
        holders = {f"task/{e.task}": e.address for e in self.endpoints.values()}
        holders |= {f"service/{service.id}": service.vip for service in self.services.values()}
        orphans = [
            (record.address, record.holder)
            for record in self.stored.all(Address)
            if record.holder is not None
            and holders.get(record.holder) != record.address
            and record.holder.partition("/")[2] not in unreadable
        ]
        for address, holder in sorted(orphans):
            yield Release((), self._rest(address, holder), f"address {address}: {holder} holds it no longer")
        keys = [
            keyspace.port(port.node, port.port)
            for port in self.stored.all(Port)
            if not self._holds_port(port) and port.task not in unreadable
        ]
        known = unreadable | self.live.keys() | self.endpoints.keys()
        keys += [keyspace.sealed_key(s.node, s.task) for s in self.stored.all(SealedKey) if s.task not in known]
        known |= self.nodes.keys()
        keys += [
            keyspace.report(report.node, report.task)
            for report in self.stored.all(TaskReport)
            if not known & {report.task, report.node}
        ]
        for key in sorted(keys):
            yield Change((Delete(key, self.stored.revision_of(key)),), f"{key}: its task is over")


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
        elsewhere=service.elsewhere,
    )


def _difference(old: Endpoint, new: Endpoint) -> str:
    parts: Iterable[str] = (
        ("ready" if new.ready else "not ready") if old.ready != new.ready else "",
        f"UDP {old.underlay} -> {new.underlay}" if old.underlay != new.underlay else "",
        f"{len(new.elsewhere)} addresses on other networks" if old.elsewhere != new.elsewhere else "",
    )
    return ", ".join(part for part in parts if part)
