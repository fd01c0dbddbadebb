"""Whether a ruleset of nftables surely drops what other nodes send."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from agent.fitness.node_encryption import dropping_own
from agent.fitness.packet_filter import Packet, dropping
from agent.node_encryption.device import NAMES

WIREGUARD, ETCD = Packet("udp", 51820), Packet("tcp", 2379)
OPEN = "udp dport 51820-53819 accept; tcp dport 2379 accept"


def ruleset(text: str) -> list[dict[str, Any]]:
    """What nft says of a ruleset, in a namespace of its own."""
    words = ["unshare", "--net", "sh", "-c", "nft -f - && nft --numeric-protocol --json list ruleset"]
    done = subprocess.run(words, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    return found


def table(rules: str, policy: str = "drop", more: str = "", hook: str = "input") -> str:
    lines = "\n".join(part.strip() for part in rules.split(";"))
    base = f"chain base {{ type filter hook {hook} priority 0; policy {policy};\n{lines}\n}}"
    return f"table inet guard {{\n{more}\n{base}\n}}"


USUAL = (
    "ct state established,related accept; iifname lo accept; tcp dport { 22, 443 } accept; meta l4proto icmp accept"
)
UFW = "chain user { udp dport 51820-53819 accept; }"


@pytest.mark.parametrize(
    "text",
    [
        table(""),
        table(USUAL),
        table(f"{USUAL}; udp dport {{ 53, 60000-60100 }} accept"),
        table("", hook="output"),
        table("udp dport 51820 drop", "accept"),
        table("meta l4proto udp reject", "accept"),
        table("ip protocol udp counter drop", "accept"),
        table("jump user", more="chain user { udp dport 53 accept; }"),
        table("goto user", "accept", more="chain user { drop; }"),
        table("jump user; drop", "accept", more="chain user { return; }"),
        table("ct state new drop", "accept"),
    ],
)
def test_sure_drop_is_named(text: str) -> None:
    (chain,) = dropping(ruleset(text), WIREGUARD)
    assert chain.startswith("inet guard base (")


@pytest.mark.parametrize(
    "text",
    [
        table("", "accept"),
        table(OPEN),
        table(f"{USUAL}; {OPEN}"),
        table("jump user", more=UFW),
        table("meta l4proto udp accept"),
        table("ip saddr 10.0.0.0/8 accept"),
        table("iifname eth0 accept"),
        table("udp dport 51820 limit rate 10/second drop", "accept"),
        table("udp dport vmap { 51820 : accept }"),
        table("udp dport @open accept", more="set open { type inet_service; elements = { 51820 }; }"),
        table("tcp dport 51820 drop", "accept"),
        table("drop", "accept", hook="forward"),
        table("ct state invalid drop", "accept"),
    ],
)
def test_filter_that_may_let_it_pass_is_not(text: str) -> None:
    assert dropping(ruleset(text), WIREGUARD) == ()


def test_protocols_are_told_apart() -> None:
    found = ruleset(table("udp dport 51820-53819 accept"))
    assert dropping(found, WIREGUARD) == ()
    assert dropping(found, ETCD) == ("inet guard base (input)",)
    assert dropping(ruleset(table("tcp dport 2379 accept")), ETCD) == ()


def test_rules_of_iptables_are_read() -> None:
    rules = "iptables-nft -P INPUT DROP && iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT"
    listing = f"{rules} && nft --numeric-protocol --json list ruleset"
    shown = subprocess.run(["unshare", "--net", "sh", "-c", listing], text=True, capture_output=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert dropping(json.loads(shown.stdout)["nftables"], WIREGUARD) == ("ip filter INPUT (input)",)


def test_ports_shut_in_devices_alone_are_named() -> None:
    rules = 'iifname "eth0" tcp dport 5432 accept; tcp dport 8080 accept; iifname "lwnode*" tcp dport 9000 drop'
    found = dropping_own(ruleset(table(rules)), NAMES, {"tcp": [5432, 8080, 9000, 9999]})
    assert found == ("inet guard base (input), TCP 5432",), "what is shut everywhere is meant so"
    assert dropping_own(ruleset(table(f'{rules}; iifname "lwnode*" accept')), NAMES, {"tcp": [5432, 8080]}) == ()
    found = dropping_own(ruleset(table(rules, policy="accept")), NAMES, {"tcp": [5432, 9000]})
    assert found == ("inet guard base (input), TCP 9000",)
