"""Restore procedure of the leader: has nodes bring back what a wiped or reverted store held, and writes it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from controller.election import Lead
from controller.plan_writer import PlanWriter
from controller.recovery import recall, startup_barrier
from controller.steps import PlanStep
from controller.swarm.model import Swarm
from controller.trust.node_judgement import Members
from controller.trust.witnesses import Witness
from mesh.model import keyspace
from mesh.model.records import Recall
from mesh.model.snapshot import Snapshot

log = structlog.get_logger(__name__)


class RestoreProcedure:
    """Asks the node that has seen the newest state for it; one that does not answer is passed over.

    Attributes:
        waiting: whether answers of nodes are missing.
        passed_over: ids of the nodes that did not bring back what they have seen.
    """

    def __init__(self, writer: PlanWriter, members: Members) -> None:
        """Prepare.

        Args:
            writer: commits what was brought back.
            members: judges which answers are the nodes' own.
        """
        self._writer = writer
        self._members = members
        self._asked = ("", 0.0)  # node, and since when
        self.waiting = False
        self.passed_over: set[str] = set()

    def start_term(self) -> None:
        """Forget whom an earlier term asked, and since when: a node has its time to answer in each term."""
        self._asked, self.waiting = ("", 0.0), False
        self.passed_over.clear()

    def run(self, stored: Snapshot, swarm: Swarm, up: Sequence[str], lead: Lead) -> bool:
        """Do the next step of a restore; return whether one is under way.

        Args:
            stored: the whole store.
            swarm: complete lists.
            up: ids of the nodes that Swarm calls up.
            lead: of this controller.
        """
        self.waiting = False
        ledger = self._writer.ledger
        agreed = ledger.agreed()
        if agreed or not recall.needed(stored, ledger.witness(up)):
            self.passed_over.clear()  # nothing is missed any more; the next restore asks them again
        witness = Witness() if agreed else ledger.witness(node for node in up if node not in self.passed_over)
        if not recall.needed(stored, witness):
            steps, self._asked = recall.end(stored), ("", 0.0)
            return bool(steps) and self._write(steps, lead, sign=False)
        asked = stored.get(keyspace.RECALL, Recall)
        if asked is None or asked.node != witness.node:
            return self._write([recall.ask(stored, witness.node)], lead, sign=False)
        return self._put_back(stored, swarm, up, lead, witness)

    def _put_back(self, stored: Snapshot, swarm: Swarm, up: Sequence[str], lead: Lead, witness: Witness) -> bool:
        """Write what was brought back, as soon as all nodes have answered or had time to."""
        if self._asked[0] != witness.node:
            self._asked = (witness.node, time.monotonic())
        waited = time.monotonic() - self._asked[1] > startup_barrier.HEAR_S
        believed = self._members.judge(swarm, stored, datetime.now(UTC)).stored
        answers = recall.answers(believed, witness.node, up)
        self.waiting = True
        if answers.missing and not waited:
            return True
        opened = self._writer.store.opened(answers.values.items())
        steps, problem = recall.put_back(stored, opened, witness)
        if problem or witness.node in answers.missing:
            log.warning("node passed over in restore", node=witness.node, reason=problem or "no answer")
            self.passed_over.add(witness.node)
            return True
        log.warning("wiped or reverted store restored", steps=len(steps), nodes=answers.missing)
        return self._write(steps, lead, sign=True)

    def _write(self, steps: Sequence[PlanStep], lead: Lead, *, sign: bool) -> bool:
        lead.follow_up(self._writer.restore(steps, lead.token, sign=sign))
        lead.wake()
        return True
