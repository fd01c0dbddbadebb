"""Walks between two nodes with real devices: each thing that may be wrong is named, where it is."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.asks.survey import Survey
from agent.fitness import taken_ports
from agent.fitness.node_encryption import DeviceFilters, gather
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.keeper import Keeper
from agent.node_encryption.ruleset import NAME
from agent.probes.examiner import Examiner
from agent.probes.tunnel_examiner import TunnelExaminer
from agent.status.node_tunnel import TunnelReader
from agent.walks.between_nodes import NodesExplainer, _end
from mesh.diagnosis.between_nodes import walk
from mesh.diagnosis.between_nodes.facts import NodeEnd, NodesFacts
from mesh.diagnosis.questions import Answer, Probe, Question
from mesh.diagnosis.steps import Step
from mesh.model.encryption.records import NodeEncryption
from mesh.model.encryption.status import Mode
from mesh.model.encryption.status import Step as EncryptionStep
from mesh.model.keyspace import key_of
from mesh.model.records import Record
from mesh.model.snapshot import Snapshot, Versioned
from tests.netns.overlay_nodes import VXLAN_PORT, WIREGUARD_PORTS, Cluster, OverlayNode
from tests.netns.world import World, wait_for
from tests.support.metrics_pages import node as node_record

PORTS = (53000, 53100)
STAGES = ("device", "peer", "handshake", "underlay", "route", "firewall", "plain", "mtu")


@dataclass
class Walked:
    """A cluster of two whose agents can be asked about node encryption."""

    cluster: Cluster
    mode: Mode = "strict"
    step: EncryptionStep = "enforce"

    def switch(self, mode: Mode, step: EncryptionStep) -> None:
        steps: tuple[EncryptionStep, ...] = ("accept", "send", "enforce")
        for each in steps[: steps.index(step) + 1]:
            self.cluster.switch(mode, each)
        self.mode, self.step = mode, step

    def snapshot(self) -> Snapshot:
        nodes = self.cluster.nodes
        record = NodeEncryption(self.mode, self.step, VXLAN_PORT, self.cluster.generation)
        records: list[Record] = [record, *(node.place for node in nodes)]
        records += [replace(node_record(node.name), first_port=PORTS[0], last_port=PORTS[1]) for node in nodes]
        return Snapshot(1, True, {key_of(each): Versioned(each, 1) for each in records})

    def examiner(self, node: OverlayNode) -> Examiner:
        device = NodeDevice(node.netns, node.device.backend, node.device.names[0])
        keeper = node.keeper
        assert keeper is not None
        tunnel = TunnelExaminer(node.name, device, self.snapshot, lambda: keeper.status, PORTS)
        graph: Any = None
        return Examiner({}, graph, node.device.backend, PORTS, tunnel=tunnel)

    def steps(self) -> dict[str, Step]:
        """By stage; of several the last."""
        one, other = self.cluster.nodes
        survey = Survey(one.name, self.examiner(one), _Asked(self.examiner(other)))  # type: ignore[arg-type]
        ends = [_end(self.snapshot(), self.snapshot(), NodeEnd(node.name, node.name)) for node in (one, other)]
        facts = NodesFacts(ends[0], ends[1], self.mode, self.mode, self.step, port=VXLAN_PORT)
        desired: Any = None
        explainer = NodesExplainer(lambda _keys: self.snapshot(), desired, "cluster", survey)
        return {step.stage: step for step in walk.by_looking(explainer._look(self.snapshot(), facts))}


@dataclass
class _Asked:
    """Another node's examiner, without etcd in between."""

    examiner: Examiner

    def ask(self, questions: Sequence[Question]) -> dict[int, Answer]:
        return dict(enumerate(self.examiner.examine(questions)))


@pytest.fixture
def walked(world: World) -> Iterator[Walked]:
    with Cluster(world, 2) as cluster:
        for node in cluster.nodes:
            node.start()
            node.do("ip link set lo up")
        yield Walked(cluster)


def outcomes(steps: dict[str, Step]) -> dict[str, str]:
    return {stage: step.outcome for stage, step in steps.items()}


@pytest.mark.parametrize(("mode", "step"), [("prefer", "send"), ("strict", "enforce")])
def test_encrypted_pair_is_walked_to_its_end(walked: Walked, mode: Mode, step: EncryptionStep) -> None:
    walked.switch(mode, step)
    steps = walked.steps()
    assert outcomes(steps) == dict.fromkeys(STAGES, "ok"), steps
    assert re.search(r"node1 received [1-9]\d* and sent [1-9]\d* bytes", steps["handshake"].text)


