"""Plan of the changes that bring the store in line with Swarm. Pure.

The safety rules, which hold after every prefix of a plan, whichever transaction is the last to succeed:

- an address, a VIP or a port is given only by creating its record, in the same transaction as what it is given to;
- an address is let go only by turning its record into a resting one, in the same transaction as the end of
  what held it: at no revision of the store is it neither held nor resting;
- nothing is planned from a snapshot that is not complete, and `Swarm` exists only complete;
- each change names the revision of the record that it replaces: a plan made from an old picture does nothing;
- a record that cannot be read counts as unknown: it holds what its key names, and nothing is concluded from it.

`plan` is the definition. A `Planner` gives the same plans, but looks only at the parts that a change can concern
(controller.index.impact), that gave steps or problems in the last plan, or that are due.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from controller.index.baseline import Baseline, Delta
from controller.index.impact import renew
from controller.index.index import Index
from controller.index.scope import EVERYTHING, Scope
from controller.planning.context import PlanContext
from controller.planning.link_keys import LinkKeyPlan
from controller.planning.node_encryption import NodeEncryptionPlan
from controller.planning.placement import Placement
from controller.planning.reclaim import Reclaim
from controller.planning.stack_shares import MOST, Shares
from controller.steps import EncryptionGoal, OpenVault, Plan, PlanStep, Step
from controller.swarm.model import Swarm
from mesh.crypto.hpke import NodePublicKey
from mesh.model import keyspace
from mesh.model.records import Cluster
from mesh.model.snapshot import Put, Snapshot, unreadable
from mesh.process.gc_tuning import gc_paused
from mesh.topology.ipam import ula

NO_ENCRYPTION = EncryptionGoal()


def plan(  # noqa: PLR0917 - the inputs of one plan
    swarm: Swarm,
    stored: Snapshot,
    subnet: IPv4Network,
    now: int,
    members: Mapping[str, NodePublicKey],
    vault: OpenVault | None = None,
    encryption: EncryptionGoal = NO_ENCRYPTION,
) -> Plan:
    """Plan the changes of the store.

    Args:
        swarm: complete lists.
        stored: the whole store. If it is not complete, nothing is planned.
        subnet: for a store that is not in use yet; afterwards the store's own record counts.
        now: seconds since the epoch by the controller's clock: it decides when link keys are renewed, nothing else.
        members: node -> its proven sealing key (controller.trust.node_judgement). Nothing new is sealed to another
            node, and nothing that it has is taken from it.
        vault: that new epochs' secrets are kept under; None where every secret follows from the link seed.
        encryption: that between nodes, as it is to be.
    """
    return Planner().plan(swarm, stored, subnet, now, members, vault, encryption)


@dataclass(frozen=True, slots=True)
class _Last:
    """Inputs and outcome of the last plan.

    Attributes:
        index: of what Swarm and the store hold.
        members: the nodes' sealing keys.
        vault: that was open.
        to_do: ids that gave steps or problems.
        keys_to_do: link keys that gave steps or problems.
        timed: as in Run, of all link keys.
    """

    index: Index
    members: Mapping[str, NodePublicKey]
    vault: OpenVault | None
    to_do: frozenset[str]
    keys_to_do: frozenset[str]
    timed: Mapping[str, tuple[int, int]]


class Planner:
    """Makes a series of plans, each as `plan` would. Not safe for several threads.

    Attributes:
        looked_at: the scope of the last plan.
    """

    def __init__(self, share: float = MOST) -> None:
        """Start without a last plan; `share` is that of a stack (controller.planning.stack_shares)."""
        self._share = share
        self.looked_at = EVERYTHING
        self._last: _Last | None = None
        self._baseline = Baseline()

    def plan(  # noqa: PLR0917 - the inputs of one plan
        self,
        swarm: Swarm,
        stored: Snapshot,
        subnet: IPv4Network,
        now: int,
        members: Mapping[str, NodePublicKey],
        vault: OpenVault | None = None,
        encryption: EncryptionGoal = NO_ENCRYPTION,
    ) -> Plan:
        """Plan as `plan` does, from what has changed in the arguments since the last call (`changed_since`)."""
        # After a failure below nothing is remembered.
        last, self._last, self.looked_at = self._last, None, EVERYTHING
        if last is not None and last.vault != vault:
            last = None
        if not stored.complete:
            return Plan((), ())
        cluster = stored.get(keyspace.CLUSTER, Cluster)
        if cluster is not None and cluster.id != swarm.cluster:
            # This Swarm has none of the tasks in its records: all of them would be deleted.
            owner = f"the store belongs to the Swarm {cluster.id}, and this is {swarm.cluster}"
            return Plan((), (f"{owner}: give each an etcd of its own",))
        delta = self._baseline.delta(swarm, stored, now) if last is not None else None
        index, focus = _looked_up(last, delta, swarm, stored, now, members)
        used = cluster.subnet if cluster else subnet
        run = PlanContext(index, focus, used, now, members, Shares(index, used, self._share), vault)
        run.encryption = encryption
        if run.subnet != subnet:
            run.problems.append(f"the mesh's subnet is {run.subnet} since its first use; {subnet} is ignored")
        run.problems += unreadable(stored.invalid)
        run.problems += index.links.problems
        steps = tuple(_steps(run, cluster))
        self.looked_at, self._last = focus, _remembered(last, run)
        self._baseline.move(swarm, stored, now, whole=focus.everything)
        times = [until for _, until in self._last.timed.values()] + [run.due or now][: run.due is not None]
        due = min(times, default=None)
        problems = tuple(dict.fromkeys((*run.problems, *run.key_problems)))
        return Plan(steps, problems, due, run.awaits, index.links.unsettled)


def _looked_up(  # noqa: PLR0917 - the parts of one call
    last: _Last | None,
    delta: Delta | None,
    swarm: Swarm,
    stored: Snapshot,
    now: int,
    members: Mapping[str, NodePublicKey],
) -> tuple[Index, Scope]:
    """Return the indexes of now, and the scope."""
    # Where a task had endpoints of two services, one of them alone is in the indexes: they cannot be renewed.
    if last is not None and delta is not None and not last.index.ambiguous:
        focus = renew(last.index, swarm, stored, delta, _differing(last.members, members))
        if not last.index.ambiguous:
            due = [key for key, (since, until) in last.timed.items() if not since <= now < until]
            return last.index, focus.widened(last.to_do, last.keys_to_do.union(due))
    with gc_paused():
        return Index(swarm, stored), EVERYTHING


def _differing(before: Mapping[str, NodePublicKey], members: Mapping[str, NodePublicKey]) -> list[str]:
    if before is members:
        return []
    come = [node for node, key in members.items() if (was := before.get(node)) is not key and was != key]
    return come + [node for node in before if node not in members]


def _remembered(last: _Last | None, run: PlanContext) -> _Last:
    timed = run.timed
    if last is not None and run.focus.link_keys is not None:
        timed = {key: its for key, its in last.timed.items() if key not in run.focus.link_keys} | run.timed
    return _Last(run.index, run.members, run.vault, frozenset(run.to_do), frozenset(run.keys_to_do), timed)


def _steps(run: PlanContext, cluster: Cluster | None) -> Iterator[Step]:
    """Yield all steps, in an order that is safe and quick."""
    if keyspace.CLUSTER in run.index.stored.invalid:
        return  # the subnet is unknown
    swarm = run.index.swarm
    if cluster is None:
        record = Cluster(swarm.cluster, run.subnet, ula(swarm.cluster))
        yield PlanStep((Put(record, 0),), f"take the store into use with subnet {run.subnet}")
    link_keys = LinkKeyPlan(run)
    places, ends = Placement(run, link_keys), Reclaim(run)
    yield from ends.revoked_steps()
    yield from NodeEncryptionPlan(run).steps()
    yield from link_keys.first_steps()
    yield from places.service_steps()
    yield from places.endpoint_steps()
    yield from places.node_problems()
    yield from ends.release_steps()
    yield from ends.orphan_steps()
    yield from link_keys.last_steps()
