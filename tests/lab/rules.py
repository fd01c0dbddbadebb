"""Where a namespace's nft table sends what goes to a VIP, as `nft` itself lists it."""

from __future__ import annotations

import json
from typing import Any

from tests.lab import process

TABLE = ("inet", "linkwire")


def backends(netns: str) -> dict[str, list[str]] | None:
    """VIP to the addresses that new connections to it are spread over; None where there is no table.

    What is not one even spread (two rules for one VIP, a map with holes) is given as a list with a text that says so.
    """
    argv = ["nsenter", f"--net={netns}", "nft", "--json", "list", "table", *TABLE]
    shown = process.answer(argv, check=False)
    if shown.returncode != 0:
        return None
    found: dict[str, list[str]] = {}
    for entry in json.loads(shown.stdout)["nftables"]:
        expressions: list[dict[str, Any]] = entry.get("rule", {}).get("expr", [])
        for target in (expression["dnat"]["addr"] for expression in expressions if "dnat" in expression):
            vip = _destination(expressions)
            found[vip] = [*found[vip], "a second rule"] if vip in found else _spread(target)
    return found


def _destination(expressions: list[dict[str, Any]]) -> str:
    for expression in expressions:
        match = expression.get("match", {})
        if match.get("op") == "==" and match["left"].get("payload", {}).get("field") == "daddr":
            return str(match["right"])
    return "any address"


def _spread(target: str | dict[str, Any]) -> list[str]:
    """The addresses of a `dnat to ADDRESS` or a `dnat to numgen random mod N map {0: ADDRESS, ...}`."""
    if isinstance(target, str):
        return [target]
    mapped = target["map"]
    numbers, addresses = zip(*mapped["data"]["set"], strict=True)
    even = sorted(numbers) == list(range(mapped["key"]["numgen"]["mod"]))
    return [*addresses, *([] if even else ["an uneven map"])]
