"""Records of small meshes, made by hand, and the interfaces that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import LinkKeys
from mesh.model import keyspace
from mesh.model.labels.link_labels import LinkLabel, key_name
from mesh.model.labels.ports import PortRange
from mesh.model.net import UdpEndpoint
from mesh.model.records import Attachment, Cluster, Endpoint, Record, Service
from mesh.model.snapshot import Snapshot, Versioned
from mesh.topology.desired import desired
from mesh.topology.link_graph import LinkGraph, index
from mesh.topology.policy import Exit
from mesh.topology.strict_isolation import LocalNetworks
from mesh.topology.wgtypes import InterfaceConfig
from tests.support.swarm_world import private_key, secret

CLUSTER = Cluster("cluster", IPv4Network("10.1.0.0/16"), IPv6Network("fd12:3456:789a::/96"))
MTU = 1420
NOBODY: Mapping[str, tuple[Attachment, ...]] = {}
"""No task of this node has told its addresses."""


def ports(text: str) -> tuple[PortRange, ...]:
    """`80,53/udp`."""
    return tuple(PortRange.parse(part) for part in text.split(",") if part)


def vip(found: str) -> IPv4Address:
    """A service's VIP, by the letter of its id: `A` has 10.1.9.1."""
    return IPv4Address("10.1.9.0") + int(found[0], 36) - 9 + 26 * (int(found[1:] or 0))


def service(
    found: str,
    name: str,
    *links: tuple[str, ...],
    expose: str | None = None,
    strict: bool = True,
    dnsrr: bool = False,
    elsewhere: tuple[Attachment, ...] = (),
) -> Service:
    """A service whose links are (provider, aliases) or (provider, aliases, ports)."""
    labels = tuple(LinkLabel(link[0], tuple(link[1].split()), ports("".join(link[2:]))) for link in links)
    exposed = None if expose is None else ports(expose)
    return Service(found, name, vip(found), labels, exposed, strict=strict, dnsrr=dnsrr, elsewhere=elsewhere)


def endpoint(
    found: str,
    task: str,
    number: int,
    *,
    ready: bool = True,
    key: int | None = None,
    elsewhere: tuple[Attachment, ...] = (),
) -> Endpoint:
    """A task of a service; its number tells its address, 10.1.0.NUMBER, its port and, if none is given, its key."""
    return Endpoint(
        service=found,
        task=task,
        slot=number,
        node="n1",
        address=IPv4Address("10.1.0.0") + number,
        public_key=PublicKey((key or number).to_bytes(32, "little")),
        epoch=0,
        underlay=UdpEndpoint(IPv4Address("192.0.2.1"), 51820 + number),
        ready=ready,
        elsewhere=elsewhere,
    )


def graph(*records: Record, complete: bool = True) -> LinkGraph:
    """The index of a store that holds these."""
    found = {keyspace.key_of(record): Versioned(record, n) for n, record in enumerate(records, 1)}
    return index(Snapshot(len(found), complete, found))


def every_link_key(made: LinkGraph) -> LinkKeys:
    """The secrets of all links' keys."""
    names = {key_name(s.name, link) for s in made.services.values() for link in s.links}
    return LinkKeys({name: secret(name, 0) for name in names})


def interface(
    made: LinkGraph,
    task: str,
    mtu: int = MTU,
    here: Mapping[str, tuple[Attachment, ...]] = NOBODY,
    exits: tuple[Exit, ...] = (),
    *,
    link_keys: LinkKeys | None = None,
) -> InterfaceConfig | None:
    """What a task is meant to have."""
    held = link_keys if link_keys is not None else every_link_key(made)
    return desired(made, made.by_task[task], private_key(1), mtu, LocalNetworks(here, exits), link_keys=held)


def config(
    made: LinkGraph,
    task: str,
    mtu: int = MTU,
    here: Mapping[str, tuple[Attachment, ...]] = NOBODY,
    exits: tuple[Exit, ...] = (),
    *,
    link_keys: LinkKeys | None = None,
) -> InterfaceConfig:
    """The same of a task that is meant to have anything."""
    found = interface(made, task, mtu, here, exits, link_keys=link_keys)
    assert found is not None
    return found
