"""Guard of a linked task's addresses: on an overlay it sends by those that Docker gave it, and by no other.

`strict` goes by addresses, and a task with NET_RAW, which is in Docker's default set, can wear any: that of a service
that is linked to nobody, say. So its frames are looked at where no capability of a task reaches: at the other end of
its veth device, in the overlay's own namespace on this node. Its MAC address does not matter: nobody goes by it.

One chain a device, in the table `netdev linkwire`. Kernels before 6.16 drop it with the device; on later ones the
guard of the overlay's next task does. It lets through IP by the task's addresses, ARP by those or by none, IPv6 by
those, by none or by link-local ones, which lead to no task that is strict; and no other frames, such as those in a
VLAN of the task's own making. Nor may the task say, by ARP or by IPv6's neighbour discovery, that another's address
is where it is, or that it is a router: it would get what others send to an unlinked service.

On the bridges that nobody chose for a task, docker_gwbridge and docker0, one that is strict has to do with the node
alone. Rules by address (agent.firewall.ruleset) say so, and whoever can make frames gets past those; so, in the table
`bridge linkwire` of the node's own namespace, nothing passes between its port and another, whatever it wears.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import structlog

from agent.errors import NotNetnsError
from agent.firewall import nf_tables_netlink, nft
from agent.firewall.ruleset import NAME
from agent.linux import interfaces
from agent.linux.netns import OWN_NETNS, TaskNetns
from mesh.errors import LinkwireError, NetnsGoneError
from mesh.model.net import IPAddress
from mesh.model.records import Attachment

log = structlog.get_logger(__name__)

FOLDER = Path("/run/docker/netns")
_ID_BYTES = 9
"""Docker names an overlay's namespace EPOCH-ID, cut to 12 bytes (libnetwork osl.GenerateKey); the epoch has few."""
BRIDGES = ("docker_gwbridge", "docker0")
"""The node's bridges that nobody chose for a task (agent.containers.docker_client.EXITS)."""
_Family = Literal["netdev", "bridge"]
_FAMILIES: tuple[_Family, ...] = ("netdev", "bridge")
_NOBODY = str(IPv4Address(0))
# The address that a neighbour advertisement is about (RFC 4861, 4.4), for which nft 1.0.6 has no word: all of it, and
# as much as tells that it is link-local.
_TARGET, _TARGET_START, _LINK_LOCAL_START = "@th,64,128", "@th,64,10", f"{0xFE80 >> 6:#x}"


@dataclass(frozen=True, slots=True)
class _Place:
    """A namespace as it was when the guard was seen there: its devices' names, who may send, nftables' generation."""

    devices: tuple[str, ...]
    addresses: frozenset[IPAddress]
    generation: int


@dataclass(slots=True)
class SourceGuard:
    """The guards of one task, where they were put.

    Attributes:
        home: the node's own namespace.
    """

    home: str = OWN_NETNS
    _places: dict[tuple[_Family, str], _Place] = field(default_factory=dict)
    """By family and path."""
    _said: str = ""

    def ensure(
        self, netns: TaskNetns, attachments: Iterable[Attachment], *, is_apart: bool, folder: Path = FOLDER
    ) -> None:
        """Put the guards where there are none; one that cannot be put is logged, once.

        Args:
            netns: the task's.
            attachments: the addresses that Docker gave it, or its service.
            is_apart: whether it has to do with the node alone on the node's bridges (`strict`).
            folder: where Docker keeps its namespaces.
        """
        try:
            for sandbox, addresses in _overlays(attachments, folder):
                self._ensure_at(netns, sandbox, "netdev", addresses)
            with TaskNetns(self.home) as home:
                if is_apart:
                    self._ensure_at(netns, home, "bridge", frozenset())
                else:
                    self._open_ports(netns, home)
            self._said = ""
        except NetnsGoneError:
            pass
        except LinkwireError as error:
            if str(error) != self._said:
                log.warning("sender addresses not guarded", namespace=netns.path, error=str(error))
            self._said = str(error)

    def remove(self) -> None:
        """Take the guards away. Raises LinkwireError."""
        for (family, path), place in self._places.items():
            with suppress(NetnsGoneError), TaskNetns(path) as netns:
                nft.enforce(netns, _removal(family, nf_tables_netlink.chains(netns, family, NAME) & {*place.devices}))
        self._places.clear()

    def _open_ports(self, netns: TaskNetns, home: TaskNetns) -> None:
        """Take away the guard of the task's bridge ports, whoever has put it there."""
        self._places.pop(("bridge", home.path), None)
        if (chains := nf_tables_netlink.chains(home, "bridge", NAME)) and (
            there := chains.intersection(interfaces.far_ends(netns, home, BRIDGES))
        ):
            nft.enforce(home, _removal("bridge", there))

    def _ensure_at(
        self, netns: TaskNetns, other: TaskNetns, family: _Family, addresses: frozenset[IPAddress]
    ) -> None:
        """Put the guard at the task's ends in a namespace; nothing is listed where nftables has not changed."""
        place = self._places.get((family, other.path))
        generation = nf_tables_netlink.generation(other)
        if place is not None and (place.addresses, place.generation) == (addresses, generation):
            return
        chains = nf_tables_netlink.chains(other, family, NAME)
        if place is None or place.addresses != addresses or not chains.issuperset(place.devices):
            devices = interfaces.far_ends(netns, other, BRIDGES if family == "bridge" else None)
            if not devices:
                return  # Docker has not connected it yet
            commands = (command(d, addresses) if family == "netdev" else port_command(d) for d in devices)
            nft.enforce(other, "".join(commands))
            with suppress(LinkwireError):  # another task's thread may do the same
                if ended := chains - {*interfaces.names(other)}:
                    nft.enforce(other, _removal(family, ended))
            place = _Place(devices, addresses, generation)  # which is another by now: looked at once more, next time
        self._places[family, other.path] = replace(place, generation=generation)