def test_rotating_pair_is_walked_by_device_in_use(walked: Walked) -> None:
    """With both devices, then with the second one alone: figures are those of both."""
    walked.switch("strict", "enforce")
    cluster, (one, other) = walked.cluster, walked.cluster.nodes
    reader = TunnelReader(one.netns, one.device.backend, walked.snapshot, one.device.names)
    before = reader.figures()
    assert reader.fits() == one.device.mtu([other.address]) - 50, "what VXLAN leaves of it"
    cluster.offer_next(1001)
    cluster.await_epochs(0, 1001)
    steps = walked.steps()
    assert outcomes(steps) == dict.fromkeys(STAGES, "ok"), steps
    assert steps["device"].text == ", ".join(f"{node.device.names[1]} on {node.name}" for node in (one, other))
    both = reader.figures()
    assert before is not None
    assert both is not None
    assert both.received > before.received, "bytes of the first device count on"
    assert [peer.node for peer in reader.peers()] == ["node2"]
    cluster.drop_first()
    cluster.await_epochs(1001)
    steps = walked.steps()
    assert outcomes(steps) == dict.fromkeys(STAGES, "ok"), steps
    figures = reader.figures()
    assert figures is not None
    assert figures.handshake_age is not None
    other.do(f"nft '{WIRE} input iifname {other.device.names[1]} drop'")
    steps = walked.steps()
    assert (steps["firewall"].outcome, steps["firewall"].place) == ("wrong", "node node2"), steps


WIRE = "add table inet host; add chain inet host input { type filter hook input priority 0; }; add rule inet host"


@pytest.mark.parametrize(
    ("harm", "stage", "text"),
    [
        (
            f"nft '{WIRE} input iifname DEVICE drop'",
            "firewall",
            "a firewall on node2 drops overlay packets in its devices: nftables chain inet host input (input)",
        ),
        (
            f"nft '{WIRE} input iifname lw* udp dport 1-9000 drop'",
            "firewall",
            "a firewall on node2 drops overlay packets in its devices: nftables chain inet host input (input)",
        ),
        (
            f"nft '{WIRE} input iifname DEVICE ip saddr 192.0.2.1 drop'",
            "firewall",
            "datagrams by the device from node1 do not arrive on node2, though the devices have a session",
        ),
        (f"nft '{WIRE} input iifname eth9 drop'", "", ""),
        ("ip link del DEVICE", "device", "the device of node2 is missing"),
        ("ip link set DEVICE down", "device", "the device of node2 is down"),
        (
            "ip rule add pref 4000 to 192.0.2.1 lookup main",
            "route",
            "from node2 to node1 leave by under, in plain text",
        ),
        (f"nft delete table inet {NAME}", "plain", "the rules that refuse plain overlay packets are not on node2"),
    ],
)
def test_fault_on_one_node_is_named(walked: Walked, harm: str, stage: str, text: str) -> None:
    """Its agent does not run meanwhile, or it would mend some of it."""
    walked.switch("strict", "enforce")
    other = walked.cluster.nodes[1]
    assert other.keeper is not None
    other.keeper.stop()
    other.do(harm.replace("DEVICE", other.device.names[0]))
    steps = walked.steps()
    wrong = {name: step for name, step in steps.items() if step.outcome not in {"ok", "skipped"}}
    if not stage:
        assert outcomes(steps) == dict.fromkeys(STAGES, "ok"), steps
        return
    assert set(wrong) == {stage}, steps
    assert text.replace("DEVICE", other.device.names[0]) in wrong[stage].text
    assert wrong[stage].place == "node node2"
    assert wrong[stage].command


def test_firewall_between_nodes_is_named(walked: Walked) -> None:
    """Devices without a session: of the UDP port alone, then of all UDP."""
    one, other = walked.cluster.nodes
    other.do(f"nft '{WIRE} input udp dport {WIREGUARD_PORTS[0]} drop'")
    walked.cluster.switch("prefer", "accept", ready=0)
    walked.mode, walked.step = "prefer", "accept"
    found = walked.steps()["handshake"]
    text = f"no session; last handshake never: a firewall on node2 drops UDP {WIREGUARD_PORTS[0]}: nftables chain"
    assert (found.outcome, found.place) == ("wrong", "node node2")
    assert text in found.text
    other.do(f"nft '{WIRE} input ip protocol udp ip saddr {one.address} drop'")
    steps = walked.steps()
    assert (steps["handshake"].outcome, steps["underlay"].outcome) == ("warning", "wrong")
    assert "UDP from node1 does not reach node2" in steps["underlay"].text


