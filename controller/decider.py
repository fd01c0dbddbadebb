"""Decision of one pass: what to write next, from Swarm's lists and the store."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network

import structlog

from controller.etcd import access_record
from controller.index.baseline import Baseline
from controller.plan_writer import PlanWriter
from controller.planning.planner import NO_ENCRYPTION, Planner
from controller.planning.stack_shares import MOST
from controller.recovery.address_quarantine import AddressQuarantine
from controller.recovery.departed_nodes import DepartedNodes
from controller.recovery.repair import cluster_again, mend, resign, unknown
from controller.recovery.resting_addresses import RestingAddresses
from controller.steps import EncryptionGoal, OpenVault, Plan
from controller.swarm.model import Swarm
from controller.transactions import Packed
from controller.trust.acknowledgements import Acknowledgements
from controller.trust.link_secrets import LinkSecrets
from controller.trust.node_judgement import Judged, Members
from controller.trust.presence import Presence
from mesh.crypto.signed_envelope import Signer
from mesh.diagnosis.steps import is_lasting, lasts_in
from mesh.model import keyspace
from mesh.model.records import Cluster
from mesh.model.snapshot import Holds, Put, Snapshot

log = structlog.get_logger(__name__)

LEAST_S = 0.5
"""Seconds between two looks that time alone asks for: a standby changes nothing, whatever is due."""


class Decider:
    """Mends first, then judges and plans, then renews old signatures. Not safe for several threads.

    Attributes:
        members: judges which records are the nodes' own.
        verified: the last snapshot that held exactly what was signed; None for a leader that has seen none.
        due: when time alone gives something to do, in seconds since the epoch; None for never.
        problems: those that are open now.
        silent: nodes whose agents have gone silent.
        mends: whether the last decision only puts back what was signed.
    """

    def __init__(  # noqa: PLR0917 - called once, from the loop
        self,
        writer: PlanWriter,
        signer: Signer,
        subnet: IPv4Network,
        rest_s: float,
        link_secrets: LinkSecrets | None = None,
        stack_share: float = MOST,
        encryption: EncryptionGoal = NO_ENCRYPTION,
    ) -> None:
        """Prepare.

        Args:
            writer: packs the steps.
            signer: of the records that this controller writes.
            subnet: of the mesh, for a store that is not in use yet.
            rest_s: seconds before a released address may be reused.
            link_secrets: the vault that new epochs' secrets are kept under; None for none.
            stack_share: part of the addresses, and of a node's ports, that no stack exceeds where they are scarce.
            encryption: node encryption as it is to be, without accounts of nodes.
        """
        self._writer = writer
        self._link_secrets = link_secrets
        self._signer = signer
        self._subnet = subnet
        self.members = Members()
        self._planner = Planner(stack_share)
        self._presence = Presence(signer.cluster)
        self.silent: frozenset[str] = frozenset()
        self._encryption = encryption
        self._acknowledgements = Acknowledgements(signer.cluster)
        self._goal = encryption
        self._awaits = False  # whether what nodes acknowledge decides on the next step
        self._resting = RestingAddresses(rest_s)
        self._rests = AddressQuarantine()
        self._departed = DepartedNodes()
        self._idle = Baseline()  # of the last decision that found nothing to do
        self.verified: Snapshot | None = None
        self._resigned: Snapshot | None = None  # where no signature was old
        self._prepared: Holds | None = None
        self.due: int | None = None
        self.problems = ProblemLog()
        self.mends = False

    def observe(self, stored: Snapshot) -> None:
        """Look at the store, also while another controller leads."""
        now = time.monotonic()
        self._rests.observe(stored)
        if self._link_secrets is not None:
            self._link_secrets.observe(stored)
        self._resting.observe(stored, now)
        self._presence.observe(stored, self.members.accepted, now)
        silent = self._presence.silent()
        if silent != self.silent or not self._resting.due_in(now):
            self._idle.clear()
        self.silent = silent

    def announcement(self, stored: Snapshot) -> Put | None:
        """Return the record of this controller's own sealing key, if it has to be written."""
        return self._link_secrets.announcement(stored) if self._link_secrets is not None else None

    def refuses(self, swarm: Swarm) -> bool:
        """Tell whether nothing may be written, since the keys are another Swarm's; that is a problem."""
        if swarm.cluster == self._signer.cluster:
            return False
        text = f"the verify keys are for the Swarm {self._signer.cluster}, and this is {swarm.cluster}"
        self.report((f"{text}: nothing is written",), swarm)
        return True

    def manifest_is_due(self, stored: Snapshot) -> bool:
        """Tell whether the manifest has to be signed although nothing else is written."""
        manifest = stored.records.get(keyspace.MANIFEST)
        ours = manifest is not None and manifest.signer == self._signer.key.verify_key.id
        return stored.get(keyspace.CLUSTER, Cluster) is not None and (self._writer.ledger.stale or not ours)

    def pause(self) -> None:
        """Note that the store cannot be read."""
        self._presence.pause()

    def due_in(self, now: float) -> float:
        """Return the seconds until time alone gives something to look at; `now` is of the monotonic clock."""
        return max(LEAST_S, min(self._presence.due_in(now), self._resting.due_in(now)))

    def start_term(self) -> None:
        """Forget what another leader may have changed: this one has not seen it being signed."""
        self.verified = None
        self._idle.clear()

    def prepare(self, stored: Snapshot, swarm: Swarm, token: Holds) -> None:
        """Judge and plan everything once while nodes are awaited, so that only changes are left to look at."""
        if self._writer.ledger.verified and self._prepared != token:
            self._prepared = token
            self._planned(stored, swarm, datetime.now(UTC))

    def decide(self, stored: Snapshot, swarm: Swarm) -> tuple[Packed, bool]:
        """Decide what to write next.

        Args:
            stored: the whole store, complete.
            swarm: complete lists.

        Returns:
            The transactions; and whether the store as it then is may be signed.
        """
        now = time.time()
        self.mends = False
        heard = self._awaits and self._encryption_goal(stored) != self._goal
        if not heard and self._idle.decides_alike(swarm, stored, now) and (self.due is None or now < self.due):
            # Else each pass of an idle mesh looks again at every status since the last decision.
            self._idle.move(swarm, stored, now, whole=False)
            return Packed(), True
        self._idle.clear()
        self.due = None
        stranger = unknown(stored) if self.verified is None else None
        if stranger:
            self.report((stranger,), swarm)
            return Packed(), False
        mending = mend(stored, self.verified, verified=self._writer.ledger.verified)
        mending += cluster_again(stored, swarm.cluster, self._subnet)
        mending += self._rests.again(stored)
        if mending:
            self.mends = True
            return self._writer.pack(mending), False
        if self._writer.ledger.verified:
            self.verified = stored
        return self._act_on(stored, swarm, datetime.now(UTC))

    def _act_on(self, stored: Snapshot, swarm: Swarm, now: datetime) -> tuple[Packed, bool]:
        """Plan for a store that needs no mending."""
        vault = list(self._link_secrets.steps(stored, swarm)) if self._link_secrets is not None else []
        if vault and self._vault() == OpenVault():
            return self._writer.pack(vault), keyspace.CLUSTER not in stored.invalid  # the next pass has it open
        notes = self._link_secrets.lost_notes(stored) if self._link_secrets is not None else []
        if notes:
            return self._writer.pack(notes), keyspace.CLUSTER not in stored.invalid  # before their epochs are judged
        judged, plan = self._planned(stored, swarm, now)
        free = self._resting.over(time.monotonic())
        gone = tuple(self._departed.steps(stored, swarm, time.monotonic()))
        steps = (*vault, *judged.steps, *access_record.steps(swarm, judged.stored), *free, *gone, *plan.steps)
        made = self._writer.pack(steps)
        problems = (*judged.problems, *access_record.problems(swarm), *plan.problems, *made.problems)
        self.report(problems, swarm, plan.unsettled)
        self.due, self._awaits = self._earliest(plan.due, now), plan.awaits
        if not made.batches:
            old = resign(stored, self._signer.key.verify_key.id, self._resigned)
            self._resigned = None if old else stored
            made = self._writer.pack(old)
        whole = keyspace.CLUSTER not in stored.invalid
        if whole and not made.batches and self.verified is stored:
            self._idle.move(swarm, stored, now.timestamp())
        return made, whole

    def _earliest(self, due: int | None, now: datetime) -> int | None:
        """Return when time alone gives something to do: for the plan, a node that has left, or what then lasts."""
        at = time.monotonic()
        waits = (self._departed.due_in(at), self.problems.due_in(at))
        times = [math.ceil(now.timestamp() + seconds) for seconds in waits if seconds is not None]
        return min((*times, *(() if due is None else (due,))), default=None)

    def report(self, problems: Iterable[str], swarm: Swarm, unsettled: Collection[str] = ()) -> None:
        """Replace the open problems by these and those of node labels; those that are unsettled, once they last."""
        errors = (node.label_error for node in swarm.nodes.values() if node.label_error)
        self.problems.update((*problems, *errors), time.monotonic(), unsettled)

    def _planned(self, stored: Snapshot, swarm: Swarm, now: datetime) -> tuple[Judged, Plan]:
        judged = self.members.judge(swarm, stored, now, self.silent)
        at, members = int(now.timestamp()), judged.members
        self._goal = goal = self._encryption_goal(stored)
        return judged, self._planner.plan(swarm, judged.stored, self._subnet, at, members, self._vault(), goal)

    def _encryption_goal(self, stored: Snapshot) -> EncryptionGoal:
        """Return node encryption as it is to be, with the nodes' accounts; without them while all of it is off."""
        if self._encryption.mode is None and keyspace.ENCRYPTION not in stored.records:
            return NO_ENCRYPTION
        accounts = self._acknowledgements.read_all(stored, self.members.accepted)
        states = {node: state for node, (state, _) in accounts.items()}
        keys = {node: told for node, (_, told) in accounts.items() if told is not None}
        return replace(self._encryption, states=states, keys=keys)

    def _vault(self) -> OpenVault | None:
        return self._link_secrets.opened if self._link_secrets is not None else None


