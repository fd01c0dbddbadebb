"""Rules of the node that refuse overlay packets in plain, and that mark answers. Pure.

They are the table `inet linkwire_nodes` of the node's own namespace, beside `inet linkwire`. With the step `enforce`:

    input   packets to the VXLAN port that came by another device than the node's WireGuard devices are dropped
    output  packets to that port that are to leave by another one are dropped, whatever their destination

In mode `all`, as long as packets are sent by the devices:

    prerouting  a connection that comes in by one of them is marked, and its packets that come in elsewhere, which are
                answers of what the node forwards it to, a published port: by the mark they go back by a device

Those of an overlay with the option `encrypted` are not plain: IPsec has them, and they pass.
Forwarded packets are others': a virtual machine's VXLAN is none of Swarm's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.linux.nft_json import Json, Rules, canonical, compared, field_is
from agent.node_encryption.policy_routing import MARK

NAME = "linkwire_nodes"
COUNTERS = ("refused_in", "refused_out")
_FIRST = -150
"""Before address translation, which decides once a connection: that of iptables' mangle (nft(8), "priority")."""
_PRIORITY = -10
"""As of agent.firewall.node_ruleset: before any other firewall decides, so that nobody's counts what we refuse."""


def render(devices: Iterable[str], port: int, *, refuses: bool = True, marks: bool = False) -> Rules:
    """Render the table's objects, as `agent.linux.nft_json.transaction` takes them.

    Args:
        devices: names of both of the node's WireGuard devices, whether there are two now or not: so that nothing of
            the rules changes while keys rotate.
        port: UDP, of the Swarm's VXLAN.
        refuses: whether plain overlay packets are dropped.
        marks: whether answers to what came in by the devices are marked.
    """
    devices = tuple(devices)
    here: Json = {"family": "inet", "table": NAME}
    items: list[Json] = [{"table": {"family": "inet", "name": NAME}}]
    items += [{"counter": {**here, "name": counter}} for counter in COUNTERS]
    for hook, key, secured, counter in (
        ("input", "iifname", "meta", COUNTERS[0]),
        ("output", "oifname", "rt", COUNTERS[1]),
    )[: None if refuses else 0]:
        chain = {"name": hook, "type": "filter", "hook": hook, "prio": _PRIORITY, "policy": "accept"}
        elsewhere = compared({"meta": {"key": key}}, {"set": ["lo", *devices]}, "!=")
        refused = [elsewhere, field_is("udp", "dport", port), {"counter": counter}, {"drop": None}]
        by_ipsec = [compared({secured: {"key": "ipsec"}}, right=True), {"accept": None}]
        items.append({"chain": {**here, **chain}})
        items += [{"rule": {**here, "chain": hook, "expr": rule}} for rule in (by_ipsec, refused)]
    return canonical([*items, *(_marking(here, devices) if marks else ())])


def _marking(here: Json, devices: Iterable[str]) -> Iterator[Json]:
    """Write the chain that marks. What somebody else has marked is left alone, and goes as before."""
    chain = {"name": "prerouting", "type": "filter", "hook": "prerouting", "prio": _FIRST, "policy": "accept"}
    yield {"chain": {**here, **chain}}
    of_connection, of_packet = {"ct": {"key": "mark"}}, {"meta": {"key": "mark"}}
    by_device = {"set": [*devices]}
    new = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}}
    comes = [compared({"meta": {"key": "iifname"}}, by_device), new, compared(of_connection, 0)]
    answers = [compared({"meta": {"key": "iifname"}}, by_device, "!="), compared(of_connection, MARK)]
    for matches, marked in ((comes, of_connection), ([*answers, compared(of_packet, 0)], of_packet)):
        marking = {"mangle": {"key": marked, "value": MARK}}
        yield {"rule": {**here, "chain": "prerouting", "expr": [*matches, marking]}}
