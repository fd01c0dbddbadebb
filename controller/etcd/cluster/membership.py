"""One member of the stack's etcd beside others: its start, its place in the cluster, and its leave."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

import structlog

from controller.etcd.cluster import member_note as notes
from controller.etcd.cluster import peers
from controller.etcd.cluster.plan import (
    ADD,
    MOVE,
    PROMOTE,
    REMOVE,
    WAITING,
    Answer,
    Change,
    Form,
    Join,
    Listed,
    Note,
    Rest,
    Resume,
    SetAside,
    Start,
    Wait,
    next_change,
    start,
)
from mesh.errors import LinkwireError
from mesh.identity.etcd_users import MEMBER
from mesh.identity.tls import Tls
from mesh.store import range_response
from mesh.store.etcd_channel import Channel, ChannelPool, rpc

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.5
ASK_EVERY = 2.0
"""Seconds between two looks of the leader at members that may wait."""
TURN = 15.0
"""Seconds by which each member restarts its etcd later than the one before it in the list."""
HEARTBEAT_MS, ELECTION_MS = 200, 2000
"""Twice etcd's: a node that is busy for a second loses no leadership."""
_TIMEOUT = 5.0
_LEADER = 4  # of StatusResponse
_IS_LEARNER = 5  # of Member: came with etcd 3.4, after etcd3's stubs
_AS_LEARNER = b"\x10\x01"  # MemberAddRequest.isLearner, likewise


@dataclass(frozen=True, slots=True)
class Role:
    """The part of one member in its cluster, by its own word.

    Attributes:
        cluster: id of the cluster.
        member: its own id.
        leads: whether it leads.
    """

    cluster: int
    member: int
    leads: bool


