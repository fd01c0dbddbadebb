"""What rendered rules do with a packet, as nftables would: the statements that the rules are made of, and no others.

Whether the kernel takes them as this does is tried in tests/netns/test_rules.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal

Address = IPv4Address | IPv6Address
Verdict = Literal["accept", "drop", "refuse"]
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "other": 253}


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet at the hook for input or output, with what connection tracking says of it.

    Attributes:
        direction: None where there is no connection: it is invalid or untracked.
        what: the type of an ICMP message.
        flag: of TCP: "syn" begins a connection.
        is_put_off: whether the set `early` has it.
    """

    way: Literal["in", "out"]
    device: str
    source: Address
    target: Address
    is_local: bool
    protocol: str
    sport: int
    dport: int
    what: str
    state: str
    direction: Literal["original", "reply"] | None
    flag: Literal["syn", "ack"] = "ack"
    is_put_off: bool = False


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of it, and which counter counts it."""

    verdict: Verdict
    counter: str | None = None


class Ruled:
    """What is decided by rendered rules."""

    def __init__(self, rules: Iterable[str]) -> None:
        self._chains: dict[str, list[list[tuple[str, Any]]]] = {"refuse": []}
        for item in map(json.loads, rules):
            if "rule" in item and item["rule"]["chain"] != "refuse":
                statements = [pair for statement in item["rule"]["expr"] for pair in statement.items()]
                self._chains.setdefault(item["rule"]["chain"], []).append([*map(_read, statements)])

    def fate(self, packet: Packet) -> Fate:
        """Take a packet through the base chain of its hook."""
        counted: list[str] = []
        verdict = self._through(packet.way, packet, counted) or "accept"
        assert len(counted) <= 1, "it is counted for two"
        return Fate(verdict, *counted)

    def _through(self, name: str, packet: Packet, counted: list[str]) -> Verdict | None:
        """The verdict of a chain, or None at its end."""
        for rule in self._chains[name]:
            for kind, body in rule:
                if not _goes_on(kind, body, packet):
                    break
                verdict, is_last = self._verdict(kind, body, packet, counted)
                if is_last:
                    return verdict
        return "refuse" if name == "refuse" else None

    def _verdict(self, kind: str, body: Any, packet: Packet, counted: list[str]) -> tuple[Verdict | None, bool]:  # noqa: ANN401 - JSON
        """What a statement says, and whether nothing after it is asked."""
        match kind:
            case "accept" | "drop":
                return kind, True
            case "goto" | "jump":
                verdict = self._through(body["target"], packet, counted)
                return verdict, verdict is not None or kind == "goto"
            case "vmap":
                ((kind, body),) = body["to"][_value(body["key"], packet)].items()
                return self._verdict(kind, body, packet, counted)
            case "counter":
                counted.append(body)
            case "set":
                assert body["op"] == "add"
                assert body["set"] == "@early"
            case _:
                assert kind == "match", kind
        return None, False


def _read(statement: tuple[str, Any]) -> tuple[str, Any]:
    kind, body = statement
    if kind != "vmap":
        return statement
    return kind, {"key": body["key"], "to": {ip_address(one): verdict for one, verdict in body["data"]["set"]}}


def _goes_on(kind: str, body: Any, packet: Packet) -> bool:  # noqa: ANN401 - JSON
    """Whether a packet comes to what follows in the rule."""
    if kind == "match":
        return _matches(body, packet)
    return kind != "vmap" or _value(body["key"], packet) in body["to"]


def _matches(body: Any, packet: Packet) -> bool:  # noqa: ANN401 - JSON
    found = _value(body["left"], packet)
    if found is None:
        return False  # NFT_BREAK: there is no such thing in the packet, whatever it is compared with
    return _is(found, body["right"]) is (body["op"] != "!=")


def _value(left: Any, packet: Packet) -> object:  # noqa: ANN401, PLR0911 - JSON; one for each kind
    match left:
        case {"meta": {"key": "l4proto"}}:
            return _PROTOCOLS[packet.protocol]
        case {"meta": {"key": "iifname" | "oifname" as key}}:
            assert key[0] == packet.way[0]
            return packet.device
        case {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]}:
            return packet.flag if packet.protocol == "tcp" else None
        case {"concat": [*_]}:
            return "@early" if packet.is_put_off else "new"
        case {"ct": {"key": "state"}}:
            return packet.state
        case {"ct": {"key": "direction"}}:
            return packet.direction
        case {"fib": {"result": "type", "flags": ["daddr"]}}:
            return "local" if packet.is_local else "unicast"
        case {"payload": {"protocol": "ip" | "ip6" as family, "field": field}}:
            address = {"saddr": packet.source, "daddr": packet.target}[field]
            return address if address.version == (4 if family == "ip" else 6) else None
        case {"payload": {"protocol": protocol, "field": field}}:
            inside = {"sport": packet.sport, "dport": packet.dport, "type": packet.what}
            return inside[field] if protocol == packet.protocol else None
    raise AssertionError(left)


def _is(found: object, right: Any) -> bool:  # noqa: ANN401 - JSON
    match right:
        case {"set": members}:
            return any(_is(found, member) for member in members)
        case {"range": [first, last]}:
            assert isinstance(found, int)
            return bool(first <= found <= last)
        case {"prefix": {"addr": address, "len": length}}:
            assert isinstance(found, IPv4Address | IPv6Address)
            return found in ip_network(f"{address}/{length}")
    return bool(found == (ip_address(right) if isinstance(found, IPv4Address | IPv6Address) else right))
