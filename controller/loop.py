"""Loop of the controller: wait, look, decide, write. It can be killed between any two lines.

Level-based: a wake-up says only that something may have changed; each decision is made from what is there.
"""

from __future__ import annotations

import threading
import time
from ipaddress import IPv4Network

import structlog

from controller.audit.differences import View
from controller.audit.log import AuditLog
from controller.decider import Decider
from controller.election import Election, Lead
from controller.index.baseline import LastSeen
from controller.plan_writer import PlanWriter
from controller.planning.planner import NO_ENCRYPTION
from controller.planning.stack_shares import MOST
from controller.recovery.recall_procedure import RestoreProcedure
from controller.recovery.startup_wait import StartupWait
from controller.recovery.upkeep import Upkeep
from controller.reporting.metrics import ControllerMetrics, Sight
from controller.steps import EncryptionGoal
from controller.swarm.model import Swarm
from controller.swarm.poller import SwarmPoller
from controller.trust.link_secrets import ControllerIdentity, LinkSecrets
from mesh.crypto.preshared_keys import LinkSeed
from mesh.crypto.signed_envelope import Signer
from mesh.errors import LinkwireError
from mesh.model import keyspace
from mesh.model.records import Cluster, Node, TaskReport
from mesh.model.snapshot import Snapshot
from mesh.process.wakeup import Wake
from mesh.store.client import Follower, Store

log = structlog.get_logger(__name__)

RETRY_S = 0.5


