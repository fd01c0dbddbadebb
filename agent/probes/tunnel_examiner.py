"""Examiner of this node's part in node encryption: what it sees of another node there, and what passes between them.

Questions may come from any node: what is looked at and sent to is taken from the signed records alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from agent.firewall import nft
from agent.fitness.node_encryption import dropping_in
from agent.fitness.packet_filter import Packet, dropping
from agent.node_encryption import policy_routing, ruleset
from agent.node_encryption.device import NodeDevice
from agent.node_encryption.diff import Observed
from agent.node_encryption.policy_routing import NodeRoute
from agent.probes import datagrams
from agent.probes.datagrams import Through
from mesh.diagnosis.between_nodes.facts import TunnelLook
from mesh.diagnosis.link_facts import Look
from mesh.diagnosis.questions import Answer, Arrived, Probe, Question
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
        device: those of node encryption; for this examiner alone.
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
        return self._through(probe, own, other)

    def _through(self, probe: Probe, own: Underlay, other: Underlay) -> Arrived:
        """Exchange through each device that both nodes share, as either may send by each; the best of them counts."""
        home, host = self._device.home, other.endpoint.host
        try:
            observed = self._device.read()
        except LinkwireError as error:
            return Arrived(problem=str(error)[:_LONGEST])
        names = [self._device.names[slot] for slot in _peers(observed, other) or observed.devices]
        if not names:
            return Arrived(problem="nothing was sent by the devices: there is none on a node")
        ways = [Through(name, own.endpoint.host) for name in names]
        with ThreadPoolExecutor(len(ways)) as pool:
            jobs = [pool.submit(home.run, partial(datagrams.exchange, host, probe, way)) for way in ways]
            return max((job.result() for job in jobs), key=lambda arrived: (arrived.large, arrived.small))

    def look(self, other: str) -> TunnelLook:
        """Look at the devices, and at another node as their peer.

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
            return self._look_at(look, observed, other) if observed.devices else look
        except LinkwireError as error:
            return replace(look, error=str(error)[:_LONGEST])

    def _look_at(self, look: TunnelLook, observed: Observed, other: str) -> TunnelLook:
        """Add the device by which packets go to another node, and that node as seen there. Raises LinkwireError."""
        own, theirs = self._place(self._node), self._place(other)
        record = self._verified().get(keyspace.ENCRYPTION, NodeEncryption)
        if own is None or theirs is None or record is None:
            return self._with_device(look, observed, max(observed.devices))
        home, names, port = self._device.home, self._device.names, record.data_path_port
        out_by = policy_routing.leaves_by(home, NodeRoute(theirs.endpoint.host, own.endpoint.host), port)
        peers = _peers(observed, theirs)
        sending = [slot for slot in observed.devices if names[slot] == out_by]
        slot = sending[0] if sending else _newest(observed, own, peers)
        look = _with_peer(self._with_device(look, observed, slot), peers.get(slot))
        rules = json.loads(nft.listed(home))["nftables"]
        return replace(
            look,
            out_by=out_by,
            refuses_plain=observed.table == ruleset.render(names, port),
            wire_filters=dropping(rules, Packet("udp", look.port))[:_MOST_SHOWN],
            overlay_filters=dropping_in(rules, port, [names[each] for each in observed.devices])[:_MOST_SHOWN],
        )

    def _with_device(self, look: TunnelLook, observed: Observed, slot: int) -> TunnelLook:
        found = observed.devices[slot]
        return replace(
            look, device=self._device.names[slot], port=found.device.listen_port, is_up=found.up, mtu=found.mtu
        )


def _peers(observed: Observed, other: Underlay) -> dict[int, Peer]:
    """Return another node as a peer of each device that has it, by the device's slot."""
    keys = [key.public_key for key in other.keys]
    return {
        slot: each.device.peers[key]
        for slot, each in observed.devices.items()
        for key in keys
        if key in each.device.peers
    }


def _newest(observed: Observed, own: Underlay, peers: Mapping[int, Peer]) -> int:
    """Return the slot of the device that heard the other node last; of several that of the newest key."""
    epochs = {key.public_key: key.epoch for key in own.keys}

    def order(slot: int) -> tuple[bool, float, int]:
        peer, public = peers.get(slot), observed.devices[slot].device.public_key
        epoch = epochs.get(public, -1) if public is not None else -1
        return peer is not None, (peer.last_handshake or 0.0) if peer is not None else 0.0, epoch

    return max(observed.devices, key=order)


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
