"""Metrics of this node's part in node encryption, read at each scrape: its step, and its peers by their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from mesh.model.encryption.status import STEPS, EncryptionStatus, PeerFigures
from mesh.process.metrics_page import gauge

_PEER = "peer_node"
_Values = dict[tuple[str, ...], float]


class EncryptionMetrics(Collector):
    """Numbers of one node's part in node encryption.

    Args:
        status: returns the part as it was last read back; None where the node has none.
        peers: reads the device's peers.
    """

    def __init__(
        self, status: Callable[[], EncryptionStatus | None], peers: Callable[[], Sequence[PeerFigures]]
    ) -> None:
        self._status = status
        self._peers = peers

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; prometheus_client calls it once a scrape."""
        status = self._status() or EncryptionStatus(0, "off", 0, 0, 0)
        steps: _Values = {(step,): float(step == status.step) for step in ("off", *STEPS)}
        yield gauge("node_encryption", "Step of node encryption that is in place on this node (1).", steps, "step")
        wrong: _Values = {(): float(bool(status.problem))}
        yield gauge("node_encryption_problem", "Whether something is wrong with this node's part in it.", wrong)
        states: _Values = {("ready",): float(status.ready), ("unready",): float(status.peers - status.ready)}
        text = "Other nodes that this node's device has as peers: those that answer, and those that do not."
        yield gauge("node_encryption_peers", text, states, "state")
        refused = CounterMetricFamily(
            "linkwire_node_encryption_refused_packets", "Plain overlay packets that this node refused."
        )
        refused.add_metric((), status.refused)
        yield refused
        yield from self._of_peers()

    def _of_peers(self) -> Iterator[Metric]:
        peers = self._peers()
        ages: _Values = {(peer.node,): peer.handshake_age for peer in peers if peer.handshake_age is not None}
        text = "Age of the last handshake with another node's device."
        yield gauge("node_encryption_last_handshake_seconds", text, ages, _PEER)
        for name, text, values in (
            ("receive", "Bytes received from another node's device.", {peer.node: peer.received for peer in peers}),
            ("transmit", "Bytes sent to another node's device.", {peer.node: peer.sent for peer in peers}),
        ):
            family = CounterMetricFamily(f"linkwire_node_encryption_{name}_bytes", text, labels=(_PEER,))
            for node, value in values.items():
                family.add_metric((node,), value)
            yield family
