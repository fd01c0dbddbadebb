"""Packet filters of a node: does an nftables ruleset surely drop a new packet to a port? Pure.

A ruleset may ask what cannot be known here, such as the sender's address, or have an extension of iptables' in it.
So a match is true, false or unknown, and a chain has a set of possible outcomes. A filter is named only where every
way through it ends in a drop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOOKS = ("prerouting", "input", "output")
FAMILIES = ("inet", "ip")
ACCEPT, DROP, GO_ON, BACK = "accept", "drop", "go on", "back"
_DEEPEST = 16
"""Jumps; the kernel allows as many (NFT_JUMP_STACK_SIZE)."""
_NEW = "new"
_LOOPBACK = "lo"
_OTHERS = frozenset({"tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah", "comp", "arp"})
"""Protocols in a header's field, which no packet of another protocol has."""
_NUMBERS = {"tcp": 6, "udp": 17}
"""As nft prints protocols where it is told to."""
_SILENT = frozenset({"counter", "log", "comment", "quota", "mangle", "notrack", "meta", "ct helper"})
"""Statements that decide nothing."""

Expression = Mapping[str, Any]
Chain = tuple[str, str, str]
"""Family, table and name."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A new packet that another node sends to a port of this one, or this one to another's.

    Attributes:
        protocol: `udp` or `tcp`.
        port: of destination.
        device: by which it comes in or leaves; empty where that is not known.
    """

    protocol: str
    port: int
    device: str = ""


def dropping(ruleset: Sequence[Mapping[str, Any]], packet: Packet) -> tuple[str, ...]:
    """Name the chains that surely drop a packet, as `family table chain (hook)`.

    Args:
        ruleset: the list that `nft --json list ruleset` prints.
        packet: that has to pass.
    """
    rules: defaultdict[Chain, list[Sequence[Expression]]] = defaultdict(list)
    for rule in (item["rule"] for item in ruleset if "rule" in item):
        rules[rule["family"], rule["table"], rule["chain"]].append(rule.get("expr", ()))
    base = [item["chain"] for item in ruleset if "chain" in item and item["chain"].get("hook") in HOOKS]
    found = []
    for chain in base:
        name = (chain["family"], chain["table"], chain["name"])
        if chain["family"] not in FAMILIES:
            continue
        outcomes = _walk(rules, name, packet, 0)
        policy = DROP if chain.get("policy") == "drop" else ACCEPT
        if {policy if outcome == BACK else outcome for outcome in outcomes} == {DROP}:
            found.append(f"{' '.join(name)} ({chain['hook']})")
    return tuple(found)


def _walk(
    rules: Mapping[Chain, Sequence[Sequence[Expression]]], chain: Chain, packet: Packet, depth: int
) -> frozenset[str]:
    """Return every possible outcome of a chain: ACCEPT, DROP, or BACK to whoever called it."""
    if depth > _DEEPEST:
        return frozenset({ACCEPT, DROP})
    outcomes: set[str] = set()
    for rule in rules.get(chain, ()):
        matched = _matches(rule, packet)
        if matched is False:
            continue
        verdict = _verdict(rules, chain, rule, packet, depth)
        outcomes |= verdict - {GO_ON}
        if matched and GO_ON not in verdict:
            return frozenset(outcomes)
    return frozenset(outcomes | {BACK})


def _verdict(
    rules: Mapping[Chain, Sequence[Sequence[Expression]]],
    chain: Chain,
    rule: Sequence[Expression],
    packet: Packet,
    depth: int,
) -> frozenset[str]:
    """Return the possible outcomes of a rule that matches; GO_ON for the next rule."""
    for expression in rule:
        ((kind, value),) = expression.items()
        if kind in (ACCEPT, DROP):
            return frozenset({kind})
        if kind == "reject":
            return frozenset({DROP})
        if kind == "return":
            return frozenset({BACK})
        if kind in ("jump", "goto"):
            ends = _walk(rules, (*chain[:2], value["target"]), packet, depth + 1)
            return ends if kind == "goto" else frozenset(GO_ON if end == BACK else end for end in ends)
        if kind not in _SILENT and kind != "match":
            return frozenset({ACCEPT, DROP, GO_ON})  # a verdict map, a queue, an extension of iptables'
    return frozenset({GO_ON})


def _matches(rule: Sequence[Expression], packet: Packet) -> bool | None:
    """Tell whether a rule matches a packet; None where that cannot be known."""
    results = list(_results(rule, packet))
    return False if False in results else None if None in results else True


def _results(rule: Sequence[Expression], packet: Packet) -> Iterator[bool | None]:
    for expression in rule:
        if "match" in expression:
            match = expression["match"]
            equal = _equal(match.get("left"), match.get("right"), packet)
            yield not equal if match.get("op") == "!=" and equal is not None else equal
        elif "xt" in expression or "limit" in expression:
            yield None


def _equal(left: Any, right: Any, packet: Packet) -> bool | None:  # noqa: ANN401 - nft's own
    """Tell whether a field of the packet has a value."""
    kind, value = next(iter(left.items())) if isinstance(left, Mapping) else ("", None)
    if not isinstance(value, Mapping):
        return None
    if kind == "payload":
        return _header(value.get("protocol"), value.get("field"), right, packet)
    match kind, value.get("key"):
        case "ct", "state":
            return _holds(right, _NEW)
        case "meta", "l4proto":
            return _is_protocol(right, packet)
        case "meta", ("iifname" | "oifname" | "iif" | "oif"):
            return _is_device(right, packet.device)
    return None


def _is_device(right: Any, device: str) -> bool | None:  # noqa: ANN401 - nft's own
    """Tell whether a name, a set of them, or one that ends in a wildcard, is a device's, known or not."""
    if not device:
        return False if right == _LOOPBACK else None  # any other name may be the one
    if isinstance(right, Mapping) and "set" in right:
        return _any(_is_device(one, device) for one in right["set"])
    if not isinstance(right, str) or right.startswith("@"):
        return None
    return device.startswith(right[:-1]) if right.endswith("*") else right == device


def _header(protocol: object, name: object, right: Any, packet: Packet) -> bool | None:  # noqa: ANN401 - nft's own
    """Tell whether a field of the packet's headers has a value."""
    if protocol in ("ip", "ip6") and name in ("protocol", "nexthdr"):
        return _is_protocol(right, packet)
    if protocol in ("th", packet.protocol):
        return _holds(right, packet.port) if name == "dport" else None
    return False if protocol in _OTHERS else None


def _is_protocol(right: Any, packet: Packet) -> bool | None:  # noqa: ANN401 - nft's own
    """Tell whether a protocol, by its name or number, is the packet's."""
    by_name, by_number = _holds(right, packet.protocol), _holds(right, _NUMBERS[packet.protocol])
    return True if True in (by_name, by_number) else False if False in (by_name, by_number) else None


def _holds(right: Any, value: str | int) -> bool | None:  # noqa: ANN401 - nft's own
    """Tell whether a right side is a value, or a set or range with it; None for a named set and the like."""
    if isinstance(right, Mapping):
        if "set" in right:
            return _any(_holds(one, value) for one in right["set"])
        if "range" in right:
            first, last = right["range"]
            return first <= value <= last if all(isinstance(end, int) for end in (first, last, value)) else None
        return None
    if isinstance(right, list):
        return _any(_holds(one, value) for one in right)
    if isinstance(right, str) and (right.startswith("@") or isinstance(value, int)):
        return None
    return bool(right == value)


def _any(results: Iterator[bool | None]) -> bool | None:
    found = list(results)
    return True if True in found else None if None in found else False
