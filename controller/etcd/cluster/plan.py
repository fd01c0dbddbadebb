"""Decisions about an etcd of several members: how one starts, and the next change of the cluster. Pure.

Nobody forms a cluster on a guess. A member without data joins one that lists it; only where all desired members say
that they have no data does the first of them form a new one. The supervisor of the leader changes the cluster, one
step at a time: it adds a member that waits without data, as a learner, and removes one that is not desired, or that
has lost its data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

ADD, PROMOTE, REMOVE, UPDATE, MOVE = "add", "promote", "remove", "update", "move leader"


@dataclass(frozen=True, slots=True)
class Listed:
    """A member as a cluster lists it.

    Attributes:
        id: etcd's own.
        name: empty until it has started once.
        peer: URL at which members reach it.
        learner: whether it has no vote yet.
    """

    id: int
    name: str
    peer: str
    learner: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer at a member's peer URL.

    Attributes:
        cluster: id of the cluster that it is in; 0: it waits without data.
        members: of that cluster, as it knows them.
    """

    cluster: int = 0
    members: tuple[Listed, ...] = ()


WAITING = Answer()


@dataclass(frozen=True, slots=True)
class Note:
    """Facts about a member that lie beside its data.

    Attributes:
        installation: that owns the data.
        cluster: id of its cluster.
        member: its own id in it.
        peer: its URL in it.
    """

    installation: str
    cluster: int
    member: int
    peer: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Start on the data that is there."""

    peer: str


@dataclass(frozen=True, slots=True)
class Form:
    """Form a new cluster, of this member alone."""


@dataclass(frozen=True, slots=True)
class Join:
    """Join a cluster that lists this member."""

    cluster: int
    member: int
    others: tuple[Listed, ...]


@dataclass(frozen=True, slots=True)
class SetAside:
    """Set the data aside: it is of a member that no cluster has any more."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, and say so, until a cluster lists this member."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Run no etcd: this member is not desired, and no cluster has it."""


Start = Resume | Form | Join | SetAside | Wait | Rest


def start(
    own: str, desired: Sequence[str], answers: Mapping[str, Answer | None], *, has_data: bool, note: Note | None
) -> Start:
    """Decide how a member starts.

    Args:
        own: its peer URL; empty if it is not desired.
        desired: peer URLs of all members that there are to be; the first may have data of a time when it was alone.
        answers: of the other desired members; None for one that does not answer.
        has_data: whether it has data of etcd.
        note: beside the data.
    """
    clusters = [answer for answer in answers.values() if answer is not None and answer.cluster]
    if has_data and _is_live(own, desired, clusters, note):
        return Resume(own or (note.peer if note else ""))
    if not own:
        return Rest()
    if has_data:
        return SetAside()
    for each in clusters:
        for one in each.members:
            if one.peer == own and not one.name:
                return Join(each.cluster, one.id, tuple(other for other in each.members if other.id != one.id))
    if own == desired[0] and all(answer == WAITING for answer in answers.values()):
        return Form()
    return Wait()


def _is_live(own: str, desired: Sequence[str], clusters: Collection[Answer], note: Note | None) -> bool:
    """Tell whether data is of a member that the others' clusters have, as far as any answers."""
    if note is None:  # of a time when it was alone, or of another such time on a node that was left
        return own != "" and own == desired[0]
    return not clusters or any(note.member == one.id for each in clusters for one in each.members)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the cluster.

    Attributes:
        action: ADD, PROMOTE, REMOVE, UPDATE (of its URL) or MOVE (the leadership to it).
        member: its id; 0 to add one.
        peer: its URL.
    """

    action: str
    member: int
    peer: str


def next_change(
    leader: int, listed: Sequence[Listed], desired: Sequence[str], own: str, waiting: Collection[str]
) -> Change | None:
    """Return the next change that the leader makes; None where there is none.

    Args:
        leader: its id.
        listed: all members.
        desired: peer URLs of all members that there are to be.
        own: the leader's; empty if it is not desired.
        waiting: URLs at which a member says that it waits without data.
    """
    me = next((one for one in listed if one.id == leader), None)
    if me is None:
        return None
    others = [one for one in listed if one.id != leader]
    if not own:  # the next leader removes this one
        voters = (one for one in others if one.name and not one.learner and one.peer in desired)
        return next((Change(MOVE, one.id, one.peer) for one in voters), None)
    if me.peer != own:
        return Change(UPDATE, leader, own)
    for one in others:
        # Without data it can never be that member again: as the same one it would break what it has promised.
        if one.peer not in desired or (one.name and one.peer in waiting):
            return Change(REMOVE, one.id, one.peer)
    if learner := next((one for one in others if one.learner), None):
        return Change(PROMOTE, learner.id, learner.peer) if learner.name else None  # etcd takes one at a time
    there = {one.peer for one in listed}
    missing = (peer for peer in desired if peer not in there and peer in waiting)
    return next((Change(ADD, 0, peer) for peer in missing), None)