def remove_all(folder: Path = FOLDER) -> None:
    """Take the guards of all tasks of this node away. Raises LinkwireError."""
    for path in (OWN_NETNS, *map(str, sorted(folder.glob("*-*")))):
        with suppress(NetnsGoneError, NotNetnsError), TaskNetns(path) as netns:
            for family in _FAMILIES:
                if nf_tables_netlink.chains(netns, family, NAME):
                    nft.enforce(netns, f"delete table {family} {NAME}\n")


def port_command(device: str) -> str:
    """Write the command that lets nothing pass between a bridge's port and its other ports."""
    chain = f"bridge {NAME} {device}"
    return (
        f"add table bridge {NAME}\n"
        f"add chain {chain} {{ type filter hook forward priority -300; policy accept; }}\n"
        f"flush chain {chain}\n"
        f'add rule {chain} iifname "{device}" drop\n'
        f'add rule {chain} oifname "{device}" drop\n'
    )


def command(device: str, addresses: Iterable[IPAddress]) -> str:
    """Write the command that puts the guard at a device, in one transaction."""
    ordered = sorted(addresses, key=lambda address: (address.version, int(address)))
    v4 = [str(address) for address in ordered if address.version == 4]  # noqa: PLR2004 - IPv4
    v6 = [str(address) for address in ordered if address.version == 6]  # noqa: PLR2004 - IPv6
    claimed = [f"{int(address):#x}" for address in ordered if address.version == 6] or ["0"]  # noqa: PLR2004 - IPv6
    chain = f"netdev {NAME} {device}"
    hook = f'{{ type filter hook ingress device "{device}" priority -300; policy accept; }}'
    # An address that nobody has stands for none: 0.0.0.0 is also who asks by ARP before it has one (RFC 5227, 2.1.1).
    rules = (
        "ether type != { ip, ip6, arp } drop",
        f"ip saddr != {_any_of(v4 or [_NOBODY])} drop",
        f"arp saddr ip != {_any_of([_NOBODY, *v4])} drop",
        f"ip6 saddr != {_any_of(['::', 'fe80::/10', *v6])} drop",
        f"icmpv6 type nd-neighbor-advert {_TARGET_START} != {_LINK_LOCAL_START} {_TARGET} != {_any_of(claimed)} drop",
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
    )
    return "".join(
        f"{line}\n"
        for line in (
            f"add table netdev {NAME}",
            f"add chain {chain} {hook}",
            f"flush chain {chain}",
            *(f"add rule {chain} {rule}" for rule in rules),
        )
    )


def _removal(family: _Family, chains: Iterable[str]) -> str:
    return "".join(f"delete chain {family} {NAME} {chain}\n" for chain in sorted(chains))


def _any_of(addresses: Iterable[str]) -> str:
    return f"{{ {', '.join(addresses)} }}"


def _overlays(attachments: Iterable[Attachment], folder: Path) -> Iterator[tuple[TaskNetns, frozenset[IPAddress]]]:
    """Yield the namespace of each overlay that a task is on, open, and the task's addresses there."""
    by_network: defaultdict[str, set[IPAddress]] = defaultdict(set)
    for attachment in attachments:
        by_network[attachment.network].add(attachment.address)
    for network, addresses in sorted(by_network.items()):
        for path in sorted(folder.glob(f"*-{network[:_ID_BYTES]}*")):
            with _opened(path) as sandbox:
                if sandbox is not None:
                    yield sandbox, frozenset(addresses)


@contextmanager
def _opened(path: Path) -> Iterator[TaskNetns | None]:
    try:
        sandbox = TaskNetns(str(path))
    except (NetnsGoneError, NotNetnsError):  # an ended one's file must not hide the namespace that replaced it
        yield None
        return
    with sandbox:
        yield sandbox
