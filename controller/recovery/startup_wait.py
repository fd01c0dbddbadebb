"""Startup wait of a leader: nodes report before it writes, since they may know more than the store shows."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from controller.recovery import startup_barrier
from controller.trust.signed_writer import SignedWriter, awaited
from mesh.model.snapshot import Holds, Snapshot

log = structlog.get_logger(__name__)


class StartupWait:
    """Knows which nodes have reported, and since when this controller has led.

    Attributes:
        waiting: whether the leader waits for nodes.
    """

    def __init__(self, ledger: SignedWriter) -> None:
        """Prepare; `ledger` knows what the store held before."""
        self._ledger = ledger
        self._hearing = startup_barrier.StartupBarrier()
        self._token: Holds | None = None
        self._led_since = 0.0
        self._silent: list[str] = []
        self.waiting = False

    def observe(self, stored: Snapshot, up: Sequence[str]) -> None:
        """Note which nodes have reported, also while another controller leads."""
        self._hearing.observe(stored, up, time.monotonic())

    def lead_changed(self, token: Holds | None) -> bool:
        """Note the token of the lead, None for none; return whether it is another than at the last call."""
        if token == self._token:
            return False
        self._token, self._led_since = token, time.monotonic()
        return True

    def check(self, stored: Snapshot, up: Sequence[str]) -> bool:
        """Tell whether the leader has to wait.

        Args:
            stored: the whole store.
            up: ids of the nodes that Swarm calls up.
        """
        missing = awaited(stored, up) or list(self._ledger.unheard(up))
        missing = missing or self._hearing.silent(stored, up, time.monotonic() - startup_barrier.HEAR_S)
        self.waiting = bool(missing) and time.monotonic() < self._led_since + startup_barrier.HEAR_S
        if missing and not self.waiting and self._silent != missing:
            log.warning("startup wait ended without reports of all nodes", nodes=missing)
            self._silent = missing
        return self.waiting
