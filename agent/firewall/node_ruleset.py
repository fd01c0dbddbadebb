"""Rules of the node's own table, which refuses the mesh's two networks. No I/O here.

It is `inet linkwire` of the node's own network namespace; a task's (agent.firewall.ruleset) has that name in its
own. The mesh's addresses are reached by the WireGuard devices in the tasks' namespaces alone, so nothing of it has
to pass the node: what does comes from a task that has a link's name and no device yet. It is refused, before any rule
of somebody else can let it pass, or drop it so that its program waits.

    prerouting  from a task: to the mesh early. A node without a route to there answers by itself, and never forwards
    early       a connection's first packet is dropped, for its program to come again in a second
    forward     from a task: to the mesh refused; with an address of the mesh as its sender dropped
    output      from the node itself: to the mesh refused
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from agent.firewall.ruleset import NAME
from agent.linux.nft_json import REFUSAL, Body, Json, Rules, early, goto, is_in, table_of

COUNTER = "refused"
_PRIORITY = -10
"""Just before filter's 0, at which iptables, firewalld (10 later) and ufw decide (nft(8), "priority")."""


def render(subnet: IPv4Network, subnet6: IPv6Network) -> Rules:
    """Render the table's objects, as `agent.linux.nft_json.transaction` takes them."""
    refused: list[Json] = [{"counter": COUNTER}, goto("refuse")]
    dropped: list[Json] = [{"counter": COUNTER}, {"drop": None}]
    networks = (subnet, subnet6)
    chains: dict[str, Body] = {
        "forward": [
            *([is_in("daddr", network), *refused] for network in networks),
            *([is_in("saddr", network), *dropped] for network in networks),
        ],
        "prerouting": [[is_in("daddr", network), goto("early")] for network in networks],
        "early": [early()],
        "output": [[is_in("daddr", network), *refused] for network in networks],
        "refuse": REFUSAL,
    }
    hook = {"type": "filter", "prio": _PRIORITY, "policy": "accept"}
    hooks = {name: {**hook, "hook": name} for name in ("prerouting", "forward", "output")}
    return table_of(NAME, (COUNTER,), chains, hooks)
