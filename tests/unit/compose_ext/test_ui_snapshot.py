"""The page's documents as functions of the agent's answers: states, rates, changes and places."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose_ext.ui import snapshot
from compose_ext.ui.layout import COLUMN, ROW, placed
from compose_ext.ui.rates import Rates
from compose_ext.ui.snapshot import WORST_FIRST, Reading
from tests.ui import world


def reading(document: dict[str, Any], at: float = world.NOW, before: Reading | None = None) -> Reading:
    answer = world.answer(document)
    return Reading(answer, at, (before.rates if before else Rates()).after(answer, at))


SHOP = reading(world.shop())


def one(items: list[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    (found,) = [item for item in items if all(item[name] == value for name, value in wanted.items())]
    return found


def test_links_have_their_worst_pairs_state() -> None:
    states = {(link["consumer"], link["provider"]): link["state"] for link in snapshot.graph(SHOP)["links"]}
    assert states["shop_web", "shop_db"] == "broken"
    assert states["shop_web", "shop_cache"] == "idle"
    assert states["blog_web", "shop_cache"] == "not-allowed"
    assert states["blog_cron", "blog_db"] == "no-tasks"
    pairs = [world.pair("a_a", "a_b", number, state=state) for number, state in enumerate(WORST_FIRST)]
    for worst in range(len(pairs)):
        mixed = [*reversed(pairs[worst:])]
        (link,) = snapshot.graph(reading({"version": 1, "links": [world.link("a_a", "a_b", *mixed)]}))["links"]
        assert (link["state"], link["pairs_count"]) == (WORST_FIRST[worst], len(mixed))


def test_a_newer_agents_state_is_not_hidden() -> None:
    pairs = [world.pair("a_a", "a_b", state="broken"), world.pair("a_a", "a_b", 2, state="revoked")]
    (link,) = snapshot.graph(reading({"version": 1, "links": [world.link("a_a", "a_b", *pairs)]}))["links"]
    assert link["state"] == "revoked"


def test_services_and_nodes_of_the_shop() -> None:
    graph = snapshot.graph(SHOP)
    assert one(graph["services"], name="shop_web") | {"x": 0, "y": 0} == {
        "name": "shop_web",
        "stack": "shop",
        "state": "broken",
        "tasks": 2,
        "x": 0,
        "y": 0,
    }
    assert one(graph["services"], name="shop_proxy")["state"] == "connected"
    assert [node["name"] for node in graph["nodes"]] == ["n1", "n2", "n3"]
    assert one(graph["nodes"], name="n3")["unproven"] == "it gives no proof of its keys"
    assert graph["problems"] == world.shop()["problems"]
    json.dumps(graph, allow_nan=False)


def test_part_of_each_node_in_encryption() -> None:
    raw = world.shop()
    nodes = snapshot.graph(reading(raw))["nodes"]
    assert one(nodes, name="n1")["encryption"] == {
        "step": "send",
        "peers": 1,
        "ready": 1,
        "handshake_age": 12.5,
        "received": 1_234_567,
        "sent": 98_765,
        "refused": 0,
        "problem": "",
        "why_not": "",
    }
    assert one(nodes, name="n3")["encryption"] is None, "its agent is silent"
    raw["control"]["agents"][raw["nodes"][1]["id"]] = world.part(2, "UDP port 51819 is in use on the node")
    wrong = snapshot.graph(reading(raw))
    assert wrong["problems"][-1] == "node encryption: node n2: UDP port 51819 is in use on the node"
    raw["control"]["encryption"] = None
    off = snapshot.graph(reading(raw))
    assert {node["encryption"] for node in off["nodes"]} == {None}
    assert off["problems"] == raw["problems"]


def test_one_link_one_service_one_node() -> None:
    link = snapshot.link(SHOP, "shop_web", "shop_db")
    assert link is not None
    assert (link["key"], link["epoch"], link["refused"]) == ("shop_data", 1_799_999_400_000, 17)
    assert [pair["provider_node"] for pair in link["pairs"]] == ["n3"]
    service = snapshot.service(SHOP, "shop_db")
    assert service is not None
    assert {each["consumer"] for each in service["links"]} == {"shop_web", "shop_worker"}
    assert (service["apart"], service["tasks_count"]) == (7, 1)
    node = snapshot.node(SHOP, "n3")
    assert node is not None
    assert node["pairs"][0]["state"] == "broken"
    assert world.task("shop_db") in {task["task"] for task in node["tasks"]}
    assert all("n3" in (pair["consumer_node"], pair["provider_node"]) for pair in node["pairs"])


@pytest.mark.parametrize("name", ["", "nobody", "shop_we"])
def test_nothing_is_known_of_strangers(name: str) -> None:
    assert snapshot.link(SHOP, name, "shop_db") is None
    assert snapshot.service(SHOP, name) is None
    assert snapshot.node(SHOP, name) is None


def test_details_are_bounded_and_show_the_worst() -> None:
    pairs = [world.pair("a_a", "a_b", number) for number in range(snapshot.MOST + 50)]
    pairs[-1] |= {"state": "broken"}
    many = reading({"version": 1, "links": [world.link("a_a", "a_b", *pairs)]})
    link, service = snapshot.link(many, "a_a", "a_b"), snapshot.service(many, "a_b")
    assert link is not None
    assert service is not None
    assert (len(link["pairs"]), link["pairs_count"], link["pairs"][0]["state"]) == (200, 250, "broken")
    assert (len(service["tasks"]), service["tasks_count"]) == (200, 250)


def test_rates_come_from_two_statuses() -> None:
    def counted(received: int, age: float) -> dict[str, Any]:
        pair = world.pair("a_a", "a_b", rx=received, tx=0, as_of=age)
        return {"version": 1, "links": [world.link("a_a", "a_b", pair)]}

    def rate(found: Reading) -> float | None:
        value: float | None = snapshot.graph(found)["links"][0]["received_rate"]
        return value

    first = reading(counted(1000, 1.0), 100.0)
    assert rate(first) is None
    same = reading(counted(1000, 3.0), 102.0, first)  # the node has written nothing since
    assert rate(same) is None
    second = reading(counted(6000, 1.0), 104.0, same)
    assert rate(second) == 1250.0  # 5,000 bytes from 99 to 103
    again = reading(counted(6000, 2.0), 105.0, second)
    assert rate(again) == 1250.0
    anew = reading(counted(10, 1.0), 109.0, again)  # a new device counts from 0
    assert rate(anew) is None


def test_a_change_of_state_is_an_event() -> None:
    document = world.shop()
    document["links"][3]["pairs"][0]["state"] = "broken"
    later = reading(document, world.NOW + 3, SHOP)
    assert list(snapshot.changes(SHOP, later)) == [
        {
            "time": world.NOW + 3,
            "kind": "link broken",
            "details": {"consumer": "shop_worker", "provider": "shop_db", "before": "connected"},
            "measured": True,
        }
    ]
    assert list(snapshot.changes(None, later)) == []
    document["links"].append(world.link("shop_new", "shop_db"))
    assert len(list(snapshot.changes(SHOP, reading(document)))) == 1


names = st.sampled_from([f"{stack}_{service}" for stack in "abc" for service in "pqrs"] + ["lone", "other"])


@given(st.sets(st.tuples(names, names), max_size=40))
def test_no_two_services_share_a_place(links: set[tuple[str, str]]) -> None:
    services = sorted({name for link in links for name in link})
    places = placed(services, sorted(links))
    assert sorted(places.services) == services
    taken = [(place.x, place.y) for place in places.services.values()]
    assert all(
        abs(x - other_x) >= COLUMN or abs(y - other_y) >= ROW
        for number, (x, y) in enumerate(taken)
        for other_x, other_y in taken[:number]
    )
    assert placed(services, sorted(links, reverse=True)) == places


def test_consumers_stand_left_of_their_providers() -> None:
    places = snapshot.graph(SHOP)["services"]
    x = {service["name"]: service["x"] for service in places}
    assert x["shop_proxy"] < x["shop_web"] < x["shop_db"]
    circle = placed(["a_a", "a_b", "a_c"], [("a_a", "a_b"), ("a_b", "a_c"), ("a_c", "a_a")])
    assert [circle.services[name].x // COLUMN for name in ("a_a", "a_b", "a_c")] == [0, 1, 2]
