"""Rules of the node's own table, which refuses the mesh's two networks. No I/O here.

It is `inet linkwire` of the node's own network namespace; a task's (agent.rules) has that name in its own. The mesh's
addresses are reached by the WireGuard devices in the tasks' namespaces alone, so nothing of it has to pass the node:
what does comes from a task that has a link's name and no device yet. It is refused at once, before any rule of
somebody else can let it pass, or drop it so that its program waits.

    forward  from a task: to the mesh refused; with an address of the mesh as its sender dropped
    output   from the node itself: to the mesh refused
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from agent.nft_json import Json, Rules, canonical
from agent.rules import NAME

COUNTER = "refused"
_TCP = 6
_PRIORITY = -10
"""Just before filter's 0, at which iptables, firewalld (10 later) and ufw decide (nft(8), "priority")."""
_HERE: Json = {"family": "inet", "table": NAME}


def render(subnet: IPv4Network, subnet6: IPv6Network) -> Rules:
    """Render the table's objects, as `agent.rules.transaction` takes them."""
    refused: list[Json] = [{"counter": COUNTER}, {"goto": {"target": "refuse"}}]
    dropped: list[Json] = [{"counter": COUNTER}, {"drop": None}]
    networks = (subnet, subnet6)
    chains: dict[str, list[list[Json]]] = {
        "forward": [
            *([_is_in("daddr", network), *refused] for network in networks),
            *([_is_in("saddr", network), *dropped] for network in networks),
        ],
        "output": [[_is_in("daddr", network), *refused] for network in networks],
        "refuse": [
            [
                {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": _TCP}},
                {"reject": {"type": "tcp reset"}},
            ],
            [{"reject": {"type": "icmpx", "expr": "port-unreachable"}}],
        ],
    }
    items: list[Json] = [{"table": {"family": "inet", "name": NAME}}, {"counter": {**_HERE, "name": COUNTER}}]
    for name in chains:
        hook = {} if name == "refuse" else {"type": "filter", "hook": name, "prio": _PRIORITY, "policy": "accept"}
        items.append({"chain": {**_HERE, "name": name, **hook}})
    items += [{"rule": {**_HERE, "chain": name, "expr": rule}} for name, body in chains.items() for rule in body]
    return canonical(items)


def _is_in(field: str, network: IPv4Network | IPv6Network) -> Json:
    prefix = {"addr": str(network.network_address), "len": network.prefixlen}
    left = {"payload": {"protocol": "ip" if network.version == 4 else "ip6", "field": field}}  # noqa: PLR2004 - IPv4
    return {"match": {"op": "==", "left": left, "right": {"prefix": prefix}}}
