"""Rules that turn a task's DNS questions for its links to the responder, in libnftables' JSON. No I/O.

Where a question goes (`dns` hooks into what the task sends, before connections are tracked):

    dns            sent to port 53 by UDP: dns_question; sent by the responder: dns_answer
    dns_question   a plain query of one question: dns_name
    dns_name       does the name begin with a link's? dns_after_N, N being the bytes of that
    dns_after_N    does the name end here, or go on with a search domain of the task's? dns_turn
    dns_turn       to a name server of the task's: turned to the responder's socket for that server
    dns_answer     the responder's answer is given the address of the server that was asked

All else goes its way as if there were none of this, whether an agent runs or not. Each packet is judged by itself and
tracked as part of no connection: one socket asks for many names, and address translation, which decides for all
packets of a socket by its first one, would take the others along. So nothing that Docker does with the same socket
(it translates 127.0.0.11:53) meets ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.dns import wire
from agent.linux.nft_json import FAMILY, Body, Json, compared, field_is, goto
from mesh.topology.policy import Resolving

FIRST_PORT = 61953
"""Of the responder's sockets, one for each name server, on the task's loopback device. Beyond the ports that Linux
gives out by itself (ip_local_port_range), and of nobody (IANA, service names)."""
MOST_SERVERS = 8

HOOK: Json = {"type": "route", "hook": "output", "prio": -300, "policy": "accept"}  # "raw" in nft(8)
LOOPBACK: Mapping[int, str] = {4: "127.0.0.1", 6: "::1"}
_UDP = 17  # IANA, protocol numbers
_DNS = 53
_ACCEPT: Json = {"accept": None}
_NOTRACK: Json = {"notrack": None}
# Bits from the beginning of the UDP header, which is 8 bytes long; the message follows it.
_FLAGS, _QUESTIONS, _NAME = 80, 96, 160
_CHUNK = 4
"""Bytes that one comparison looks at: what the kernel compares fastest, and what JSON's numbers hold."""
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def chains(resolving: Resolving) -> dict[str, Body]:
    """Return the chains, `dns` first; none where the task has no names or no server to ask."""
    names = {encoded for name in resolving.names if (encoded := wire.encoded(name)) is not None}
    servers = list(enumerate(resolving.servers[:MOST_SERVERS]))
    if not names or not servers:
        return {}
    domains = [encoded for domain in resolving.search if (encoded := wire.encoded(domain)) is not None]
    last = FIRST_PORT + MOST_SERVERS - 1
    made: dict[str, Body] = {
        "dns": [
            [compared({"meta": {"key": "l4proto"}}, _UDP, "!="), _ACCEPT],
            [field_is("udp", "dport", _DNS), goto("dns_question")],
            [field_is("udp", "sport", {"range": [FIRST_PORT, last]}), goto("dns_answer")],
        ],
        "dns_question": [
            [_masked(_FLAGS, 2, 0xF800, 0), _raw(_QUESTIONS, 2, 1), goto("dns_name")],
        ],
        "dns_name": [
            # Come back from there: one name may be the beginning of another one.
            [*_bytes(0, encoded), {"jump": {"target": f"dns_after_{len(encoded)}"}}]
            for encoded in sorted(names)
        ],
        "dns_turn": [
            [
                field_is(FAMILY[server.version], "daddr", str(server)),
                _NOTRACK,
                _set(FAMILY[server.version], "daddr", LOOPBACK[server.version]),
                _set("udp", "dport", FIRST_PORT + number),
                _ACCEPT,
            ]
            for number, server in servers
        ],
        "dns_answer": [
            [
                field_is(FAMILY[server.version], "saddr", LOOPBACK[server.version]),
                field_is("udp", "sport", FIRST_PORT + number),
                _NOTRACK,
                _set(FAMILY[server.version], "saddr", str(server)),
                _set("udp", "sport", _DNS),
                _ACCEPT,
            ]
            for number, server in servers
        ],
    }
    for length in sorted({len(encoded) for encoded in names}):
        ends = [b"\0", *(domain + b"\0" for domain in domains)]
        made[f"dns_after_{length}"] = [[*_bytes(length, end), goto("dns_turn")] for end in ends]
    return made


def _bytes(begin: int, expected: bytes) -> Iterator[Json]:
    """Match the bytes of a question's name from one on, whatever the letters' case (RFC 4343)."""
    for at in range(0, len(expected), _CHUNK):
        chunk = expected[at : at + _CHUNK]
        mask = bytes(0xDF if letter in _LETTERS else 0xFF for letter in chunk)
        value = bytes(letter & bits for letter, bits in zip(chunk, mask, strict=True))
        offset = _NAME + 8 * (begin + at)
        if mask.strip(b"\xff"):
            yield _masked(offset, len(chunk), int.from_bytes(mask, "big"), int.from_bytes(value, "big"))
        else:
            yield _raw(offset, len(chunk), int.from_bytes(value, "big"))


def _payload(offset: int, length: int) -> Json:
    return {"payload": {"base": "th", "offset": offset, "len": 8 * length}}


def _raw(offset: int, length: int, right: int) -> Json:
    return compared(_payload(offset, length), right)


def _masked(offset: int, length: int, mask: int, right: int) -> Json:
    return compared({"&": [_payload(offset, length), mask]}, right)


def _set(protocol: str, field: str, value: object) -> Json:
    return {"mangle": {"key": {"payload": {"protocol": protocol, "field": field}}, "value": value}}
