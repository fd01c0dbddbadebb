"""Which addresses and ports nobody may be given: held or resting, by what the store says or by a key alone. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from ipaddress import IPv4Address

from mesh.records import Address, Endpoint, Port, Service, TaskReport
from mesh.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Taken:
    """What is not free. Whoever gives something adds it.

    Attributes:
        addresses: of the whole mesh.
        ports: node id -> its UDP ports.
    """

    addresses: set[IPv4Address]
    ports: defaultdict[str, set[int]]

    @classmethod
    def of(cls, stored: Snapshot) -> Taken:
        """Look through everything, which takes its time: only where something is to be given."""
        found = cls({record.address for record in stored.all(Address)}, defaultdict(set))
        found.addresses.update(endpoint.address for endpoint in stored.all(Endpoint))
        found.addresses.update(service.vip for service in stored.all(Service))
        for port in stored.all(Port):
            found.ports[port.node].add(port.port)
        for endpoint in stored.all(Endpoint):
            found.ports[endpoint.node].add(endpoint.underlay.port)
        for report in stored.all(TaskReport):
            if report.port_taken is not None:
                found.ports[report.node].add(report.port_taken)
        for key in stored.invalid:  # an unreadable record still holds its address and port
            found.hold(key)
        return found

    def hold(self, key: str) -> None:
        """What a key names is taken, whatever lies under it."""
        kind, _, rest = key.partition("/")
        try:
            if kind == "addresses":
                self.addresses.add(IPv4Address(rest))
            elif kind == "ports":
                node, _, number = rest.partition("/")
                self.ports[node].add(int(number))
        except ValueError:
            pass  # not even the key is one of ours: it holds nothing
