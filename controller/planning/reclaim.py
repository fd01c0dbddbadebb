"""Release half of a plan: frees addresses, ports and keys of ended tasks and services, and orphans. Pure.

The safety rules stand in controller.planning.planner.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from controller.planning.context import PlanContext
from controller.steps import PlanStep, Release, Step
from mesh.model import keyspace
from mesh.model.records import Address, Port, Record, SealedKey, TaskReport
from mesh.model.snapshot import Delete


class Reclaim:
    """Release steps of one run."""

    def __init__(self, run: PlanContext) -> None:
        """Prepare."""
        self._run = run
        self._index = run.index
        self._stored = run.index.stored

    def revoked_steps(self) -> Iterator[Step]:
        """Release the endpoints of revoked nodes: they come before all else, as every peer waits for it."""
        endpoints, revoked = self._index.endpoints, self._index.revoked
        names = self._run.focus.among(endpoints) if revoked else ()
        names = [name for name in names if endpoints[name].node in revoked]
        yield from self._run.each(names, self._endpoint_of_revoked)

    def release_steps(self) -> Iterator[Step]:
        """Release the endpoints of tasks, then the records of services, that ended or are no longer linked."""
        focus = self._run.focus
        yield from self._run.each(focus.among(self._index.endpoints), self._endpoint)
        yield from self._run.each(focus.among(self._index.services), self._service)

    def _endpoint(self, task_id: str) -> Iterator[Step]:
        endpoint = self._index.endpoints[task_id]
        live = task_id in self._index.tasks.live
        if (live and endpoint.service in self._index.links.linked) or endpoint.node in self._index.revoked:
            return  # `revoked_steps` has released the latter
        yield self._released(task_id, "it is no longer linked" if live else "it ended")

    def _endpoint_of_revoked(self, task_id: str) -> Iterator[Step]:
        yield self._released(task_id, "its node was revoked")

    def _released(self, task_id: str, why: str) -> Release:
        endpoint = self._index.endpoints[task_id]
        key = keyspace.endpoint(endpoint.service, task_id)
        deletes = (
            Delete(key, self._stored.revision_of(key)),
            Delete(keyspace.sealed_key(endpoint.node, task_id), None),
            Delete(keyspace.port(endpoint.node, endpoint.underlay.port), None),
        )
        rest, stack = self._rest(endpoint.address, f"task/{task_id}"), self._run.shares.stack(endpoint.service)
        return Release(deletes, rest, f"task {task_id}: {why}", stack)

    def _service(self, service_id: str) -> Iterator[Step]:
        if service_id in self._index.links.linked:
            return
        service, key = self._index.services[service_id], keyspace.service(service_id)
        rest = self._rest(service.vip, f"service/{service_id}")
        end = (Delete(key, self._stored.revision_of(key)),)
        stack = self._run.shares.stack(service_id)
        yield Release(end, rest, f"service {service.name}: no longer linked", stack)

    def _rest(self, address: IPv4Address, holder: str) -> tuple[tuple[IPv4Address, int], ...]:
        """Return the address if it is this holder's to release, also one that lost its record."""
        key = keyspace.address(address)
        record = self._stored.get(key, Address)
        if key in self._stored.invalid or (record is not None and record.holder != holder):
            return ()
        return ((address, self._stored.revision_of(key)),)

    def orphan_steps(self) -> Iterator[Step]:
        """Release orphans: leftovers of tasks and services whose records could not be read when they ended.

        Reports of ended tasks on nodes without an agent are orphans, too.
        """
        unreadable = {key.rpartition("/")[2] for key in self._stored.invalid}
        addresses: set[tuple[IPv4Address, str]] = set()
        keys: set[str] = set()
        for name in self._run.focus.among(self._index.concerning):
            for key, record in self._index.concerning[name].items():
                if not self._is_orphan(record, unreadable):
                    continue
                self._run.to_do.add(name)
                if isinstance(record, Address) and record.holder is not None:
                    addresses.add((record.address, record.holder))
                else:
                    keys.add(key)
        for address, holder in sorted(addresses):
            yield Release((), self._rest(address, holder), f"address {address}: no longer held by {holder}")
        for key in sorted(keys):
            yield PlanStep((Delete(key, self._stored.revision_of(key)),), f"{key}: its task ended")

    def _is_orphan(self, record: Record, unreadable: set[str]) -> bool:
        index = self._index
        match record:
            case Address(holder=str(holder)):
                kind, _, holder_id = holder.partition("/")
                return holder_id not in unreadable and self._address_of(kind, holder_id) != record.address
            case Port():
                endpoint = index.endpoints.get(record.task)
                holds = endpoint is not None and (endpoint.node, endpoint.underlay.port) == (record.node, record.port)
                return not holds and record.task not in unreadable
            case SealedKey(task=task):
                return not (task in index.endpoints or task in index.tasks.live or task in unreadable)
            case TaskReport():
                owners = (index.endpoints, index.tasks.live, index.nodes, unreadable)
                return not any(name in owner for name in (record.task, record.node) for owner in owners)
            case _:
                return False

    def _address_of(self, kind: str, holder_id: str) -> IPv4Address | None:
        """Return the address of a task or service by its record, or by this plan."""
        if kind == "task":
            endpoint = self._index.endpoints.get(holder_id)
            return endpoint.address if endpoint is not None else None
        if kind == "service":
            service = self._index.services.get(holder_id)
            return service.vip if service is not None else self._run.vips.get(holder_id)
        return None
