"""A node's place on the underlay: its own word, held against Swarm's. Pure.

Consumers' nodes send to the address and ports that a node states in `nodes/<node>`. A node that could state any would
have them send to others: to a victim outside, or to another node's services. So its address counts where Swarm knows
the node by it, and otherwise an operator says so: the node label `linkwire.address`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from mesh.model.labels.ports import MAX_PORT
from mesh.model.net import IPAddress, IPNetwork

ADDRESS_LABEL = "linkwire.address"
"""Node label: where other nodes reach it, by an operator's word. It overrides all others."""
FIRST_PORT = 1024
"""The lowest UDP port of a task: those below are for a node's own services."""
_CLASS_E = 4


def ports_beside(first: int, last: int) -> tuple[int, int]:
    """Return the UDP ports of a node's devices for node encryption, beside the range of its tasks' devices.

    Where there is none it is 0.

    Args:
        first: the first port of a task's device.
        last: the last one.
    """
    every = (first - 1, first - 2, last + 1, last + 2)
    one, other, *_ = (*(port for port in every if FIRST_PORT <= port <= MAX_PORT), 0, 0)
    return one, other


def unfit(address: IPAddress, mesh: Iterable[IPNetwork]) -> str | None:
    """Explain why no node can be reached at an address, whoever says so; None where it can.

    Args:
        address: of a node.
        mesh: the mesh's own networks.
    """
    if address.version == 6 and address.ipv4_mapped is not None:  # noqa: PLR2004 - IPv6
        return "is an IPv4 address in IPv6's form"
    kinds = {
        "is nobody's": address.is_unspecified,
        "is a loopback address": address.is_loopback,
        "is a multicast address": address.is_multicast,
        "is link-local": address.is_link_local,
        "is reserved": address.version == _CLASS_E and address.is_reserved,  # 240.0.0.0/4, the broadcast address too
        "is one of the mesh's own": any(address in network for network in mesh),
    }
    return next((kind for kind, applies in kinds.items() if applies), None)


def swarms_addresses(node: Mapping[str, Any]) -> tuple[IPAddress, ...]:
    """Return Swarm's addresses of a node, from Docker's JSON of it: what a manager advertises comes first."""
    manager = str((node.get("ManagerStatus") or {}).get("Addr") or "").rpartition(":")[0].strip("[]")
    found: dict[IPAddress, None] = {}
    for text in (manager, str((node.get("Status") or {}).get("Addr") or "")):
        with suppress(ValueError):
            address = ip_address(text)
            if not (address.is_unspecified or address.is_loopback):  # both stand for "here"
                found[address] = None
    return tuple(found)


def refusal(address: IPAddress, known: Sequence[IPAddress], mesh: Iterable[IPNetwork]) -> str | None:
    """Explain why a node's own word on its address does not count; None where it does.

    Args:
        address: stated by the node.
        known: Swarm's addresses of the node.
        mesh: the mesh's own networks.
    """
    swarms = ", ".join(map(str, known))
    why = unfit(address, mesh)
    if why is None and address in known:
        return None
    why = why or (f"is not Swarm's for it, {swarms}" if swarms else "cannot be compared: Swarm knows none of it")
    return (
        f"its agent states the address {address}, which {why}. Where other nodes do reach it there: "
        f"docker node update --label-add {ADDRESS_LABEL}={address}"
    )


def ports_refusal(first: int, last: int) -> str | None:
    """Explain why some or all of a node's UDP ports are not used; None where they are."""
    if not 0 < first < FIRST_PORT or not first <= last <= MAX_PORT:
        return None  # a range that is none is refused wherever a port is chosen
    return f"its agent states the UDP ports {first}-{last}: those below {FIRST_PORT} are not used"