def test_narrow_way_is_named_by_size(walked: Walked) -> None:
    """The network in between loses what is larger, and does not say so."""
    walked.switch("strict", "enforce")
    hub = walked.cluster.hub
    command = [
        "nft",
        "table bridge narrow { chain f { type filter hook forward priority 0; ip length > 1400 drop; }; }",
    ]
    assert hub.run(lambda: subprocess.run(command, check=False)).returncode == 0
    steps = walked.steps()
    assert steps["mtu"].outcome == "wrong", steps
    assert "small packets pass, those of 1420 bytes are lost there and back" in steps["mtu"].text


def test_questions_get_nothing_unsigned_done(walked: Walked) -> None:
    """A hostile node's words: nodes without a place, ports that are not tasks', more than is answered."""
    walked.switch("prefer", "send")
    one = walked.examiner(walked.cluster.nodes[0])
    good = Probe("ab" * 16, PORTS[0], PORTS[0], 1400)
    answers = one.examine(
        [
            Question("node1", "", "", probe=good, between="stranger"),
            Question("node1", "", "", probe=good, between="node1"),
            Question("node1", "", "", inside=replace(good, own_port=4789), between="node2"),
            Question("node1", "", "", probe=replace(good, nonce="x"), between="node2"),
            *[Question("node1", "", "", between="node2")] * 2,
        ]
    )
    refused = [(answer.arrived or answer.inside) for answer in answers[:4]]
    assert [each.sent for each in refused if each is not None] == [0] * 4
    assert answers[0].tunnel is not None
    assert not answers[0].tunnel.is_peer
    assert [answer.tunnel.error for answer in answers[4:] if answer.tunnel] == ["it is asked too much at once"] * 2


def test_agent_names_firewall_of_its_device(walked: Walked) -> None:
    """Beside the walk: in its status, which `check` and `node encryption status` show."""
    walked.switch("prefer", "send")
    node = walked.cluster.nodes[1]
    filters = DeviceFilters(node.netns, node.device.names)
    assert filters.problem(VXLAN_PORT) == ""
    node.do(f"nft '{WIRE} input iifname under udp dport {VXLAN_PORT} accept; add rule inet host input drop'")
    assert filters.problem(VXLAN_PORT) == "", "not looked at again so soon"
    (filtered,) = [DeviceFilters(node.netns, node.device.names)]
    assert "inet host input (input)" in filtered.problem(VXLAN_PORT)
    assert node.keeper is not None
    node.keeper.stop()
    node.keeper = Keeper(node.device, node.folder, filtered=filtered.problem)
    node.keeper.start(lambda: None)
    walked.cluster.give("prefer", "send")
    keeper = node.keeper
    wait_for(lambda: keeper.status is not None and "a firewall of this node drops" in keeper.status.problem)


def test_facts_of_a_node_before_switching(walked: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken_ports, "PROC", Path("/proc/thread-self/net"))  # a node's agent has one namespace
    node = walked.cluster.nodes[0]
    asked = {"ports": [WIREGUARD_PORTS[0] + 1, 53819], "nodes": ["192.0.2.1", "192.0.2.2"], "encryption": {}}
    asked["encryption"] = {"data_path_port": VXLAN_PORT}

    def gathered() -> dict[str, Any]:
        return node.netns.run(lambda: gather(node.netns, asked))

    found = gathered()
    assert (found["ports"], found["taken"], found["strict_filter"]) == ([*WIREGUARD_PORTS], [], False)
    assert (found["holds"], found["tables"], found["wire_filters"]) == (["192.0.2.1"], "", {})
    second = WIREGUARD_PORTS[1]
    node.do("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    node.do(f"nft '{WIRE} input udp dport {second} drop; add rule inet host input iifname lwnode2 drop'")
    program = node.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    program.bind((str(node.address), second))
    with closing(program):
        found = gathered()
    assert (found["taken"], found["strict_filter"]) == ([second], True)
    assert found["wire_filters"] == {second: found["overlay_filters"]} == {second: ["inet host input (input)"]}
