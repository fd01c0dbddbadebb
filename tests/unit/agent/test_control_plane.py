"""The control plane in numbers, as `docker linkwire status` shows it: each node's part in node encryption too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from agent.holder.client import OTHER_VERSION
from agent.queries.control_plane import control
from agent.reporting.encryption_metrics import EncryptionMetrics
from agent.status.link_status import Reader
from mesh.crypto.keys import PublicKey
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import EncryptionStatus, PeerFigures, TunnelFigures
from mesh.model.net import UdpEndpoint
from mesh.model.records import Leader, Record, Status
from mesh.topology.link_graph import index
from tests.support.metrics_pages import UNDERLAY, node, snapshot

KEY = PublicKey(b"k" * 32)
RECORD = NodeEncryption("strict", "send", 4789, 7)
STATE = EncryptionStatus(7, "send", 2, 1, 3, "rp_filter is strict")
FIGURES = TunnelFigures(1000, 2000, 12.5)


def told(*records: Record, verified: Sequence[Record] | None = None) -> dict[str, Any]:
    read = snapshot(*records)
    acted_on = snapshot(*verified) if verified is not None else None
    return control(read, read, index(read), Reader(b"", {}, verified=acted_on))


def test_part_of_each_node_is_told() -> None:
    place = Underlay("n1", KEY, UdpEndpoint(UNDERLAY, 51819))
    one = replace(node("n1"), encryption_key=KEY, encryption_port=51819, encryption_all=True)
    status = Status("n1", 1.0, (), encryption=STATE, tunnel=FIGURES)
    answer = told(Leader("n1", "a"), one, node("n2"), RECORD, place, status)
    assert answer["encryption"] == {"mode": "strict", "step": "send", "data_path_port": 4789, "generation": 7}
    assert answer["agents"]["n1"]["encryption"] == {
        "able": True,
        "all": True,
        "placed": True,
        "state": {
            "generation": 7,
            "step": "send",
            "peers": 2,
            "ready": 1,
            "refused": 3,
            "problem": "rp_filter is strict",
        },
        "keys": None,
        "figures": {"received": 1000, "sent": 2000, "handshake_age": 12.5},
    }
    silent = {"able": False, "all": False, "placed": False, "state": None, "keys": None, "figures": None}
    assert answer["agents"]["n2"]["encryption"] == silent


@pytest.mark.parametrize(
    ("said", "told_of_it"),
    [
        ("", None),
        (OTHER_VERSION, {"other_version": True, "problem": None}),
        ("Docker refused", {"other_version": False, "problem": "Docker refused"}),
    ],
)
def test_holder_of_each_node_is_told(said: str, told_of_it: dict[str, Any] | None) -> None:
    answer = told(node("n1"), Status("n1", 1.0, (), holder=said), node("n2"))
    assert [agent["holder"] for agent in answer["agents"].values()] == [told_of_it, None]


def test_places_are_those_acted_on() -> None:
    """What the store holds and nobody signed is not told as if it held."""
    place = Underlay("n1", KEY, UdpEndpoint(UNDERLAY, 51819))
    answer = told(node("n1"), RECORD, place, verified=())
    assert answer["encryption"] is None
    assert answer["agents"]["n1"]["encryption"]["placed"] is False


def test_off_is_told_as_none() -> None:
    answer = told(node("n1"))
    assert (answer["encryption"], answer["leader"]) == (None, None)


def page(status: EncryptionStatus | None, *peers: PeerFigures) -> str:
    registry = CollectorRegistry()
    registry.register(EncryptionMetrics(lambda: status, lambda: peers))
    return generate_latest(registry).decode()


def test_metrics_have_steps_and_peers() -> None:
    text = page(STATE, PeerFigures("id2", 12.5, 1000, 2000), PeerFigures("id3", None, 0, 5))
    for sample in (
        'linkwire_node_encryption{step="send"} 1.0',
        'linkwire_node_encryption{step="enforce"} 0.0',
        "linkwire_node_encryption_problem 1.0",
        'linkwire_node_encryption_peers{state="ready"} 1.0',
        'linkwire_node_encryption_peers{state="unready"} 1.0',
        "linkwire_node_encryption_refused_packets_total 3.0",
        'linkwire_node_encryption_last_handshake_seconds{peer_node="id2"} 12.5',
        'linkwire_node_encryption_receive_bytes_total{peer_node="id2"} 1000.0',
        'linkwire_node_encryption_transmit_bytes_total{peer_node="id3"} 5.0',
    ):
        assert f"{sample}\n" in text
    assert 'last_handshake_seconds{peer_node="id3"}' not in text, "there was none"


def test_metrics_say_off_where_it_is() -> None:
    text = page(None)
    assert 'linkwire_node_encryption{step="off"} 1.0\n' in text
    assert "peer_node" not in text.replace("# HELP", "")
