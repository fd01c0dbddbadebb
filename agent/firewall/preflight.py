"""Preflight of nftables: tries, in a namespace of its own, everything that the rules need of the node."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import structlog

from agent.firewall import nft, ruleset
from agent.linux.netns import TaskNetns, in_scratch_netns
from mesh.errors import LinkwireError, Retryable, Terminal
from mesh.model.labels.ports import PortRange
from mesh.topology.policy import Allow, Balance, Policy, Resolving

log = structlog.get_logger(__name__)

_LONGEST_RULE = 300

# One of each thing that the rules are made of, as nft(8) writes it, each on top of those before it.
_NEEDED: Mapping[str, str] = {
    "tables for both families (NF_TABLES_INET)": "add table inet linkwire; add chain inet linkwire c",
    "address translation (NFT_NAT)": "add chain inet linkwire n { type nat hook output priority -100; }; "
    "add rule inet linkwire n ip daddr 192.0.2.1 dnat ip to 192.0.2.2",
    "the device's address as sender (NFT_MASQ)": "add chain inet linkwire s "
    "{ type nat hook postrouting priority 0; }; add rule inet linkwire s oifname lw0 masquerade",
    "sets that packets fill (NF_TABLES)": "add set inet linkwire e "
    "{ type inet_service . inet_service; flags timeout; timeout 3s; size 8; }; "
    "add rule inet linkwire c add @e { tcp sport . tcp dport } drop",
    "random choice (NFT_NUMGEN)": "add rule inet linkwire c ct mark set numgen random mod 2",
    "connection tracking (NFT_CT)": "add rule inet linkwire c ct state related ct direction reply accept",
    "look-up of local addresses (NFT_FIB_INET)": "add rule inet linkwire c fib daddr type local accept",
    "named counters (NF_TABLES)": "add counter inet linkwire k; add rule inet linkwire c counter name k",
    "maps of verdicts (NF_TABLES)": "add rule inet linkwire c ip saddr vmap { 192.0.2.1 : accept }",
    "sets of ranges (NF_TABLES)": "add rule inet linkwire c tcp dport { 1, 5-9 } accept",
    "refusal with an answer (NFT_REJECT_INET)": "add rule inet linkwire c reject with icmpx port-unreachable",
}
_PEERS = (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
_PORTS = (PortRange("tcp", 1, 1), PortRange("tcp", 5, 9), PortRange("udp", 1, 9))
_EVERYTHING = Policy(
    subnet=IPv4Network("192.0.2.0/24"),
    subnet6=IPv6Network("2001:db8::/96"),
    balance=(
        Balance(IPv4Address("192.0.2.8"), _PEERS, "one"),
        Balance(IPv4Address("192.0.2.9"), _PEERS[:1], "one"),
        Balance(IPv4Address("192.0.2.10"), (), "one"),
    ),
    outbound=(Allow("one", _PEERS, _PORTS),),
    inbound=(Allow("all", (IPv4Address("192.0.2.3"),), None), Allow("one", _PEERS[:1], ())),
    isolated=(IPv4Address("198.51.100.1"), IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:1::2")),
)
_DNS = Resolving(("cache.example", "db"), (IPv4Address("127.0.0.11"), IPv6Address("2001:db8::53")), ("corp.example",))


def require() -> bool:
    """Try in a namespace of its own all that the rules need.

    Returns:
        Whether they can also turn a task's DNS questions to the agent's responder: all else goes without that.

    Raises:
        Terminal: the node lacks some of it; the text names it.
        Retryable: it could not be tried.
    """
    if shutil.which(nft.PROGRAM) is None:
        raise Terminal(f"{nft.PROGRAM} is not installed: it is of the Debian package nftables")
    _try_twice(_EVERYTHING)
    try:
        _try_twice(replace(_EVERYTHING, resolving=_DNS))
    except Terminal as error:
        log.warning("DNS answers disabled, links keep their names in hosts files", error=str(error))
        return False
    return True


def _try_twice(policy: Policy) -> None:
    """Try it, and once more where it fails: that may be chance, and the answer counts until the agent ends."""
    try:
        in_scratch_netns(lambda: _try_everything(policy))
    except LinkwireError as error:
        log.info("nftables tried again", error=str(error))
        in_scratch_netns(lambda: _try_everything(policy))


def _try_everything(policy: Policy) -> None:
    own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
    rendered = ruleset.render(policy, "lw0")
    with TaskNetns(own) as netns:
        try:
            nft.apply(netns, rendered)
            table = nft.read(netns)
        except Retryable:
            raise
        except LinkwireError as error:
            lacking = "; ".join(nft.lacking(netns, _NEEDED))
            raise Terminal(f"nftables of this node cannot do what links need: {lacking or error}") from error
    if differing := sorted(set(rendered).symmetric_difference(table.rules if table else ())):
        raise Terminal(f"nft lists rules in an unknown form: {differing[0][:_LONGEST_RULE]}")
