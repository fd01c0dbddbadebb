"""Rules as text: what a policy renders to, how a listing is read, and what is told to libnftables between the two.

That the kernel makes of it what is meant is tried in tests/netns/test_nft.py and tests/netns/test_rules.py.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.firewall import ruleset
from agent.linux import nft_json
from agent.linux.nft_json import Rules
from mesh.errors import Terminal
from mesh.model.labels.ports import PortRange
from mesh.model.records import Refused
from mesh.topology.policy import Allow, Balance, Policy
from tests.support.policies import SUBNET, SUBNET6, address, policies

DEVICE = "lwabcdefghijkl"
HERE = {"family": "inet", "table": "linkwire"}
NOTHING = Policy(SUBNET, SUBNET6)
HTTP = (PortRange("tcp", 80, 80),)


def rendered(policy: Policy) -> Rules:
    return ruleset.render(policy, DEVICE)


def items(kind: str, found: Iterable[str]) -> list[Any]:
    return [item[kind] for item in map(json.loads, found) if kind in item]


def chain(name: str, found: Iterable[str]) -> list[Any]:
    return [rule["expr"] for rule in items("rule", found) if rule["chain"] == name]


def names(kind: str, found: Iterable[str]) -> set[str]:
    return {item["name"] for item in items(kind, found)}


def listing(found: Iterable[str], *, packets: int = 0, seed: int = 0) -> str:
    """As libnftables would list it: with handles, in its own order, a rule's set in any."""
    chance = random.Random(seed)  # noqa: S311 - an order

    def shuffled(value: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            if set(value) == {"set"} and isinstance(value["set"], list):
                return {"set": chance.sample([*map(shuffled, value["set"])], len(value["set"]))}
            keys = chance.sample(list(value), len(value))
            return {key: shuffled(value[key]) for key in keys}
        return [*map(shuffled, value)] if isinstance(value, list) else value

    listed: list[Any] = [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}]
    for handle, text in enumerate(found):
        ((kind, body),) = json.loads(text).items()
        counted = {"packets": packets, "bytes": packets * 100} if kind == "counter" else {}
        listed.append({kind: {**shuffled(body), "handle": handle, **counted}})
    return json.dumps({"nftables": listed})


def commands(text: str) -> list[tuple[str, str, Any]]:
    """Verb, kind and body of each command."""
    found = []
    for command in json.loads(text)["nftables"]:
        ((verb, item),) = command.items()
        ((kind, body),) = item.items()
        found.append((verb, kind, body))
    return found


# --- rendering


def test_equal_policies_give_equal_rules_others_differ() -> None:
    one = replace(NOTHING, outbound=(Allow("db", (address(1), address(2)), HTTP),))
    other = replace(NOTHING, outbound=(Allow("db", (address(1), address(3)), HTTP),))
    assert rendered(one) == rendered(one)
    assert rendered(one) != rendered(other)
    assert rendered(one) != ruleset.render(one, "lwother")


def test_without_links_the_mesh_device_passes_nothing() -> None:
    found = rendered(NOTHING)
    assert names("counter", found) == {"apart", "in_", "out_"}
    refuse = [{"counter": "in_"}, {"goto": {"target": "refuse"}}]
    assert chain("in_link", found)[-1] == refuse
    accepted = [
        rule[:-1]
        for name in ("in_link", "in_odd", "out_link", "out_odd")
        for rule in chain(name, found)
        if {"accept": None} in rule
    ]
    assert len(accepted) == 3  # related in, related out, and what goes to the task itself
    assert [rule[1] for rule in chain("out", found)[2:]] == [{"goto": {"target": "early"}}] * 2
    assert chain("early", found)[-1] == [{"counter": "out_"}, {"goto": {"target": "refuse"}}]
    assert [rule[1:] for rule in chain("in", found)[2:]] == [[{"counter": "apart"}, {"drop": None}]] * 4


def test_link_without_peers_has_counter_but_no_rule() -> None:
    policy = replace(NOTHING, outbound=(Allow("db", (), None),), inbound=(Allow("web", (), HTTP),))
    found = rendered(policy)
    assert items("rule", found) == items("rule", rendered(NOTHING))
    assert names("chain", found) == names("chain", rendered(NOTHING))
    assert names("counter", found) >= {"in_db", "out_db", "in_web", "out_web"}


