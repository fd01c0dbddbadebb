"""A walk between two nodes names the first thing wrong: what, where, since when, and what mends it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mesh.diagnosis.between_nodes.facts import NodeEnd, NodesFacts, TunnelLook
from mesh.diagnosis.between_nodes.walk import by_looking, by_records
from mesh.diagnosis.link_facts import Underlay, Unheard
from mesh.diagnosis.steps import NODE_STAGES, Step

PASSES = Underlay(5, 5, 5, 1420, 5, 5)
LOST = Underlay(5, 0, 5, 1420, 0, 5)


def end(name: str, **fields: Any) -> NodeEnd:  # noqa: ANN401 - any of its fields
    known = NodeEnd(name, name, states_key=True, place=f"192.0.2.{name[1:]}:51819", has_link_key=True)
    known = replace(known, ports=(51819,))
    return replace(replace(known, acknowledged=900, step="enforce"), **fields)


def seen(**fields: Any) -> TunnelLook:  # noqa: ANN401 - any of its fields
    known = TunnelLook(1000.0, generation=900, step="enforce", device="lwnode", is_up=True, mtu=1440)
    known = replace(known, is_peer=True, has_preshared_key=True, handshake_age=12.0, received=100, sent=200)
    return replace(replace(known, out_by="lwnode", refuses_plain=True), **fields)


def facts(**fields: Any) -> NodesFacts:  # noqa: ANN401 - any of its fields
    known = NodesFacts(end("n1"), end("n2"), "strict", "strict", "enforce", 900, 4789, clock=1000.0)
    return replace(replace(known, here=seen(), there=seen(), bare=PASSES, inside=PASSES), **fields)


def walked(known: NodesFacts) -> list[Step]:
    steps = by_records(known)
    return [*steps, *(() if any(step.outcome == "wrong" for step in steps) else by_looking(known))]


def test_all_is_well_in_the_order_of_stages() -> None:
    steps = walked(facts())
    assert {step.outcome for step in steps} == {"ok"}
    assert tuple(step.stage for step in steps) == tuple(
        stage for stage in NODE_STAGES if stage not in {"node", "agent"}
    )


SILENT = Unheard("n2", "n2", "did not answer")


@pytest.mark.parametrize(
    ("known", "stage", "text", "place"),
    [
        (facts(wanted="off", mode="off"), "member", "node encryption is off: overlay packets between n1 and n2", ""),
        (facts(other=end("n2", approved=False)), "member", "the keys of node n2 are not accepted", "node n2"),
        (facts(other=end("n2", states_key=False)), "key", "n2 states no encryption key", "node n2"),
        (
            facts(other=end("n2", has_link_key=False)),
            "key",
            "the link key of all nodes is not in the store",
            "node n2",
        ),
        (facts(other=end("n2", place="")), "place", "n2 has no place in node encryption: see the contr", "node n2"),
        (facts(mode="off", step="off"), "step", "node encryption is to be strict, and no controller has", ""),
        (
            facts(one=end("n1", acknowledged=899, problem="rp_filter is 1")),
            "step",
            "it is at enforce: rp_filter is 1",
            "node n1",
        ),
        (facts(one=end("n1", step="send", is_silent=True)), "step", "it is at send: its agent is silent", "node n1"),
        (
            facts(there=seen(error="no netlink")),
            "device",
            "the device of n2 could not be read: no netlink",
            "node n2",
        ),
        (facts(there=seen(is_peer=False)), "peer", "the device of n2 does not know the other node", "node n2"),
        (facts(here=seen(has_preshared_key=False)), "peer", "the device of n1 has no preshared key for", "node n1"),
        (
            facts(here=seen(handshake_age=None), there=seen(handshake_age=None), inside=LOST),
            "handshake",
            "no session; last handshake never: UDP passes on other ports: a firewall drops UDP 51819",
            "between n1 and n2",
        ),
        (
            facts(here=seen(handshake_age=None), there=seen(handshake_age=400), inside=LOST, bare=LOST),
            "underlay",
            "UDP from n1 does not reach n2: a firewall or the network drops it",
            "between n1 and n2",
        ),
        (facts(there=seen(out_by="eth0")), "route", "from n2 to n1 leave by eth0, in plain text", "node n2"),
        (facts(there=seen(out_by="")), "route", "from n2 to n1 have no way", "node n2"),
        (
            facts(inside=replace(PASSES, large_there=0)),
            "mtu",
            "those of 1420 bytes are lost there:",
            "between n1 and n2",
        ),
    ],
)
def test_first_thing_wrong_ends_the_walk(known: NodesFacts, stage: str, text: str, place: str) -> None:
    steps = walked(known)
    last = steps[-1]
    assert (last.stage, last.outcome, last.place) == (stage, "wrong", place)
    assert text in last.text
    assert last.command or last.node, "the plugin adds the command that shows that agent's log"
    assert [step.stage for step in steps if step.outcome == "wrong"] == [stage]


def test_since_when_is_said() -> None:
    behind = walked(facts(one=end("n1", acknowledged=899)))[-1]
    assert behind.since == "100 s", "a generation is the second in which the step began"
    cut = walked(facts(here=seen(handshake_age=400), there=seen(handshake_age=500), inside=LOST))[-1]
    assert (cut.stage, cut.since) == ("handshake", "at most 6 min")


def test_silent_node_is_walked_past() -> None:
    """Its kernel goes on: this side's view is judged all the same."""
    steps = walked(facts(there=None, bare=None, inside=None, unheard=(SILENT,)))
    assert [step.stage for step in steps if step.outcome == "warning"] == ["agent"]
    assert [step.stage for step in steps if step.outcome == "skipped"] == ["underlay", "firewall", "mtu"]
    assert not [step for step in steps if step.outcome == "wrong"]


def test_switching_is_a_warning_and_goes_on() -> None:
    ends = {"one": end("n1", step="accept"), "other": end("n2", step="accept")}
    steps = {step.stage: step for step in walked(facts(step="accept", **ends))}
    assert (steps["step"].outcome, steps["step"].since) == ("warning", "100 s")
    assert (steps["route"].outcome, steps["plain"].outcome, steps["mtu"].outcome) == ("skipped", "skipped", "ok")


def test_agents_own_problem_is_told() -> None:
    text = "overlays send to addresses that no node has in node encryption: 192.0.2.99"
    steps = walked(facts(there=seen(problem=text)))
    (warning,) = [step for step in steps if step.outcome == "warning"]
    assert (warning.stage, warning.text, warning.place) == ("plain", f"n2: {text}", "node n2")


def test_without_the_store_records_prove_nothing() -> None:
    """What the node has on disk and what it sees itself is judged."""
    lost = {"one": end("n1", states_key=False, has_link_key=False, acknowledged=0), "store": "no answer"}
    steps = walked(facts(**lost, there=None, unheard=(SILENT,)))
    assert [step.stage for step in steps if step.outcome != "ok"] == ["member"]
