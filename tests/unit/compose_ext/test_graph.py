"""Graphs of links: the worst state counts, and each format can be read by those who draw it."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from compose_ext.observe.traffic.graph_text import AMBER, GREEN, RED, WORST_FIRST, document, dot, graph_of, mermaid
from compose_ext.observe.traffic.layout import layout
from compose_ext.observe.traffic.svg import svg
from compose_ext.swarm.link_states import Link, Pair

SVG = "{http://www.w3.org/2000/svg}"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
SERVICES = st.sampled_from("abcdefgh")


def pair(state: str) -> Pair:
    return Pair("w.1.x", "n1", "d.1.y", "n2", state, None, 0, 0, None)


def link(consumer: str, provider: str, *states: str, ports: str = "all", allowed: bool = True) -> Link:
    pairs = tuple(map(pair, states))
    aliases, counted = (provider, "alias"), Counter(states)
    return Link(consumer, provider, aliases, pairs, 3, "k", None, allowed=allowed, ports=ports, states=counted)


def test_the_worst_pair_gives_the_state() -> None:
    graph = graph_of(
        [
            link("shop_web", "shop_db", "connected", "broken", "connected", ports="5432/tcp"),
            link("shop_web", "shop_cache", "connected", "idle"),
            link("shop_web", "blog_db", allowed=False),
            link("shop_web", "later"),
        ]
    )
    assert graph.services == ("blog_db", "later", "shop_cache", "shop_db", "shop_web")
    assert {edge.provider: edge.label for edge in graph.edges} == {
        "shop_db": "alias 5432/tcp: broken 1/3",
        "shop_cache": "alias: idle 1/2",
        "blog_db": "alias: not allowed",
        "later": "alias: no tasks",
    }


def test_an_unheard_of_state_counts_as_unknown() -> None:
    (edge,) = graph_of([link("a", "b", "connected", "wondrous")]).edges
    assert edge.state == "wondrous"
    assert f'stroke="{AMBER}"' in svg(graph_of([link("a", "b", "connected", "wondrous")]))


def test_mermaid_colours_links_by_state() -> None:
    text = mermaid(graph_of([link("shop_web", "shop_db", "broken"), link("shop_web", "shop_cache", "connected")]))
    assert text.splitlines() == [
        "flowchart LR",
        '  s0["shop_cache"]',
        '  s1["shop_db"]',
        '  s2["shop_web"]',
        '  s2 -->|"alias: connected 1/1"| s0',
        '  s2 -.->|"alias: broken 1/1"| s1',
        f"  linkStyle 0 stroke:{GREEN},stroke-width:2px",
        f"  linkStyle 1 stroke:{RED},stroke-width:2px",
    ]


@given(NAMES, NAMES)
def test_names_cannot_leave_their_quotes(consumer: str, provider: str) -> None:
    graph = graph_of([link(consumer, provider, "connected")])
    for line in mermaid(graph).splitlines():
        assert line.count('"') in (0, 2)
    for line in dot(graph).splitlines():
        assert re.sub(r'"(?:[^"\\]|\\.)*"', "", line).count('"') == 0
    ET.fromstring(svg(graph))  # noqa: S314 - our own
    assert json.loads(document(graph))["links"][0]["consumer"] == consumer


def test_svg_shows_each_service_and_link() -> None:
    graph = graph_of([link("a", "b", "connected"), link("b", "a", "idle"), link("a", "a", "broken"), link("c", "a")])
    root = ET.fromstring(svg(graph))  # noqa: S314 - our own
    groups = root.findall(f"{SVG}g")
    assert [one.get("data-state") for one in groups if one.get("class") == "link"] == [
        edge.state for edge in graph.edges
    ]
    boxes = {one[1].text: one[0] for one in groups if one.get("class") == "service"}
    assert sorted(map(str, boxes)) == ["a", "b", "c"]
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for box in boxes.values():
        x, y, wide, high = (float(box.get(name, -1)) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    assert root[0].text == "3 services, 4 links"


def test_an_empty_graph_is_drawn() -> None:
    graph = graph_of([])
    assert mermaid(graph) == "flowchart LR\n"
    assert ET.fromstring(svg(graph)).get("role") == "img"  # noqa: S314 - our own
    assert json.loads(document(graph)) == {"services": [], "links": []}


@given(st.lists(st.tuples(SERVICES, SERVICES), max_size=25))
def test_layouts_leave_no_link_out(links: list[tuple[str, str]]) -> None:
    services = sorted({end for link in links for end in link})
    placed = layout(services, links)
    column = {slot: number for number, slots in enumerate(placed.columns) for slot in slots}
    assert sorted(slot for slot in column if isinstance(slot, str)) == services
    for (consumer, provider), way in zip(links, placed.ways, strict=True):
        assert (way[0], way[-1]) == (consumer, provider)
        if consumer != provider:
            steps = {column[there] - column[here] for here, there in pairwise(way)}
            assert steps in ({1}, {-1}), "each step is to the next column, all in one direction"


def test_a_chain_goes_from_left_to_right() -> None:
    placed = layout(["a", "b", "c"], [("c", "b"), ("b", "a"), ("c", "a")])
    assert [slots[0] for slots in placed.columns] == ["c", "b", "a"] or placed.columns[1] == ((2, 1), "b")
    assert placed.ways[2] == ("c", (2, 1), "a")


def test_every_state_has_its_place_and_colour() -> None:
    assert len(set(WORST_FIRST)) == len(WORST_FIRST)
    assert WORST_FIRST[-1] == "connected"
