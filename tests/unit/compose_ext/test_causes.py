"""Causes of links that do not work: each is told once, with the links that it concerns, the worst first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compose_ext.walks.causes import causes
from mesh.diagnosis.link_facts import Connection, LinkFacts, Listener
from mesh.diagnosis.link_stages import by_looking, by_records
from mesh.diagnosis.steps import Step, worst
from tests.unit.mesh.test_diagnosis import DB, DEAD, GOOD, HERE, THERE, TRIAL, UNDERLAY, WEB


def told(*facts: LinkFacts) -> list[str]:
    """The causes of links with these facts, in words."""
    found = []
    for one in facts:
        steps = by_records(one)
        step = worst(steps if any(step.outcome == "wrong" for step in steps) else (*steps, *by_looking(one)))
        assert step is not None
        found.append((f"{one.consumer} -> {one.provider}", step))
    return [str(cause) for cause in causes(found)]


def between(one: str, other: str, **changes: object) -> LinkFacts:
    """A link between tasks on two nodes."""
    ends = (replace(WEB, node=one, host=one, name=f"{one}_web.1"), replace(DB, node=other, host=other))
    made = replace(GOOD, consumer=f"{one}_web", provider=f"{other}_db", consumer_end=ends[0], provider_end=ends[1])
    return replace(made, **changes)  # type: ignore[arg-type]


def cut(one: str, other: str, *, there: int | None = 8, here: int | None = 8) -> LinkFacts:
    return between(one, other, trial=DEAD, underlay=replace(UNDERLAY, there=there, here=here))


def lossy(one: str, other: str) -> LinkFacts:
    return between(one, other, trial=replace(TRIAL, large=False), underlay=replace(UNDERLAY, large_there=0))


MEND = ": a firewall or the network drops it (for at most 7 s); open UDP 51820-53819 towards "


def test_cut_is_one_cause_for_both_directions() -> None:
    one_way = told(cut("n1", "n2", there=0), cut("n2", "n1", here=0))
    assert one_way == [
        f"n1_web -> n2_db, n2_web -> n1_db: UDP from n1 does not reach n2{MEND}n2; look there: nft list ruleset"
    ]
    both_ways = told(cut("n1", "n2", there=0, here=0), cut("n2", "n1", there=0, here=0))
    assert both_ways == [
        (
            "n1_web -> n2_db, n2_web -> n1_db: UDP from n1 does not reach n2 and UDP from n2 does not reach n1"
            f"{MEND}n1 and n2; look there: nft list ruleset"
        )
    ]


def test_broken_node_is_one_cause_for_its_neighbours() -> None:
    inwards = [cut("n1", "n2", there=0), cut("n3", "n2", there=0), cut("n2", "n4", here=0)]
    assert told(*inwards) == [
        (
            "n1_web -> n2_db, n3_web -> n2_db, n2_web -> n4_db: UDP from n1, n3, n4 does not reach n2"
            f"{MEND}n2; look there: nft list ruleset"
        )
    ]
    all_ways = [cut("n1", "n2", there=0, here=0), cut("n2", "n3", there=0, here=0), cut("n5", "n6", there=0)]
    (first, second) = told(*all_ways)
    assert "UDP from n1, n3 does not reach n2 and UDP from n2 does not reach n1, n3" in first
    assert second.startswith("n5_web -> n6_db: UDP from n5 does not reach n6")


def test_narrow_way_is_one_cause_for_both_directions() -> None:
    (text,) = told(lossy("n1", "n2"), lossy("n2", "n1"))
    assert text.startswith("n1_web -> n2_db, n2_web -> n1_db: small packets pass, one of 1420 bytes gets no answer")
    (text,) = told(lossy("n1", "n2"), lossy("n3", "n2"))
    assert "large packets between n2 and n1, n3 are lost, and the network does not say so; such as: small" in text


def same(first: LinkFacts, second: LinkFacts) -> list[LinkFacts]:
    """Two links, of which the second has a consumer of another name."""
    return [first, replace(second, consumer="shop_api")]


API = replace(WEB, task="a1", name="shop_api.1")
REFUSED = replace(TRIAL, connections=(Connection("100.96.0.3", 5433, "refused", is_vip=False),))
ODD = {
    "unwired": (
        same(
            replace(GOOD, here=replace(HERE, device="", error="no tun")),
            replace(GOOD, consumer_end=API, here=replace(HERE, device="", error="no tun")),
        ),
        "tasks on n1 are not wired: no tun",
    ),
    "unapproved": (
        same(
            replace(GOOD, consumer_end=replace(WEB, approved=False)),
            replace(GOOD, consumer_end=replace(API, approved=False)),
        ),
        "the keys of node n1 are not accepted, so its tasks get no address",
    ),
    "a clock": (
        same(
            replace(GOOD, there=replace(THERE, clock=4601.0)),
            replace(GOOD, consumer_end=API, there=replace(THERE, clock=4731.0)),
        ),
        "the clock of n2 is ahead of that of the node that was asked: certificates",
    ),
    "no controller": (
        same(replace(GOOD, leads=False), replace(GOOD, leads=False, is_recorded=False)),
        "no controller leads: nothing that changes is wired",
    ),
    "another port": (
        same(replace(GOOD, trial=REFUSED), replace(GOOD, consumer_end=API, trial=REFUSED)),
        "a connection to 5433/tcp of shop_db.1 is refused: nothing listens there; it listens on 5432/tcp",
    ),
    "keys": (
        same(
            replace(GOOD, trial=DEAD),
            replace(GOOD, consumer_end=API, trial=DEAD, here=replace(HERE, handshake_age=9)),
        ),
        "packets through tunnels between n1 and n2 are not answered",
    ),
}


@pytest.mark.parametrize(("facts", "text"), ODD.values(), ids=ODD)
def test_cause_in_common_is_told_once(facts: list[LinkFacts], text: str) -> None:
    (said,) = told(*facts)
    assert said.startswith(f"shop_web -> shop_db, shop_api -> shop_db: {text}")


def test_causes_of_their_own_stay_apart() -> None:
    listener = Listener(80, "tcp", loopback=False)
    alone = replace(GOOD, trial=REFUSED, there=replace(THERE, listeners=(listener,)))
    other = replace(GOOD, consumer="shop_api", here=replace(HERE, rules_hold=False))
    assert len(told(alone, other, cut("n1", "n2", there=0), cut("n3", "n4", there=0))) == 4


def test_worst_comes_first_and_few_links_named() -> None:
    silent = Step("agent", "warning", "the agent on n2 is silent", node="b")
    down = Step("placement", "wrong", "shop_db.1 does not run")
    lonely = Step("listens", "wrong", "nothing listens")
    found = [
        ("e -> f", lonely),
        *((f"a{number} -> b", silent) for number in range(5)),
        ("a -> b", down),
        ("c -> b", down),
    ]
    assert [str(cause) for cause in causes(found)] == [
        "a -> b, c -> b: shop_db.1 does not run",
        "e -> f: nothing listens",
        "a0 -> b, a1 -> b, a2 -> b and 2 more links: the agent on n2 is silent",
    ]


def test_links_of_one_agent_have_one_cause() -> None:
    """Others do without it, since their node's kernel has WireGuard: it is the same agent."""
    silent = Step("agent", "warning", "the agent on n2 is silent", node="b")
    ended = Step("handshake", "wrong", "not answered, and it is silent", node="b", cause="n2's links end with it")
    (cause,) = causes([("a -> b", silent), ("c -> b", ended)])
    assert (cause.text, cause.is_wrong, cause.links) == ("n2's links end with it", True, ("a -> b", "c -> b"))