def test_link_without_ports_passes_echo_only() -> None:
    found = rendered(replace(NOTHING, inbound=(Allow("web", (address(1),), ()),)))
    accepted = [rule for rule in chain("from_consumer_web", found) if {"accept": None} in rule]
    assert [rule[1]["match"]["right"] for rule in accepted] == ["echo-request"] * 2
    assert [rule[1]["match"]["left"]["payload"]["protocol"] for rule in accepted] == ["icmp", "icmpv6"]


def test_ports_are_grouped_by_protocol_and_merged() -> None:
    ports = tuple(map(PortRange.parse, ("80", "8000-8010", "8011-8020", "53/udp", "50-60/udp")))
    found = rendered(replace(NOTHING, outbound=(Allow("db", (address(1),), ports),)))
    matched = {
        (match["left"]["payload"]["protocol"], match["left"]["payload"]["field"]): match["right"]
        for rule in chain("to_provider_db", found)
        for match in (statement["match"] for statement in rule[1:-1] if "match" in statement)
    }
    assert matched["tcp", "dport"] == {"set": [80, {"range": [8000, 8020]}]}
    assert matched["udp", "dport"] == {"range": [50, 60]}


def targets(name: str, found: Iterable[str]) -> dict[str, str]:
    """Where a chain sends whom."""
    maps = [rule[0]["vmap"]["data"]["set"] for rule in chain(name, found) if "vmap" in rule[0]]
    return {key: verdict["goto"]["target"] for pairs in maps for key, verdict in pairs}


def test_consumers_and_providers_are_judged_in_both_families() -> None:
    policy = replace(
        NOTHING,
        outbound=(Allow("db", (address(1),), HTTP), Allow("peer", (address(2), address(3)), HTTP)),
        inbound=(Allow("peer", (address(3), address(4)), None), Allow("web", (address(5),), HTTP)),
    )
    assert targets("in_link", rendered(policy)) == {
        "10.99.0.1": "from_provider_db",
        "10.99.0.2": "from_provider_peer",
        "10.99.0.3": "from_both_peer",
        "10.99.0.4": "from_consumer_peer",
        "10.99.0.5": "from_consumer_web",
        "fd12:3456:789a::a63:1": "from_provider_db",
        "fd12:3456:789a::a63:2": "from_provider_peer",
        "fd12:3456:789a::a63:3": "from_both_peer",
        "fd12:3456:789a::a63:4": "from_consumer_peer",
        "fd12:3456:789a::a63:5": "from_consumer_web",
    }


def test_address_claimed_by_two_services_is_neithers() -> None:
    policy = replace(NOTHING, inbound=(Allow("a", (address(1), address(2)), None), Allow("b", (address(2),), None)))
    assert set(targets("in_link", rendered(policy)).values()) == {"from_consumer_a"}
    assert "10.99.0.2" not in targets("in_link", rendered(policy))


def test_vip_is_spread_randomly_and_empty_one_refused() -> None:
    vips = (
        Balance(address(91), (address(1), address(2)), "a"),
        Balance(address(92), (address(3),), "b"),
        Balance(address(93), (), "c"),
    )
    spread = chain("vip", rendered(replace(NOTHING, balance=vips)))
    assert [rule[0]["match"]["right"] for rule in spread] == [
        *("10.99.0.91", "fd12:3456:789a::a63:5b"),
        *("10.99.0.92", "fd12:3456:789a::a63:5c"),
    ]
    numbers = spread[0][1]["dnat"]["addr"]["map"]
    assert numbers["key"] == {"numgen": {"mode": "random", "mod": 2, "offset": 0}}
    assert numbers["data"]["set"] == [[0, "10.99.0.1"], [1, "10.99.0.2"]]
    assert spread[2][1] == {"dnat": {"family": "ip", "addr": "10.99.0.3"}}


# --- the listing


@given(policies(), st.integers(0, 99))
def test_rendered_ruleset_round_trips_through_a_listing(policy: Policy, seed: int) -> None:
    found = rendered(policy)
    assert ruleset.parse(listing(found, packets=seed, seed=seed)).rules == found


def test_nonzero_refusals_are_shown_by_direction_and_service() -> None:
    policy = replace(NOTHING, outbound=(Allow("db", (), None),))
    assert ruleset.parse(listing(rendered(policy))).refused == ()
    assert ruleset.parse(listing(rendered(policy), packets=3)).refused == (
        Refused("apart", "", 3),
        Refused("in", "", 3),
        Refused("in", "db", 3),
        Refused("out", "", 3),
        Refused("out", "db", 3),
    )