@dataclass(slots=True)
class Membership:
    """One member among those that are desired. Not safe for several threads.

    Attributes:
        name: its name in the cluster, its node's id.
        own: its peer URL; empty if it is not desired.
        desired: peer URLs of all members.
        tls: certificate of members, for both sides, and the authorities that members trust.
        data: folder of etcd's data.
        installation: id of the owner of the data.
    """

    name: str
    own: str
    desired: Sequence[str]
    tls: Tls
    data: Path
    installation: str
    peer: str = ""
    """The URL that etcd listens at now."""
    _asked_at: float = field(default=float("-inf"))
    _waiting: frozenset[str] = frozenset()

    @property
    def turn(self) -> float:
        """Return the seconds that this member waits before a restart that is due for all."""
        return self.desired.index(self.own) * TURN if self.own else 0.0

    def wait(self) -> list[str] | None:
        """Wait until etcd may start here; return its arguments, None where it is not to run here.

        Raises:
            OSError: data cannot be moved, or the port is taken.
        """
        found = notes.read(self.data)
        if found is not None and found.installation != self.installation:
            log.warning("data of another installation set aside, etcd starts empty", installation=found.installation)
            notes.set_aside(self.data)
        told: Start | None = None
        while True:
            decided = self._decide()
            if not isinstance(decided, Wait):
                if (arguments := self._arguments(decided)) or isinstance(decided, Rest):
                    return arguments
                continue
            if told != (told := decided):
                log.info("etcd member waits for the others", peer=self.own)
            with peers.waiting(self.own, self.tls.ca, self.tls.cert):
                while decided == told:
                    time.sleep(LOOK_EVERY)
                    decided = self._decide()

    def role(self, line: ChannelPool) -> Role:
        """Return this member's part in its cluster; `line` leads to it, as root. Raises LinkwireError."""
        with line.use() as link:
            raw = link.raw("Maintenance/Status", rpc.StatusRequest(), _TIMEOUT)
        header = rpc.StatusResponse.FromString(raw).header
        member = int(header.member_id)
        return Role(int(header.cluster_id), member, range_response.numbers(raw).get(_LEADER, 0) == member)

    def confirm(self, role: Role) -> None:
        """Note beside the data what it is of. Raises OSError."""
        notes.write(self.data, Note(self.installation, role.cluster, role.member, self.peer))

    def look(self, line: ChannelPool, role: Role) -> None:
        """Do what is due in the cluster; a failure is logged, and retried at the next look.

        Args:
            line: to this member, as root.
            role: of this member.
        """
        now = time.monotonic()
        if now - self._asked_at < ASK_EVERY:
            return
        self._asked_at = now
        try:
            if role.leads:
                self._lead(line, role)
            elif not self.own:
                self._change(line, Change(REMOVE, role.member, self.peer))
        except LinkwireError as error:
            # A learner is promoted when it has caught up, and a change needs all members for some seconds.
            log.info("etcd members not changed yet", error=str(error))

    def _lead(self, line: ChannelPool, role: Role) -> None:
        with line.use() as link:
            listed = members(link)
        answers = peers.ask((url for url in self.desired if url != self.own), self.tls.ca, self.tls.cert)
        # Twice: one that has just stopped waiting may be starting.
        now = frozenset(url for url, answer in answers.items() if answer == WAITING)
        waiting, self._waiting = now & self._waiting, now
        if change := next_change(role.member, listed, self.desired, self.own, waiting):
            self._change(line, change)
        elif not self.own and len(listed) > 1:
            log.info("etcd members not changed yet", error="no desired member can lead")

    def _change(self, line: ChannelPool, change: Change) -> None:
        with line.use() as link:
            _make(link, change)
        log.info("etcd member changed", action=change.action, peer=change.peer)
        self._waiting = frozenset()

    def _decide(self) -> Start:
        answers: dict[str, Answer | None]
        answers = peers.ask((url for url in self.desired if url != self.own), self.tls.ca, self.tls.cert)
        has_data, found = notes.has_data(self.data), notes.read(self.data)
        return start(self.own, self.desired, answers, has_data=has_data, note=found)

    def _arguments(self, decided: Start) -> list[str] | None:
        """Return etcd's arguments; None where there is no etcd to start, or another decision is due first."""
        self.peer = self.own
        match decided:
            case Resume(peer):
                self.peer = peer
                return [*self._common(), f"--initial-cluster={self.name}={peer}"]
            case Form():
                notes.set_aside(self.data)  # what a start has left that was broken off
                log.info("etcd members form a new cluster", peer=self.own)
                # Another cluster each time, or members of an earlier one would take this one's for theirs.
                token = f"--initial-cluster-token={secrets.token_hex(16)}"
                return [*self._common(), f"--initial-cluster={self.name}={self.own}", token]
            case Join(cluster, member, others):
                notes.set_aside(self.data)
                notes.write(self.data, Note(self.installation, cluster, member, self.own))
                log.info("etcd member joins", peer=self.own, members=len(others))
                cluster_text = ",".join([f"{self.name}={self.own}", *(f"{one.name}={one.peer}" for one in others)])
                return [*self._common(), f"--initial-cluster={cluster_text}", "--initial-cluster-state=existing"]
            case SetAside():
                log.warning("data of a removed etcd member set aside", path=str(self.data / notes.ASIDE))
                notes.set_aside(self.data)
            case Rest():
                log.info("etcd member is not one any more")
            case Wait():
                pass
            case _:
                assert_never(decided)
        return None

    def _common(self) -> list[str]:
        certificate = str(self.tls.cert)
        return [
            f"--name={self.name}",
            f"--listen-peer-urls={self.peer}",
            f"--initial-advertise-peer-urls={self.peer}",
            f"--peer-cert-file={certificate}",
            f"--peer-key-file={certificate}",
            f"--peer-trusted-ca-file={self.tls.ca}",
            "--peer-client-cert-auth",
            # The same authority has signed agents' certificates.
            f"--peer-cert-allowed-cn={MEMBER}",
            f"--heartbeat-interval={HEARTBEAT_MS}",
            f"--election-timeout={ELECTION_MS}",
        ]


def members(link: Channel) -> tuple[Listed, ...]:
    """Return the members of the cluster. Raises grpc.RpcError, which `ChannelPool.use` translates."""
    raw = link.raw("Cluster/MemberList", rpc.MemberListRequest(), _TIMEOUT)
    return tuple(
        Listed(
            int(one.ID),
            str(one.name),
            str(one.peerURLs[0]) if one.peerURLs else "",
            bool(range_response.numbers(one.SerializeToString()).get(_IS_LEARNER)),
        )
        for one in rpc.MemberListResponse.FromString(raw).members
    )


def _make(link: Channel, change: Change) -> None:
    # The requests to promote one and to move the leadership have its id in the same field, and no stub in etcd3.
    by_id = rpc.MemberRemoveRequest(ID=change.member)
    if change.action == ADD:
        request = rpc.MemberAddRequest.FromString(_AS_LEARNER)
        request.peerURLs.append(change.peer)
        link.raw("Cluster/MemberAdd", request, _TIMEOUT)
    elif change.action == PROMOTE:
        link.raw("Cluster/MemberPromote", by_id, _TIMEOUT)
    elif change.action == REMOVE:
        link.raw("Cluster/MemberRemove", by_id, _TIMEOUT)
    elif change.action == MOVE:
        link.raw("Maintenance/MoveLeader", by_id, _TIMEOUT)
    else:
        link.raw("Cluster/MemberUpdate", rpc.MemberUpdateRequest(ID=change.member, peerURLs=[change.peer]), _TIMEOUT)
