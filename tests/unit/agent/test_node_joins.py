"""A node that joins, or has one key more, costs others neither a reading nor a look at all other nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.interface.render_cache import RenderCache
from agent.node_encryption.diff import Observed, TunnelDiff, Way, additions, diff
from agent.node_encryption.tunnel import NodeTunnel, Places, desired, joined
from mesh.crypto.keys import PublicKey
from mesh.crypto.preshared_keys import PresharedKey
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import STEPS, Step
from tests.unit.agent.test_node_encryption import (
    FIRST_KEY,
    KEYS,
    MTU,
    NAMES,
    NEXT,
    NEXT_KEY,
    NOTHING,
    PORT,
    PSK,
    applied,
    offered,
    renewed,
    underlay,
)

FORMS = {"none": None, "first": underlay, "both": offered, "next": renewed}
OTHERS = ("n2", "n3", "n4")
places = st.fixed_dictionaries({name: st.sampled_from(sorted(FORMS)) for name in OTHERS})
own_places = st.sampled_from([underlay("n1"), offered("n1"), renewed("n1")])


def known(_own: PublicKey, _other: PublicKey) -> PresharedKey | None:
    return PSK


def underlays(own: Underlay, forms: dict[str, str]) -> list[Underlay]:
    made = [form(name) for name, which in forms.items() if (form := FORMS[which]) is not None]
    return [own, *made]


def derived(step: Step, every: Iterable[Underlay]) -> NodeTunnel:
    return desired(NodeEncryption("strict", step, PORT, 7), every, "n1", (FIRST_KEY, NEXT_KEY), known)


def rejoined(
    whole_tunnel: NodeTunnel, own: Underlay, before: dict[str, str], after: dict[str, str]
) -> NodeTunnel | None:
    """By `joined`, place by place."""
    first, last = (
        {each.node: each for each in underlays(own, forms) if each.node != "n1"} for forms in (before, after)
    )
    tunnel: NodeTunnel | None = whole_tunnel
    taken = Places([own, *first.values()])
    if first.keys() - last.keys():
        return None
    for name, place in last.items():
        if place != first.get(name) and tunnel is not None:
            come = taken.take(first.get(name), place)
            tunnel = joined(tunnel, place, come, known) if come is not None else None
    return tunnel


def seen_as(tunnel: NodeTunnel, ready: frozenset[PublicKey]) -> Observed:
    return applied(NOTHING, whole(tunnel, NOTHING, ready))


def whole(tunnel: NodeTunnel, seen: Observed, ready: frozenset[PublicKey]) -> TunnelDiff:
    way = Way(NAMES, MTU, 1000.0, ready, (RenderCache(), RenderCache()))
    return diff(tunnel, seen, None, way, complete=True)


@given(st.sampled_from(STEPS), own_places, places, places)
def test_joined_tunnel_is_that_of_all_places(
    step: Step, own: Underlay, before: dict[str, str], after: dict[str, str]
) -> None:
    tunnel = rejoined(derived(step, underlays(own, before)), own, before, after)
    grows = all(old in {"none", new} or (old, new) == ("first", "both") for old, new in zip_forms(before, after))
    assert (tunnel is not None) == grows
    if tunnel is not None:
        assert tunnel == derived(step, underlays(own, after))


def zip_forms(before: dict[str, str], after: dict[str, str]) -> list[tuple[str, str]]:
    return [(before[name], after[name]) for name in OTHERS]


@given(st.sampled_from(STEPS), own_places, places, places, st.sets(st.sampled_from(OTHERS)))
def test_additions_are_those_of_a_whole_look(
    step: Step, own: Underlay, before: dict[str, str], after: dict[str, str], answering: set[str]
) -> None:
    """On the node that the whole look before left; whoever answers there."""
    ready = frozenset(keys[name].public for name in answering for keys in (KEYS, NEXT))
    first = derived(step, underlays(own, before))
    last = rejoined(first, own, before, after)
    if last is None:
        return
    seen = seen_as(first, ready)
    changes = additions(first, last)
    assert changes is not None
    by_look = whole(last, seen, frozenset(peer.public_key for peer in first.peers) & ready)
    assert applied(seen, changes) == applied(seen, by_look)
    assert not whole(last, applied(seen, changes), frozenset(peer.public_key for peer in first.peers) & ready)


def test_whatever_else_changes_takes_a_reading() -> None:
    every = [underlay(name) for name in ("n1", "n2", "n3")]
    before = derived("enforce", every)
    tunnel = joined(before, underlay("n4"), underlay("n4").keys, known)
    assert tunnel is not None
    assert additions(before, tunnel) is not None
    (device,), (old, *_) = tunnel.devices, before.devices[0].peers
    rest = tuple(peer for peer in device.peers if peer is not old)
    others = (
        replace(tunnel, encryption=replace(tunnel.encryption, generation=8)),
        replace(tunnel, host=None),
        replace(tunnel, problem="anything"),
        replace(tunnel, devices=()),
        replace(tunnel, devices=(replace(device, listen_port=1),)),
        replace(tunnel, devices=(replace(device, slot=1),)),
        replace(tunnel, devices=(replace(device, peers=rest),)),
        replace(tunnel, devices=(replace(device, peers=(replace(old, keepalive=1), *rest)),)),
        replace(
            tunnel, devices=(replace(device, peers=tuple(replace(p, preshared_key=None) for p in device.peers)),)
        ),
        derived("enforce", every[:2]),
    )
    for other in others:
        assert additions(before, other) is None
    moved = replace(device, peers=(*before.devices[0].peers, replace(old, public_key=NEXT["n4"].public)))
    assert additions(before, replace(tunnel, devices=(moved,))) is None, "the address is another peer's"


@pytest.mark.parametrize(
    "place",
    [
        underlay("n4", at="n2"),
        underlay("n4", key="n2"),
        underlay("n4", at="n1"),
        underlay("n4", key="n1"),
        replace(offered("n4"), next=replace(underlay("n4").keys[0], epoch=5)),
    ],
)
def test_key_or_address_of_another_joins_nothing(place: Underlay) -> None:
    every = [underlay(name) for name in ("n1", "n2", "n3")]
    assert Places(every).take(None, place) is None
    assert derived("send", [*every, place]).problem


def test_problem_or_unknown_preshared_key_joins_nothing() -> None:
    place = underlay("n4")
    tunnel = derived("send", [underlay(name) for name in ("n1", "n2", "n3")])
    assert joined(tunnel, place, place.keys, lambda _own, _other: None) is None
    assert joined(replace(tunnel, problem="anything"), place, place.keys, known) is None
    assert joined(derived("send", [underlay("n2")]), place, place.keys, known) is None
