"""A controller of the model: the production loop's own pass, with what surrounds it in its hands."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any, cast

from controller.loop import Controller
from controller.swarm.model import Swarm
from mesh.crypto.signed_envelope import Signer
from mesh.model import keyspace
from mesh.model.records import Address, Leader
from mesh.model.snapshot import Holds, Put
from mesh.model.snapshot import Snapshot as Read
from tests.support.signing import CLUSTER, SIGNING_KEY
from tests.support.swarm_world import SEED
from tests.unit.controller.planners import Pictures
from tests.unit.model.environment import CLOCK, copied
from tests.unit.model.etcd import Etcd, Port

REST_S = 600
_LONG_S = 700.0


class Surroundings:
    """Swarm's lists, the wake-up, the election and the metrics, all in one."""

    def __init__(self) -> None:
        self.lists = Swarm(CLUSTER, {}, {}, {})
        self.token: Holds | None = None

    def __call__(self, *_: object) -> None:
        """Wake nobody: steps say who looks when."""

    def is_pending(self) -> bool:
        return False

    def refresh(self, hints: object, *, closely: bool) -> Swarm:
        del hints, closely
        return self.lists

    @property
    def nodes_up(self) -> tuple[str, ...]:
        return tuple(node.id for node in self.lists.nodes.values() if not node.down)

    def verify(self) -> None:
        """The lead is looked at where a pass begins."""

    def set_fit(self, fit: bool) -> None:
        """Steps say who leads."""

    def observe(self, *_: object) -> None:
        """No metrics."""

    def look(self, *_: object, **__: object) -> None:
        """No audit log, and no upkeep of what nodes show each other."""

    note_problems = start_term = look
    waits, answers = False, True


class ModelController:
    """One process.

    Attributes:
        name: of the process, another one for each.
        remembers: whether its planner keeps its memory from pass to pass.
    """

    def __init__(self, name: str, subnet: IPv4Network, *, remembers: bool = False) -> None:
        self.name = name
        self.port = Port()
        self.around = Surroundings()
        self._pictures = Pictures() if remembers else None
        around = cast("Any", self.around)
        self.loop = Controller(
            around, cast("Any", self.port), Signer(CLUSTER, SIGNING_KEY), around, subnet, REST_S, name, SEED
        )
        for part in ("_audit", "_metrics", "_upkeep"):
            setattr(self.loop, part, self.around)
        self.loop._writer._audit = None

    def copy(self) -> ModelController:
        return copied(self)

    def pass_(self, swarm: Swarm, etcd: Etcd, *, leads: bool = True) -> tuple[Etcd, ...]:
        """Make one pass; return every revision that it makes, after the one that it began with."""
        self.port.begin(etcd)
        if leads:
            self._campaign()
        else:
            self.around.token = None
        self.around.lists = swarm
        follower: Any = self.port
        if self._pictures is not None:
            self.around.lists, shown = self._pictures.next(swarm, self.port.snapshot)
            follower = SimpleNamespace(snapshot=shown, wait=self.port.wait)
        self.loop._pass(set(), follower, cast("Any", self.around))
        revisions, self.port.revisions = self.port.revisions, ()
        return revisions

    def _campaign(self) -> None:
        """Take the lead, unless the store shows it as ours."""
        leader = self.port.snapshot.get(keyspace.LEADER, Leader)
        revision = self.port.etcd.revision_of(keyspace.LEADER)
        if leader is None or leader.instance != self.name or self.around.token is None:
            revision = self.port.commit([Put(Leader(self.name, self.name), revision)]) or 0
        self.around.token = Holds(keyspace.LEADER, revision)

    def remembered_rests(self) -> set[IPv4Address]:
        """Addresses that it knows to rest, whatever the store says now."""
        rests = self.loop._decider._rests
        return {*rests._lost, *(a.address for a in rests._last.all(Address) if a.holder is None)}

    def fingerprint(self) -> tuple[object, ...]:
        """All that its next passes depend on but the names of revisions; times count from now."""
        loop, decider = self.loop, self.loop._decider
        ledger = loop._writer.ledger
        witnesses, presence, startup = ledger._witnesses, decider._presence, loop._startup
        restore = loop._restore
        return (
            ledger._highest,
            ledger._used,
            ledger._top,
            tuple(sorted((w.node, w.generation, w.manifest) for w in witnesses._seen.values())),
            tuple(sorted(witnesses._opened.items())),
            decider._rests._last.revision and _generation(decider._rests._last),
            tuple(sorted(str(address) for address in self.remembered_rests())),
            tuple((key, _ago(rest.since)) for key, rest in sorted(decider._resting._rests.items())),
            tuple((node, _ago(sign.seen)) for node, sign in sorted(presence._signs.items())),
            decider.verified is not None and _digest(decider.verified),
            tuple(sorted((node, member.counter) for node, member in decider.members.accepted.items())),
            startup._token is None,
            _ago(startup._led_since, 11),
            _ago(startup._hearing._began or 0.0, 11),
            tuple(sorted(startup._hearing._heard)),
            (restore._asked[0], _ago(restore._asked[1], 11), tuple(sorted(restore.passed_over))),
        )


def _ago(then: float, most: float = _LONG_S) -> float:
    return min(most, CLOCK.now - then)


def _generation(stored: Read) -> int:
    found = stored.records.get(keyspace.MANIFEST)
    return found.generation if found is not None else 0


def _digest(stored: Read) -> tuple[int, int, bytes]:
    found: Mapping[str, Any] = stored.records
    manifest = found.get(keyspace.MANIFEST)
    return len(found), _generation(stored), manifest.raw if manifest is not None else b""
