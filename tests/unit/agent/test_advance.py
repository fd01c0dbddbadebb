"""What two configurations say of a device's peers without a look at it, held against what a look would say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from agent.firewall.ruleset import render
from agent.interface.diff import InterfaceDiff, Observed, diff, peer_changes
from agent.linux.nft_json import Rules
from mesh.topology.wgtypes import DeviceChange, Interface, InterfaceConfig, PeerChange, Route
from tests.support.swarm_world import private_key
from tests.unit.agent.test_diff import (
    ANY,
    HOSTS,
    KEY,
    KEYS,
    NETWORKS,
    NOW,
    OTHER_KEY,
    Hosts,
    Model,
    configs,
    hosts_read,
    interfaces,
    meant,
    place,
    policy,
    tables,
    wanted,
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[InterfaceConfig, InterfaceConfig]:
    """What was meant and what is meant, of one interface: peers, rules and names may differ."""
    before, other = draw(configs()), draw(configs())
    after = replace(before, peers=other.peers, policy=other.policy, hosts=other.hosts)
    if draw(st.booleans()):  # else it hardly ever happens that all keys are known
        before, after = keyed(before), keyed(after)
    kept = {peer.public_key: peer for peer in before.peers}
    if draw(st.booleans()):
        same = draw(st.sets(st.sampled_from(KEYS)))
        after = replace(
            after, peers=tuple(kept.get(p.public_key, p) if p.public_key in same else p for p in after.peers)
        )
    owners = [network for peer in after.peers for network in peer.allowed_ips]
    assume(len(owners) == len(set(owners)))  # rule 1
    return before, after


def keyed(config: InterfaceConfig) -> InterfaceConfig:
    return replace(config, peers=tuple(replace(p, preshared_key=p.preshared_key or KEY) for p in config.peers))


def done(peers: tuple[PeerChange, ...]) -> InterfaceDiff:
    return InterfaceDiff(device=DeviceChange(peers=peers) if peers else None)


@ANY
@given(pairs(), interfaces(), tables, hosts_read)
def test_on_intact_device_it_equals_a_full_reading(
    pair: tuple[InterfaceConfig, InterfaceConfig], found: Interface | None, table: Rules | None, hosts: Hosts
) -> None:
    before, after = pair
    settled = Model(found, hosts, table)
    settled.apply(diff(before, Observed(found, table, hosts), None, NOW))
    plain, other = (Model(settled.interface, settled.hosts, settled.table) for _ in range(2))
    changes = diff(after, Observed(plain.interface, plain.table, plain.hosts), before, NOW)
    peers = peer_changes(before, after)
    event(f"it tells: {peers is not None}, something changes: {bool(peers)}")
    if peers is None:
        return
    plain.apply(changes)
    other.apply(done(peers))
    assert other.interface == plain.interface
    left = diff(after, Observed(other.interface, plain.table, plain.hosts), after, NOW)
    assert left == InterfaceDiff(), left.reasons


@ANY
@given(pairs(), interfaces())
def test_on_any_device_it_touches_only_record_changes(
    pair: tuple[InterfaceConfig, InterfaceConfig], found: Interface | None
) -> None:
    before, after = pair
    peers = peer_changes(before, after)
    if peers is None or found is None:
        return
    model = Model(found, None)
    model.apply(done(peers))
    assert model.interface is not None
    there, now = found.device.peers, model.interface.device.peers
    same = set(before.peers) & set(after.peers)
    for peer in same:
        assert (peer.public_key in now) == (peer.public_key in there)
        if peer.public_key in there:
            old, new = there[peer.public_key], now[peer.public_key]
            assert (new.endpoint, new.keepalive, new.preshared_key) == (
                old.endpoint,
                old.keepalive,
                old.preshared_key,
            )
    for key in now.keys() - there.keys():
        assert now[key].preshared_key is not None
        assert now[key].endpoint is not None
    for key in there.keys() - now.keys():
        assert key not in {peer.public_key for peer in after.peers}
        assert key in {peer.public_key for peer in before.peers}, "only who was meant to be there is taken away"
    left = diff(after, Observed(model.interface, render(after.policy, after.name), after.hosts), after, NOW)
    model.apply(left)
    again = diff(after, Observed(model.interface, render(after.policy, after.name), after.hosts), after, NOW)
    assert again == InterfaceDiff(), "the next look puts right whatever it was"


def test_one_of_many_is_named_alone() -> None:
    before = meant(*(wanted(n) for n in range(6)))
    moved = replace(before.peers[3], endpoint=place(9))
    after = replace(before, peers=(*before.peers[:3], moved, *before.peers[4:]))
    assert peer_changes(before, after) == (PeerChange(KEYS[3], place(9), update_only=True),)
    assert peer_changes(before, replace(before, peers=tuple(replace(peer) for peer in before.peers))) == ()
    assert peer_changes(before, replace(before, peers=before.peers[1:])) == (PeerChange(KEYS[0], remove=True),)
    kept = replace(before.peers[0], keepalive=7)
    assert peer_changes(before, replace(before, peers=(kept, *before.peers[1:]))) == (
        PeerChange(KEYS[0], keepalive=7, update_only=True),
    )
    other = replace(before.peers[0], preshared_key=OTHER_KEY)
    assert peer_changes(before, replace(before, peers=(other, *before.peers[1:]))) == (
        PeerChange(KEYS[0], preshared_key=OTHER_KEY, update_only=True),
    )


def test_network_lost_by_a_peer_is_removed() -> None:
    both = replace(wanted(0), allowed_ips=frozenset(NETWORKS[:2]))
    change = PeerChange(KEYS[0], None, frozenset(NETWORKS[:1]), replace_allowed_ips=True, update_only=True)
    assert peer_changes(meant(both), meant(wanted(0))) == (change,)


def test_undecidable_change_is_left_to_a_reading() -> None:
    before, unknown = meant(wanted(0), wanted(1)), replace(wanted(0), preshared_key=None)
    assert peer_changes(before, replace(before, policy=policy("0"), hosts=())) == ()
    assert peer_changes(before, replace(before, peers=(unknown, before.peers[1]))) is None
    assert peer_changes(replace(before, peers=(unknown, before.peers[1])), before) is None
    assert (
        peer_changes(replace(before, peers=before.peers[1:]), replace(before, peers=(unknown, before.peers[1])))
        is None
    )
    still = replace(before, peers=(unknown, before.peers[1]))
    assert peer_changes(still, replace(still, peers=(unknown, wanted(1, at=4)))) is not None, (
        "it is the same as before"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"name": "lw1"},
        {"private_key": private_key(2)},
        {"listen_port": 51821},
        {"addresses": ()},
        {"routes": (Route(IPv4Network("10.7.0.0/16")),)},
        {"mtu": 1280},
    ],
)
def test_all_else_is_left_to_a_look(other: dict[str, object]) -> None:
    before = meant(wanted(0), wanted(1))
    assert before.hosts == HOSTS
    assert peer_changes(before, replace(before, **other)) is None  # type: ignore[arg-type]  # one field each
