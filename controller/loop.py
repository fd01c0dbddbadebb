"""The controller's one loop: wait, look, plan, write; it can be killed between any two lines.

Level-based: what wakes it carries only "service X may have changed"; the plan is made from what is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Network

import structlog

from controller import access, recall
from controller.election import Election
from controller.hearing import Hearing
from controller.ledger import Ledger, Witness, awaited
from controller.members import Judged, Members
from controller.mend import cluster_again, mend, resign, unknown
from controller.observed import Swarm, SwarmNode
from controller.plan import Planner
from controller.quiet import Quiet
from controller.rests import Rests
from controller.steps import Change, Plan, Release, Step
from controller.transactions import Packed, Secrets, packed
from controller.watch import SwarmWatch
from mesh import keyspace
from mesh.envelope import Signer
from mesh.errors import LinkwireError, Retryable
from mesh.garbage import Upkeep
from mesh.linkkeys import LinkSeed, link_key
from mesh.packing import Part
from mesh.records import Cluster, Node, Recall, TaskReport
from mesh.snapshot import Holds, Snapshot
from mesh.store import Follower, Store
from mesh.wake import Wake

log = structlog.get_logger(__name__)

CATCH_UP_S = 2.0
RETRY_S = 0.5
HEAR_S = 10.0
"""Seconds for which nodes are awaited before an empty store is taken into use: an agent speaks every 3 s, and notices
within as long again that etcd has lost its lease."""


class Controller:
    """Makes the store say what Swarm says, while it leads."""

    def __init__(  # noqa: PLR0917 - wired once, in cli
        self,
        watch: SwarmWatch,
        store: Store,
        signer: Signer,
        wake: Wake,
        subnet: IPv4Network,
        rest_s: int,
        name: str,
        link_seed: LinkSeed,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            watch: what Swarm says.
            store: what is to say the same.
            signer: whose signature the records get, and the Swarm that they are for.
            wake: what the Swarm events call.
            subnet: of the mesh, for a store that is not in use yet.
            rest_s: seconds for which a freed address is given to nobody.
            name: of this controller, for people.
            link_seed: what the secrets of all link keys are derived from.
        """
        self._watch = watch
        self._store = store
        self._signer = signer
        self._ledger = Ledger(store)
        self._hearing = Hearing()
        self._rests = Rests()
        self._wake = wake
        self._subnet = subnet
        self._rest_s = rest_s
        self._name = name
        self._secret: Secrets = partial(link_key, link_seed, signer.cluster)
        self._told: dict[str, None] = {}
        self._due: int | None = None
        self._shown = Snapshot()
        self._resigned: Snapshot | None = None
        self._quiet = Quiet()
        self._upkeep = Upkeep()
        self._members = Members()
        self._planner = Planner()
        self._token: Holds | None = None
        self._foreseen: Holds | None = None
        self._known: Snapshot | None = None
        self._led_since = 0.0
        self._waiting = False
        self._unheard: list[str] = []
        self._asked = ("", 0.0)
        self._mute: set[str] = set()
        self._nodes: Mapping[str, SwarmNode] | None = None
        self._nodes_up: tuple[str, ...] = ()

    def run(self, stopped: threading.Event) -> None:
        """Reconcile until stopped."""
        follower = self._store.follow(keyspace.FOLLOWED, self._wake)
        election = Election(self._store, self._name, self._wake)
        try:
            while not stopped.is_set():
                due = self._due_in()
                hints = self._wake.wait(min(due, RETRY_S) if self._waiting else due)
                try:
                    self._pass(hints, follower, election)
                except LinkwireError as error:
                    log.warning("a pass failed and is made again", error=str(error))
                    for hint in hints | {("resync", "")}:
                        self._wake(*hint)
                    stopped.wait(RETRY_S)
        finally:
            election.stop()
            follower.stop()

    def _due_in(self) -> float:
        due = self._watch.due_in()
        return due if self._due is None else max(0.0, min(due, self._due - time.time()))

    def _pass(self, hints: set[tuple[str, str]], follower: Follower, election: Election) -> None:
        self._due = None
        stored = follower.snapshot
        swarm = self._watch.refresh(hints | self._news(stored))
        token = election.token
        if token != self._token:  # what another leader has signed meanwhile is not in our memory
            self._token, self._known, self._led_since = token, None, time.monotonic()
            self._quiet.forget()
        if not stored.complete:
            return
        up = self._up(swarm)
        self._remember(stored, up)
        if token is None:
            return
        if swarm.cluster != self._signer.cluster:
            text = f"the verify keys are for the Swarm {self._signer.cluster}, and this is {swarm.cluster}"
            self._tell((f"{text}: nothing is written",), swarm)
            return
        if self._waits(stored, up):
            self._foresee(stored, swarm, token)
        elif not self._recalls(stored, swarm, up, token, follower):
            self._act(stored, swarm, token, follower, election)

    def _act(self, stored: Snapshot, swarm: Swarm, token: Holds, follower: Follower, election: Election) -> None:
        """Decide, write, and wait until the snapshot shows it."""
        plan, whole = self._decide(stored, swarm)
        revision = self._write(plan, token, whole=whole)
        if not revision and revision is not None and whole and self._signs(stored):
            revision = self._ledger.commit((token,))
            log.info("signed what the store holds", revision=revision)
        if revision is None:
            election.verify()
            self._wake()
        elif revision:
            self._catch_up(follower, revision)
        elif not self._wake.is_pending():
            self._upkeep.collect(time.monotonic())

    def _up(self, swarm: Swarm) -> Sequence[str]:
        """Ids of the nodes that Swarm calls up; made when their list has changed."""
        if self._nodes is not swarm.nodes:
            self._nodes = swarm.nodes
            self._nodes_up = tuple(sorted(node.id for node in swarm.nodes.values() if not node.down))
        return self._nodes_up

    def _remember(self, stored: Snapshot, up: Sequence[str]) -> None:
        """What the leader has to know when the store was emptied or set back; so who stands by has to, too."""
        self._ledger.take(stored)
        self._rests.take(stored)
        self._hearing.take(stored, up, time.monotonic())

    def _waits(self, stored: Snapshot, up: Sequence[str]) -> bool:
        """Whether nodes have to be heard first, which may know what was signed before the store was emptied."""
        missing = awaited(stored, up) or list(self._ledger.unheard(up))
        missing = missing or self._hearing.silent(stored, up, time.monotonic() - HEAR_S)
        self._waiting = bool(missing) and time.monotonic() < self._led_since + HEAR_S
        if missing and not self._waiting and self._unheard != missing:
            log.warning("the store is taken into use without having heard all nodes", silent=missing)
            self._unheard = missing
        return self._waiting

    def _foresee(self, stored: Snapshot, swarm: Swarm, token: Holds) -> None:
        """Judge and plan all of it once while nodes are awaited, and do nothing: then only what changes is left."""
        if self._ledger.verified and self._foreseen != token:
            self._foreseen = token
            self._made(stored, swarm, datetime.now(UTC))

    def _recalls(self, stored: Snapshot, swarm: Swarm, up: Sequence[str], token: Holds, follower: Follower) -> bool:
        """Have a store that was emptied or set back filled with what was signed last; whether that is under way."""
        agreed = self._ledger.agreed()
        if agreed or not recall.needed(stored, self._ledger.witness(up)):
            self._mute.clear()  # what they had seen is not missed any more; next time they are asked again
        witness = Witness() if agreed else self._ledger.witness(node for node in up if node not in self._mute)
        if not recall.needed(stored, witness):
            steps, self._asked = recall.end(stored), ("", 0.0)
            return bool(steps) and self._put_back(steps, token, follower, sign=False)
        asked = stored.get(keyspace.RECALL, Recall)
        if asked is None or asked.node != witness.node:
            return self._put_back([recall.ask(stored, witness.node)], token, follower, sign=False)
        if self._asked[0] != witness.node:
            self._asked = (witness.node, time.monotonic())
        waited = time.monotonic() - self._asked[1] > HEAR_S
        believed = self._members.judge(swarm, stored, datetime.now(UTC)).stored
        answers = recall.answers(believed, witness.node, up)
        self._waiting = True
        if answers.missing and not waited:
            return True
        steps, problem = recall.put_back(stored, self._store.opened(answers.values.items()), witness)
        if problem or witness.node in answers.missing:
            log.warning("a node does not bring back what it has seen", node=witness.node, reason=problem)
            self._mute.add(witness.node)
            return True
        log.warning(
            "the store was emptied or set back: it is filled again", records=len(steps), silent=answers.missing
        )
        return self._put_back(steps, token, follower, sign=True)

    def _put_back(self, steps: Sequence[Change], token: Holds, follower: Follower, *, sign: bool) -> bool:
        """Write, and with `sign` sign with the last of it what the store then holds."""
        revision: int | None = 0
        batches = self._packed(steps).batches
        for number, batch in enumerate(batches, 1):
            last = sign and number == len(batches)
            revision = self._ledger.commit((token, *(op for _, ops in batch for op in ops)), sign=last)
            if revision is None:
                self._wake()
                return True
        if revision:
            self._catch_up(follower, revision)
        self._wake()
        return True

    def _decide(self, stored: Snapshot, swarm: Swarm) -> tuple[Packed, bool]:
        """What to do next; and whether what the store then holds may be signed as a whole."""
        if self._quiet.holds(swarm, stored, time.time()):
            self._due = self._quiet.due
            return Packed(), True
        self._quiet.forget()
        stranger = unknown(stored) if self._known is None else None
        if stranger:
            self._tell((stranger,), swarm)
            return Packed(), False
        mending = mend(stored, self._known, verified=self._ledger.verified)
        mending += cluster_again(stored, swarm.cluster, self._subnet)
        mending += self._rests.again(stored)
        if mending:
            return self._packed(mending), False
        if self._ledger.verified:
            self._known = stored
        now = datetime.now(UTC)
        judged, made = self._made(stored, swarm, now)
        self._due = made.due
        plan = self._packed((*judged.steps, *access.steps(swarm, judged.stored), *made.steps))
        self._tell((*judged.problems, *access.problems(swarm), *made.problems, *plan.problems), swarm)
        if not plan.batches:
            again = resign(stored, self._signer.key.verify_key.id, self._resigned)
            self._resigned = None if again else stored
            plan = self._packed(again)
        whole = keyspace.CLUSTER not in stored.invalid
        if whole and not plan.batches and self._known is stored:
            self._quiet.note(swarm, stored, now.timestamp(), made.due)
        return plan, whole

    def _made(self, stored: Snapshot, swarm: Swarm, now: datetime) -> tuple[Judged, Plan]:
        judged = self._members.judge(swarm, stored, now)
        return judged, self._planner.plan(swarm, judged.stored, self._subnet, int(now.timestamp()), judged.members)

    def _signs(self, stored: Snapshot) -> bool:
        """Whether the manifest is to be written though nothing else is."""
        manifest = stored.records.get(keyspace.MANIFEST)
        ours = manifest is not None and manifest.signer == self._signer.key.verify_key.id
        return stored.get(keyspace.CLUSTER, Cluster) is not None and (self._ledger.stale or not ours)

    def _news(self, stored: Snapshot) -> set[tuple[str, str]]:
        """What Swarm will soon say more of: services of which a node reported something new, nodes that are new.

        Unverified: it only makes the lists come sooner.
        """
        before, self._shown = self._shown, stored
        changed = stored.changed_since(before)
        keys = [key for kind in (TaskReport, Node) for key, _ in stored.keys_of(kind)] if changed is None else changed
        news: set[tuple[str, str]] = set()
        for key in keys:
            report, node = stored.get(key, TaskReport), stored.get(key, Node)
            if report is not None and report != before.get(key, TaskReport):
                news.add(("task", report.service))
            elif node is not None and before.get(key, Node) is None:
                news.add(("node", node.id))
        return news

    def _tell(self, found: Sequence[str], swarm: Swarm) -> None:
        """Log each problem once, and once more when it has gone."""
        problems = (*found, *(n.label_error for n in swarm.nodes.values() if n.label_error))
        for problem in problems:
            if problem not in self._told:
                log.warning("problem", problem=problem)
        told, self._told = self._told, dict.fromkeys(problems)
        for problem in told:
            if problem not in self._told:
                log.info("problem solved", problem=problem)

    def _packed(self, steps: Sequence[Step]) -> Packed:
        """Make a plan's transactions, with a lease if addresses are to rest."""
        rests = any(isinstance(step, Release) for step in steps)
        return packed(steps, self._secret, self._store.grant(self._rest_s) if rests else None)

    def _write(self, plan: Packed, token: Holds, *, whole: bool) -> int | None:
        """Carry out a plan, and where a transaction fails step by step.

        While the store holds what was signed, each transaction signs what it then holds. Else only the last does, so
        that agents see nothing half mended; and none where there is more to do (`whole` False).

        Returns:
            The last revision written, 0 for none; None when no part of the plan held: it is out of date, or the lead
            is lost.
        """
        last = 0
        for number, batch in enumerate(plan.batches, 1):
            sign = self._ledger.verified or (whole and number == len(plan.batches))
            revision = self._commit(batch, token, sign=sign)
            if revision is None and len(batch) > 1:  # something in it no longer holds: the rest may
                done = [self._commit([one], token, sign=sign) for one in batch]
                revision = max((one for one in done if one is not None), default=None)
            if revision is None:
                return last or None
            last = max(last, revision)
        return last

    def _commit(self, batch: Sequence[Part[Step]], token: Holds, *, sign: bool) -> int | None:
        revision = self._ledger.commit((token, *(op for _, part in batch for op in part)), sign=sign)
        for step, _ in batch:
            if revision is not None:
                log.info("planned", change=step.reason, revision=revision)
            elif len(batch) == 1:
                log.info("no longer holds, planned again", change=step.reason)
        return revision

    def _catch_up(self, follower: Follower, revision: int) -> None:
        """Wait until the snapshot shows our own writes, so that the next plan does not make them again."""
        if not follower.wait(revision, CATCH_UP_S):
            raise Retryable(f"the store's watch has not shown revision {revision} within {CATCH_UP_S:g} s")