def test_foreign_counters_are_a_difference_not_a_refusal() -> None:
    strange = [
        json.dumps({"counter": {"family": "inet", "table": "linkwire", "name": n}}) for n in ("in", "x_", "mine")
    ]
    table = ruleset.parse(listing([*rendered(NOTHING), *strange], packets=1))
    assert {one.service for one in table.refused} == {""}
    assert len(table.refused) == 3
    assert len(table.rules) == len(rendered(NOTHING)) + 3


@pytest.mark.parametrize(
    "text", ["", "Error", "{}", "[]", '{"nftables": 1}', '{"nftables": [1]}', '{"nftables": [{"rule": {}}]}']
)
def test_malformed_listing_is_an_error_in_words(text: str) -> None:
    with pytest.raises(Terminal, match="libnftables lists the table of rules in an unknown form"):
        ruleset.parse(text)


# --- from what is there to what is meant


def test_where_nothing_is_all_is_added() -> None:
    found = rendered(replace(NOTHING, outbound=(Allow("db", (address(1),), HTTP),)))
    told = commands(nft_json.transaction(found, None))
    assert {verb for verb, _, _ in told} == {"add"}
    assert told[0][1] == "table"
    assert len(told) == len(found)


def done(before: Rules, text: str) -> Rules:
    """The kernel's part: what is there after these commands, each of which must be one that can be done."""
    objects = {(kind, body["name"]): {kind: body} for kind, body in bodies(before) if kind != "rule"}
    placed = [body for kind, body in bodies(before) if kind == "rule"]
    for verb, kind, body in commands(text):
        if verb == "flush":
            assert (kind, body["name"]) in objects
            placed = [rule for rule in placed if rule["chain"] != body["name"]]
        elif verb == "delete":
            assert not [rule for rule in placed if f'"{body["name"]}"' in json.dumps(rule)], "it is in use"
            del objects[kind, body["name"]]
        elif kind == "rule":
            assert ("chain", body["chain"]) in objects
            placed.append(body)
        else:
            assert (kind, body["name"]) not in objects
            objects[kind, body["name"]] = {kind: body}
    return ruleset.parse(listing(map(json.dumps, [*objects.values(), *({"rule": rule} for rule in placed)]))).rules


def bodies(found: Iterable[str]) -> list[tuple[str, Any]]:
    return [pair for text in found for pair in json.loads(text).items()]


@given(policies(), policies())
def test_rules_change_without_removing_table_or_shared_counters(one: Policy, other: Policy) -> None:
    before, after = rendered(one), rendered(other)
    text = nft_json.transaction(after, before)
    assert done(before, text) == after
    both = names("counter", before) & names("counter", after)
    for verb, kind, body in commands(text):
        assert (verb, kind) != ("delete", "table")
        assert not (kind == "counter" and body["name"] in both)


@pytest.mark.parametrize(
    "foreign",
    [
        {"set": {**HERE, "name": "mine", "type": "ipv4_addr"}},
        {"flowtable": {**HERE, "name": "mine"}},
        {"chain": {**HERE, "name": "mine", "type": "filter", "hook": "input", "prio": 9}},
        {"table": {"family": "inet", "name": "linkwire", "flags": ["dormant"]}},
    ],
    ids=str,
)
def test_table_with_foreign_additions_is_rewritten_at_once(foreign: dict[str, Any]) -> None:
    meant = rendered(NOTHING)
    there = ruleset.parse(listing([*(text for text in meant if "table" not in foreign or '"table":{' not in text)]))
    mixed = ruleset.parse(listing([*there.rules, json.dumps(foreign)])).rules
    told = commands(nft_json.transaction(meant, mixed))
    assert [one[:2] for one in told[:2]] == [("add", "table"), ("delete", "table")]
    assert {verb for verb, _, _ in told[2:]} == {"add"}
    assert len(told) == 2 + len(meant)


def test_undesired_chains_and_counters_go_without_the_table() -> None:
    meant = rendered(NOTHING)
    strange = [
        json.dumps({"chain": {**HERE, "name": "mine"}}),
        json.dumps({"counter": {**HERE, "name": "mine"}}),
        json.dumps({"rule": {**HERE, "chain": "mine", "expr": [{"counter": "mine"}]}}),
    ]
    there = ruleset.parse(listing([*meant, *strange])).rules
    text = nft_json.transaction(meant, there)
    assert ("delete", "table") not in [told[:2] for told in commands(text)]
    assert done(there, text) == meant
