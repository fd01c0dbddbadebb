"""What may pass a task's device, and what may not pass beside it: the desired rules as frozen data. No I/O.

Addresses are IPv4 throughout: each has an IPv6 twin (mesh.addresses.twin), and a rule for one is a rule for both.
All tuples are sorted, so that equal means equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from mesh.ports import PortRange


@dataclass(frozen=True, slots=True)
class Balance:
    """A provider's VIP: new connections to it are spread evenly over the backends; with none they are refused."""

    vip: IPv4Address
    backends: tuple[IPv4Address, ...]
    service: str
    """Id of the provider."""


@dataclass(frozen=True, slots=True)
class Allow:
    """One link, as it is seen from a task at one of its ends.

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
    """A bridge by which tasks leave their node, such as docker_gwbridge: it leads out, and to no other task."""

    subnet: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address
    """The node's own end: the only one that a task has to do with there."""


@dataclass(frozen=True, slots=True)
class Resolving:
    """Which questions of a task the node answers itself, that are put by DNS and not by the hosts file.

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
    """All that one task's rules say.

    Attributes:
        subnet: the mesh's; nothing to or from it passes any device but the task's WireGuard device.
        subnet6: the same for the IPv6 twins.
        balance: by VIP.
        outbound: the links on which the task is a consumer, by service.
        inbound: the links on which it is a provider, by service.
        apart: addresses outside the mesh that belong to other wired services on networks that this task is on too;
            nothing passes to or from them (`strict`).
        exits: bridges on which nothing passes but to and from the gateway (`strict`).
        resolving: the DNS questions that are answered on the node.
    """

    subnet: IPv4Network
    subnet6: IPv6Network
    balance: tuple[Balance, ...] = ()
    outbound: tuple[Allow, ...] = ()
    inbound: tuple[Allow, ...] = ()
    apart: tuple[IPv4Address | IPv6Address, ...] = ()
    exits: tuple[Exit, ...] = ()
    resolving: Resolving = Resolving()
