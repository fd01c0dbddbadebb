"""Policy of one task: the packets that may pass its device and those dropped beside it, as frozen data. No I/O.

Addresses are IPv4 throughout: each has an IPv6 twin (mesh.topology.ipam.twin), and a rule for one is a rule for both.
All tuples are sorted, so that equal means equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mesh.model.labels.ports import PortRange


@dataclass(frozen=True, slots=True)
class Balance:
    """A provider's VIP: new connections to it are spread evenly over the backends; with none they are refused."""

    vip: IPv4Address
    backends: tuple[IPv4Address, ...]
    service: str
    """Id of the provider."""


@dataclass(frozen=True, slots=True)
class Allow:
    """One link, from the side of a task at one of its ends.

    Attributes:
        service: id of the service at the other end.
        peers: the addresses of that service's tasks.
        ports: what the consumer may open at the provider; None for everything. ICMP echo may always pass.
    """

    service: str
    peers: tuple[IPv4Address, ...]
    ports: tuple[PortRange, ...] | None


@dataclass(frozen=True, slots=True)
class Exit:
    """A bridge by which tasks reach other hosts, such as docker_gwbridge; no other task may be reached over it."""

    subnet: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address
    """The node's own end: the only address on it that a task may exchange packets with."""


@dataclass(frozen=True, slots=True)
class Resolving:
    """DNS questions of a task that its node answers itself.

    Attributes:
        names: of the task's links, in lower case, sorted.
        servers: the name servers that the task asks.
        search: the domains that the task's resolver may add to a name.
    """

    names: tuple[str, ...] = ()
    servers: tuple[IPv4Address | IPv6Address, ...] = ()
    search: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """The desired rules of one task.

    Attributes:
        subnet: the mesh's; nothing to or from it passes any device but the task's WireGuard device.
        subnet6: the same for the IPv6 twins.
        balance: by VIP.
        outbound: the links on which the task is a consumer, by service.
        inbound: the links on which it is a provider, by service.
        isolated: addresses outside the mesh of other tasks and services of the mesh, on networks that this task is
            on too; nothing passes to or from them (`strict`).
        exits: bridges on which only packets to and from the gateway pass (`strict`).
        open_ports: the only ports that anybody may open beside the links (`strict: all`); None for all.
        resolving: the DNS questions that the node answers.
    """

    subnet: IPv4Network
    subnet6: IPv6Network
    balance: tuple[Balance, ...] = ()
    outbound: tuple[Allow, ...] = ()
    inbound: tuple[Allow, ...] = ()
    isolated: tuple[IPv4Address | IPv6Address, ...] = ()
    exits: tuple[Exit, ...] = ()
    open_ports: tuple[PortRange, ...] | None = None
    resolving: Resolving = Resolving()
