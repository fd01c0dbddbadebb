"""Rules of the node that refuse overlay packets in plain. Pure.

They are the table `inet linkwire_nodes` of the node's own namespace, beside `inet linkwire`, and are there with the
step `enforce` alone:

    input   packets to the VXLAN port that came by another device than the node's WireGuard devices are dropped
    output  packets to that port that are to leave by another one are dropped, whatever their destination

Those of an overlay with the option `encrypted` are not plain: IPsec has them, and they pass.
Forwarded packets are others': a virtual machine's VXLAN is none of Swarm's.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.linux.nft_json import Json, Rules, canonical, compared, field_is

NAME = "linkwire_nodes"
COUNTERS = ("refused_in", "refused_out")
_PRIORITY = -10
"""As of agent.firewall.node_ruleset: before any other firewall decides, so that nobody's counts what we refuse."""


def render(devices: Iterable[str], port: int) -> Rules:
    """Render the table's objects, as `agent.linux.nft_json.transaction` takes them.

    Args:
        devices: names of both of the node's WireGuard devices, whether there are two now or not: so that nothing of
            the rules changes while keys rotate.
        port: UDP, of the Swarm's VXLAN.
    """
    here: Json = {"family": "inet", "table": NAME}
    items: list[Json] = [{"table": {"family": "inet", "name": NAME}}]
    items += [{"counter": {**here, "name": counter}} for counter in COUNTERS]
    for hook, key, secured, counter in (
        ("input", "iifname", "meta", COUNTERS[0]),
        ("output", "oifname", "rt", COUNTERS[1]),
    ):
        chain = {"name": hook, "type": "filter", "hook": hook, "prio": _PRIORITY, "policy": "accept"}
        elsewhere = compared({"meta": {"key": key}}, {"set": ["lo", *devices]}, "!=")
        refused = [elsewhere, field_is("udp", "dport", port), {"counter": counter}, {"drop": None}]
        by_ipsec = [compared({secured: {"key": "ipsec"}}, right=True), {"accept": None}]
        items.append({"chain": {**here, **chain}})
        items += [{"rule": {**here, "chain": hook, "expr": rule}} for rule in (by_ipsec, refused)]
    return canonical(items)