class Controller:
    """Brings the store in line with Swarm while it leads."""

    def __init__(  # noqa: PLR0917 - wired once, in cli
        self,
        watch: SwarmPoller,
        store: Store,
        signer: Signer,
        wake: Wake,
        subnet: IPv4Network,
        rest_s: int,
        name: str,
        link_seed: LinkSeed,
        own: ControllerIdentity | None = None,
        stack_share: float = MOST,
        metrics: ControllerMetrics | None = None,
        encryption: EncryptionGoal = NO_ENCRYPTION,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            watch: lists the services, tasks and nodes of the Swarm.
            store: holds the records.
            signer: signs the records, for one Swarm.
            wake: called by Swarm events and by the store's watch.
            subnet: of the mesh, for a store that is not in use yet.
            rest_s: seconds before a released address may be reused.
            name: of this controller, for people.
            link_seed: part of the secrets of all link keys.
            own: node and sealing key of this controller; None where all secrets follow from the link seed alone.
            stack_share: as in `Decider`.
            metrics: for Prometheus; None for nobody.
            encryption: as in `Decider`.
        """
        self._watch = watch
        self._store = store
        self._wake = wake
        self._name = name
        link_secrets = LinkSecrets(link_seed, signer.cluster, own)
        self._audit = AuditLog(store.load, name, signer.key.verify_key.id)
        self._writer = PlanWriter(store, link_secrets, self._audit)
        self._startup = StartupWait(self._writer.ledger)
        self._decider = Decider(self._writer, signer, subnet, rest_s, link_secrets, stack_share, encryption)
        self._restore = RestoreProcedure(self._writer, self._decider.members)
        self._metrics = metrics or ControllerMetrics("", name)
        self._reported = LastSeen()
        self._upkeep = Upkeep(store)

    def run(self, stopped: threading.Event) -> None:
        """Reconcile until stopped."""
        follower = self._store.follow(keyspace.FOLLOWED, self._wake)
        election = Election(self._store, self._name, self._wake, fit=self._watch.answers)
        due: int | None = None
        try:
            while not stopped.is_set():
                hints = self._wake.wait(self._due_in(due))
                due, began = None, time.monotonic()
                try:
                    due = self._pass(hints, follower, election)
                    self._metrics.count_pass(time.monotonic() - began, failed=False)
                except LinkwireError as error:
                    self._metrics.count_pass(time.monotonic() - began, failed=True)
                    log.warning("controller pass failed, retrying", error=str(error))
                    for hint in hints | {("resync", "")}:
                        self._wake(*hint)
                    stopped.wait(RETRY_S)
        finally:
            election.stop()
            follower.stop()

    def _due_in(self, due: int | None) -> float:
        """Seconds until there is something to do without a wake-up."""
        seconds = min(self._watch.due_in(), self._decider.due_in(time.monotonic()))
        if self._startup.waiting or self._restore.waiting:
            seconds = min(seconds, RETRY_S)
        return seconds if due is None else max(0.0, min(seconds, due - time.time()))

    def _pass(self, hints: set[tuple[str, str]], follower: Follower, election: Election) -> int | None:
        """Make one pass; return when time alone gives something to do, in seconds since the epoch; None for never."""
        # First of all: a lead that is won later finds the lists as a standby has them, and another pass comes.
        token = election.token
        stored = follower.snapshot
        try:
            swarm = self._watch.refresh(hints | self._news(stored), closely=token is not None)
        finally:
            election.set_fit(self._watch.answers)
        self._show(stored, swarm, leads=token is not None)
        if self._startup.lead_changed(token):
            self._decider.start_term()
            self._restore.start_term()
            self._audit.start_term()
        if not stored.complete:
            self._decider.pause()
            return None
        up = self._watch.nodes_up
        # A standby observes too: it has to know this when it leads and the store was wiped or reverted.
        self._writer.ledger.observe(stored)
        self._decider.observe(stored)
        self._startup.observe(stored, up)
        self._announce(stored)
        if token is None:
            return None
        if self._decider.refuses(swarm):
            return None
        lead = Lead(token, follower, election, self._wake)
        if self._startup.check(stored, up):
            self._decider.prepare(stored, swarm, token)
            return None
        self._audit.look(View(stored, swarm))
        if not self._restore.run(stored, swarm, up, lead):
            return self._act(stored, swarm, lead)
        return None

    def _show(self, stored: Snapshot, swarm: Swarm, *, leads: bool) -> None:
        """Give the metrics what this pass sees; of problems and silent nodes, what the last one has found."""
        decider, writer = self._decider, self._writer
        counts = len(decider.problems.open), writer.committed, writer.outdated
        self._metrics.observe(Sight(stored, swarm, leads, decider.silent, *counts))

    def _announce(self, stored: Snapshot) -> None:
        """Write this controller's own sealing key, also while another controller leads: that one seals to it."""
        put = self._decider.announcement(stored)
        if put is not None:
            before = stored.records.get(put.key)
            # Above the one before, or the leader would take it for an older record that was put back.
            self._store.commit([put], before.generation + 1 if before is not None else 1)

    def _act(self, stored: Snapshot, swarm: Swarm, lead: Lead) -> int | None:
        """Decide, write, and wait until the snapshot shows it."""
        plan, whole = self._decider.decide(stored, swarm)
        self._audit.look(View(self._decider.verified or stored, swarm, mends=self._decider.mends))
        self._audit.note_problems(self._decider.problems.open)
        revision = self._writer.write(plan, lead.token, whole=whole)
        if revision == 0 and whole and self._decider.manifest_is_due(stored):
            revision = self._writer.ledger.commit((lead.token,))
            log.info("manifest signed", revision=revision)
        if revision == 0 and whole and stored.get(keyspace.CLUSTER, Cluster) is not None:
            revision = self._writer.tell(lead.token)
            if self._writer.has_more_to_tell:  # nothing that the store shows wakes us for it
                self._wake()
        lead.follow_up(revision)
        self._upkeep.look(swarm, lead.token, idle=revision == 0 and not self._wake.is_pending())
        return self._decider.due

    def _news(self, stored: Snapshot) -> set[tuple[str, str]]:
        """Name services with new reports and nodes that are new, so that Swarm is asked for them soon.

        The records are not verified here: they only make the lists come sooner.
        """
        before = self._reported.snapshot
        changed = self._reported.changed(stored)
        keys = [key for kind in (TaskReport, Node) for key, _ in stored.keys_of(kind)] if changed is None else changed
        news: set[tuple[str, str]] = set()
        for key in keys:
            report, node = stored.get(key, TaskReport), stored.get(key, Node)
            if report is not None and report != before.get(key, TaskReport):
                news.add(("task", report.service))
            elif node is not None and before.get(key, Node) is None:
                news.add(("node", node.id))
        return news
