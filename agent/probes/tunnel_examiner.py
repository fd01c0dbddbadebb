"""Examiner of this node's part in node encryption: what it sees of another node there, and what passes between them.

Questions may come from any node: what is looked at and sent to is taken from the signed records alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from agent.firewall import nft
from agent.fitness.packet_filter import Packet, dropping
from agent.node_encryption import policy_routing, ruleset
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.diff import Observed
from agent.node_encryption.policy_routing import NodeRoute
from agent.probes import datagrams
from agent.probes.datagrams import Through
from mesh.diagnosis.link_facts import Look
from mesh.diagnosis.nodes.facts import TunnelLook
from mesh.diagnosis.questions import Answer, Arrived, Question
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.model.encryption.records import NodeEncryption, Underlay
from mesh.model.encryption.status import EncryptionStatus
from mesh.model.snapshot import Snapshot
from mesh.topology.wgtypes import Peer

MOST = 4
"""Questions that one node answers at a time."""
_LONGEST = 500
_MOST_SHOWN = 8


class TunnelExaminer:
    """Examiner of one node. Safe for several threads.

    Args:
        node: its id.
        device: of node encryption; for this examiner alone.
        verified: returns the records that the node acts on.
        status: returns the node's part as it was last read back.
        ports: the first and the last UDP port that this node's tasks may have.
    """

    def __init__(
        self,
        node: str,
        device: NodeDevice,
        verified: Callable[[], Snapshot],
        status: Callable[[], EncryptionStatus | None],
        ports: tuple[int, int],
    ) -> None:
        self._node = node
        self._device = device
        self._verified = verified
        self._status = status
        self._ports = ports

    def examine(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions about node encryption; what cannot be looked at is said in `tunnel.error`."""
        with ThreadPoolExecutor(MOST) as pool:
            jobs = [pool.submit(self._answer, question) for question in questions[:MOST]]
            answers = [job.result() for job in jobs]
        clock = time.time()
        busy = Answer(Look(clock), tunnel=TunnelLook(clock, error="it is asked too much at once"))
        return [*answers, *[busy] * (len(questions) - len(answers))]

    def _answer(self, question: Question) -> Answer:
        own, other = self._place(self._node), self._place(question.between)
        with ThreadPoolExecutor(max_workers=2) as pool:
            bare = pool.submit(self._probe, question, own, other)
            inside = pool.submit(self._probe, question, own, other, by_device=True)
            arrived, through = bare.result(), inside.result()
        tunnel = self.look(question.between)  # what was sent may have made a handshake
        return Answer(Look(tunnel.clock), arrived=arrived, tunnel=tunnel, inside=through)

    def _place(self, node: str) -> Underlay | None:
        return self._verified().get(keyspace.underlay(node), Underlay)

    def _probe(
        self, question: Question, own: Underlay | None, other: Underlay | None, *, by_device: bool = False
    ) -> Arrived | None:
        probe = question.inside if by_device else question.probe
        if probe is None:
            return None
        if own is None or other is None or own.node == other.node:
            return Arrived(problem="not both nodes have a place in node encryption")
        if not datagrams.is_good(probe, self._ports):
            return Arrived(problem="the question is malformed")
        host, home = other.endpoint.host, self._device.home
        if not by_device:
            return home.run(lambda: datagrams.exchange(host, probe))
        if host.version != 4:  # noqa: PLR2004 - IPv6 sends nowhere by a device without a route
            return Arrived(problem="nothing was sent by the devices: the nodes reach each other by IPv6")
        through = Through(self._device.name, own.endpoint.host)
        return home.run(lambda: datagrams.exchange(host, probe, through))

    def look(self, other: str) -> TunnelLook:
        """Look at the device, and at another node as its peer.

        Args:
            other: its id.
        """
        clock, status = time.time(), self._status()
        look = TunnelLook(clock)
        if status is not None:
            problem = status.problem[:_LONGEST]
            look = replace(
                look, generation=status.generation, step=status.step, problem=problem, refused=status.refused
            )
        try:
            observed = self._device.read()
            if observed.device is None:
                return look
            look = replace(look, device=self._device.name, is_up=observed.up, mtu=observed.mtu)
            return self._look_at(look, observed, other)
        except LinkwireError as error:
            return replace(look, error=str(error)[:_LONGEST])

    def _look_at(self, look: TunnelLook, observed: Observed, other: str) -> TunnelLook:
        """Add what there is of the other node. Raises LinkwireError."""
        own, theirs = self._place(self._node), self._place(other)
        record = self._verified().get(keyspace.ENCRYPTION, NodeEncryption)
        if own is None or theirs is None or record is None or observed.device is None:
            return look
        home, name, port = self._device.home, self._device.name, record.data_path_port
        look = _with_peer(look, observed.device.peers.get(theirs.public_key))
        rules = json.loads(nft.listed(home))["nftables"]
        return replace(
            look,
            out_by=policy_routing.leaves_by(home, NodeRoute(theirs.endpoint.host, own.endpoint.host), port),
            refuses_plain=observed.table == ruleset.render(name, port),
            wire_filters=dropping(rules, Packet("udp", own.endpoint.port))[:_MOST_SHOWN],
            overlay_filters=dropping(rules, Packet("udp", port, name))[:_MOST_SHOWN],
        )


def _with_peer(look: TunnelLook, peer: Peer | None) -> TunnelLook:
    if peer is None:
        return look
    age = round(max(0.0, look.clock - peer.last_handshake), 1) if peer.last_handshake else None
    return replace(
        look,
        is_peer=True,
        has_preshared_key=peer.preshared_key is not None,
        handshake_age=age,
        received=peer.rx_bytes,
        sent=peer.tx_bytes,
    )