class Settling:
    """Problems of one observer that count once they last. Not safe for several threads."""

    def __init__(self) -> None:
        """Start without any."""
        self._since: dict[str, float] = {}

    def lasting(self, problems: Iterable[str], now: float) -> frozenset[str]:
        """Return those of the problems seen now that last; `now` is of the monotonic clock."""
        self._since = {text: self._since.get(text, now) for text in problems}
        return frozenset(text for text, since in self._since.items() if is_lasting(now - since))

    def due_in(self, now: float) -> float | None:
        """Return the seconds until another one lasts; None where none is to come."""
        waits = (lasts_in(now - since) for since in self._since.values())
        return min((seconds for seconds in waits if seconds), default=None)


class ProblemLog:
    """Problems that are open now.

    Attributes:
        open: the problems' texts, in their order.
    """

    def __init__(self) -> None:
        """Start without problems."""
        self.open: dict[str, None] = {}
        self._settling = Settling()

    def due_in(self, now: float) -> float | None:
        """Return the seconds until a problem that is not open yet has lasted long enough; None where none is."""
        return self._settling.due_in(now)

    def update(self, problems: Iterable[str], now: float, unsettled: Collection[str] = ()) -> None:
        """Replace the open problems, and log those that are new and those that are gone.

        Args:
            problems: all of them, in their order.
            now: of the monotonic clock.
            unsettled: those that are none before they last.
        """
        young = frozenset(unsettled) - self._settling.lasting(unsettled, now)
        before, self.open = self.open, dict.fromkeys(text for text in problems if text not in young)
        for problem in self.open:
            if problem not in before:
                log.warning("problem found", reason=problem)
        for problem in before:
            if problem not in self.open:
                log.info("problem solved", reason=problem)
