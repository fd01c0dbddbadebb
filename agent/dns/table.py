"""Table of one task's DNS names, and the answers to questions about them. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.dns import wire
from agent.dns.wire import Rcode

TTL_S = 5
"""Seconds for which an address that stays may be kept: as long as a new one may be late after a redeploy."""
TURNING_TTL_S = 1
"""The same where each answer begins with another address."""


@dataclass(frozen=True, slots=True)
class _Name:
    addresses: Sequence[IPv4Address | IPv6Address]
    rotates: bool


class Table:
    """One task's names, from JSON: `{"names": {"db": [["10.1.9.2"], false]}, "search": ["corp.example"]}`."""

    def __init__(self, text: bytes) -> None:
        content = json.loads(text)
        self._names: Mapping[str, _Name] = {
            name: _Name([ip_address(address) for address in addresses], rotates)
            for name, (addresses, rotates) in content["names"].items()
        }
        self._ends: Sequence[str] = [f".{domain}" for domain in content["search"]]

    def answer(self, message: bytes) -> bytes | None:
        """Return the answer to a program's question; None for a message that gets none."""
        question = wire.parse(message)
        if question is None:
            return None
        name = self._names.get(question.name)
        if name is None:
            return wire.answer(question, Rcode.NAME_ERROR if self._goes_on(question.name) else Rcode.REFUSED)
        if not name.rotates:
            return wire.answer(question, Rcode.NO_ERROR, name.addresses, TTL_S)
        # By chance: in turns, who asks twice for each connection would have the same one each time.
        first = random.randrange(len(name.addresses) or 1)  # noqa: S311 - spreads load, keeps no secret
        addresses = (*name.addresses[first:], *name.addresses[:first])
        return wire.answer(question, Rcode.NO_ERROR, addresses, TURNING_TTL_S)

    def _goes_on(self, name: str) -> bool:
        """Tell whether it is a link's name and a search domain: it does not exist then, and the next is asked."""
        return any(name.endswith(end) and name[: -len(end)] in self._names for end in self._ends)
