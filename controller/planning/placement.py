"""Placement half of a plan: gives services their VIPs and tasks their endpoints, and updates both. Pure.

The safety rules stand in controller.planning.planner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address

from controller.planning.context import PlanContext
from controller.planning.link_keys import LinkKeyPlan
from controller.planning.underlay import Underlay
from controller.steps import Allocate, PlanStep, Step
from controller.swarm.attachments import attachments
from controller.swarm.model import SwarmService, SwarmTask
from mesh.errors import Terminal
from mesh.model import keyspace
from mesh.model.net import IPAddress, UdpEndpoint
from mesh.model.records import Address, Attachment, Endpoint, Node, Port, SealedKey, Service
from mesh.model.snapshot import Delete, Holds, Op, Put
from mesh.topology.strict_isolation import in_order


class Placement:
    """Placement steps of one run."""

    def __init__(self, run: PlanContext, link_keys: LinkKeyPlan) -> None:
        """Prepare.

        Args:
            run: the shared state of the run.
            link_keys: of the same run.
        """
        self._run = run
        self._index = run.index
        self._swarm = run.index.swarm
        self._stored = run.index.stored
        self._link_keys = link_keys
        self._underlay = Underlay(run)
        self._revoked: dict[str, list[Attachment]] = {}  # service -> addresses of its tasks on revoked nodes
        for name in (name for node in run.index.revoked for name in run.index.tasks.on_node.get(node, ())):
            if (task := self._swarm.tasks.get(name)) is not None and not task.ended:
                self._revoked.setdefault(task.service, []).extend(task.attachments)

    # --- services

    def service_steps(self) -> Iterator[Step]:
        """Give every linked service a record, and update it."""
        return self._run.each(self._run.focus.among(self._swarm.services), self._service)

    def _service(self, service_id: str) -> Iterator[Step]:
        if service_id not in self._index.links.linked or keyspace.service(service_id) in self._stored.invalid:
            return
        service, stored = self._swarm.services[service_id], self._index.services.get(service_id)
        if stored is None:
            yield from self._new_service(service)
        elif (wanted := self._record(service, stored.vip)) != stored:
            revision = self._stored.revision_of(keyspace.service(service.id))
            yield PlanStep((Put(wanted, revision),), f"service {service.name}: its links or options changed")
        else:
            yield from self._of_stack(service, stored.vip)

    def _of_stack(self, service: SwarmService, vip: IPv4Address) -> Iterator[Step]:
        """Note the stack of a service with its VIP, where an earlier version gave it or its record was lost."""
        key = keyspace.address(vip)
        held = self._stored.get(key, Address)
        stack = service.stack or ""
        if held is not None and held.holder == f"service/{service.id}" and held.stack != stack:
            noted = Put(replace(held, stack=stack), self._stored.revision_of(key))
            yield PlanStep((noted,), f"service {service.name}: VIP {vip} is its stack's")

    def _new_service(self, service: SwarmService) -> Iterator[Step]:
        holder = f"service/{service.id}"
        vip = self._still_held(service.id, holder)
        if vip is not None:  # only its own record was lost, and the VIP stays for the service's life
            still = Holds(keyspace.address(vip), self._stored.revision_of(keyspace.address(vip)))
            ops: tuple[Op, ...] = (Put(self._record(service, vip), 0), still)
            self._run.vips[service.id] = vip
            yield PlanStep(ops, f"service {service.name}: linked, and holds VIP {vip} already")
            return
        try:
            vip = self._run.free_address(holder, service.id)
        except Terminal as error:
            self._run.problems.append(f"service {service.name}: {error}")
            return
        self._run.give_address(vip, service.id)
        ops = (Put(self._record(service, vip), 0), Put(Address(vip, holder, service.stack or ""), 0))
        yield PlanStep(ops, f"service {service.name}: linked, VIP {vip}")

    def _record(self, service: SwarmService, vip: IPv4Address) -> Service:
        """Return a service's record; `strict` goes on refusing its tasks on revoked nodes by it, as endpoints do."""
        labels, agreed = service.labels, self._index.links.agreed
        return Service(
            id=service.id,
            name=service.name,
            vip=vip,
            links=agreed.links.get(service.id, ()),
            expose=labels.expose,
            strict=labels.strict and service.id not in agreed.lax,
            dnsrr=service.dnsrr,
            elsewhere=service.attachments,
            open_ports=service.published if labels.closed else None,
            revoked=in_order(self._revoked.get(service.id, ())),
        )

    def _still_held(self, service_id: str, holder: str) -> IPv4Address | None:
        """Return the lowest address that a service holds and no other record has."""
        records = self._index.concerning.get(service_id, {}).values()
        addresses = sorted(
            record.address for record in records if isinstance(record, Address) and record.holder == holder
        )
        if not addresses:
            return None
        others = {e.address for e in self._index.endpoints.values()} | {s.vip for s in self._index.services.values()}
        return next((address for address in addresses if address not in others), None)

    # --- endpoints

    def endpoint_steps(self) -> Iterator[Step]:
        """Give every live task of a linked service an endpoint, and update it."""
        return self._run.each(self._run.focus.among(self._index.tasks.live), self._endpoint)

    def node_problems(self) -> Iterator[Step]:
        """Name the nodes whose statements of their addresses do not count; no steps."""
        return self._underlay.problem_steps()

    def _endpoint(self, task_id: str) -> Iterator[Step]:
        task = self._index.tasks.live[task_id]
        if task.service not in self._index.links.linked:
            return
        endpoint = self._index.endpoints.get(task.id)
        node = self._index.nodes.get(task.node)
        if endpoint is None:
            yield from self._new_endpoint(task, node)
        elif node is not None and (rekey := self._rekey(task, endpoint)):
            yield rekey
        else:
            yield from self._changed_endpoint(task, node, endpoint)

    def _new_endpoint(self, task: SwarmTask, node: Node | None) -> Iterator[Step]:
        keys = (keyspace.endpoint(task.service, task.id), keyspace.sealed_key(task.node, task.id))
        if not task.wanted or any(key in self._stored.invalid for key in keys):
            return
        if task.service not in self._swarm.services and task.service not in self._index.services:
            return
        to = self._run.members.get(task.node)
        if node is None or to is None:
            silent = node is None and keyspace.node(task.node) not in self._stored.invalid
            why = "has no agent (yet)" if silent else "has not shown its keys"
            name = self._swarm.nodes[task.node].hostname
            self._run.problems.append(f"task {task.id}: its node {name} {why}, so it is not wired")
            return
        try:
            host = self._underlay.host(node, None)
            address = self._run.free_address(f"task/{task.id}", task.service)
            port = self._underlay.port(node, task)
        except Terminal as error:
            self._run.problems.append(f"service {self._name(task.service)}: some of its tasks are not wired: {error}")
            return
        self._run.give_address(address, task.service)
        underlay = UdpEndpoint(host, port)
        key_revision = self._stored.revision_of(keys[1])
        reason = f"task {task.id}: placed on {node.hostname}, address {address}, UDP {underlay}"
        yield from self._link_keys.for_task(task)
        yield Allocate(task, to, address, underlay, self._attachments(task, ()), 0, 0, key_revision, reason)

    def _name(self, service: str) -> str:
        known = self._swarm.services.get(service) or self._index.services.get(service)
        return known.name if known is not None else service

    def _rekey(self, task: SwarmTask, endpoint: Endpoint) -> Allocate | None:
        key, to = keyspace.sealed_key(task.node, task.id), self._run.members.get(task.node)
        if key in self._stored.invalid or to is None:
            return None
        sealed, report = self._stored.get(key, SealedKey), self._run.report(task)
        if report is not None and report.spent == endpoint.epoch:
            why = "its node says that its key must not be used any more"
        elif sealed is None or sealed.sealed_to != to.fingerprint:
            why = "its node cannot open the old key"
        else:
            return None
        return Allocate(
            task=task,
            to=to,
            address=endpoint.address,
            underlay=endpoint.underlay,
            attachments=self._attachments(task, endpoint.elsewhere),
            epoch=endpoint.epoch + 1,
            revision=self._stored.revision_of(keyspace.endpoint(endpoint.service, endpoint.task)),
            key_revision=self._stored.revision_of(key),
            reason=f"task {task.id}: {why}, so it gets a new one",
            ready=self._ready(task, endpoint),
        )

    def _changed_endpoint(self, task: SwarmTask, node: Node | None, endpoint: Endpoint) -> Iterator[Step]:
        report = self._run.report(task)
        ready = self._ready(task, endpoint)
        suspect = ready and self._is_silent(task.node)
        if suspect:
            name = self._swarm.nodes[task.node].hostname
            self._run.problems.append(f"node {name}: its agent is silent; its tasks are used where they answer")
        host = self._host(node, endpoint) if node else endpoint.underlay.host
        number = endpoint.underlay.port
        ports: tuple[Op, ...] = ()
        if node and report and report.port_taken == number:
            try:
                number = self._underlay.port(node, task)
            except Terminal as error:
                self._run.problems.append(f"task {task.id}: {error}")
            else:
                ports = _port_ops(endpoint, number)
        where = UdpEndpoint(host, number)
        attached = self._attachments(task, endpoint.elsewhere)
        wanted = replace(endpoint, ready=ready, suspect=suspect, underlay=where, elsewhere=attached)
        if wanted != endpoint:
            revision = self._stored.revision_of(keyspace.endpoint(endpoint.service, endpoint.task))
            yield PlanStep((Put(wanted, revision), *ports), f"task {task.id}: {_difference(endpoint, wanted)}")

    def _host(self, node: Node, endpoint: Endpoint) -> IPAddress:
        try:
            return self._underlay.host(node, endpoint.underlay.host)
        except Terminal as error:
            self._run.problems.append(f"task {endpoint.task}: {error}")
            return endpoint.underlay.host

    def _attachments(self, task: SwarmTask, before: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
        attached, problem = attachments(task, before, self._run.report(task), self._index.networks)
        if problem:
            self._run.problems.append(problem)
        return attached

    def _ready(self, task: SwarmTask, endpoint: Endpoint) -> bool:
        """Tell whether a task may get connections: Swarm wants it, and its node reports that it can be used.

        Swarm calls a task running until it has stopped it, also when its check fails: the node sees that first. An
        silent agent does not prove that its node is dead: its last report counts until Swarm calls the node down.
        """
        if not task.wanted or (self._is_silent(task.node) and self._swarm.nodes[task.node].down):
            return False
        if keyspace.report(task.node, task.id) in self._stored.invalid:
            return endpoint.ready
        report = self._run.report(task)
        if report is None or not report.wired or report.state == "gone":
            return False
        return report.state == "running"

    def _is_silent(self, node: str) -> bool:
        """Tell whether the lease of a node's agent has ended. An unreadable record is not silence."""
        return node not in self._index.nodes and keyspace.node(node) not in self._stored.invalid


def _port_ops(endpoint: Endpoint, number: int) -> tuple[Op, ...]:
    old = keyspace.port(endpoint.node, endpoint.underlay.port)
    return (Put(Port(endpoint.node, number, endpoint.task), 0), Delete(old, None))


def _difference(old: Endpoint, new: Endpoint) -> str:
    parts: Iterable[str] = (
        ("ready" if new.ready else "not ready") if old.ready != new.ready else "",
        ("its agent is silent" if new.suspect else "its agent is heard") if old.suspect != new.suspect else "",
        f"UDP {old.underlay} -> {new.underlay}" if old.underlay != new.underlay else "",
        f"{len(new.elsewhere)} addresses on other networks" if old.elsewhere != new.elsewhere else "",
    )
    return ", ".join(part for part in parts if part)
