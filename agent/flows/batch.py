"""Batches of events, which one node writes for another: their form, their size and their pace. Pure.

Whatever is read here another node wrote: it is held to types, ranges and sizes before anybody looks at it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec

from agent.flows.conntrack_events import Connection
from agent.flows.events import Begun, Counts, Refusal, Seen
from mesh.errors import InvalidRecordError
from mesh.model.compression import decompressed

BYTES_PER_S = 64 * 1024
"""All nodes together write for one ask so much, as etcd has it: bytes are base64 in a record's JSON."""
WRITES_PER_S = 16
"""Likewise, batches."""
MOST_BYTES = 32 * 1024
"""Bytes of one batch, compressed: in base64 it stays below the limit of its kind."""
MOST_UNPACKED = 1024**2
"""Bytes of one batch, unpacked; without a limit a small one could unpack to gigabytes."""
MOST_AGE_S = 120.0
"""An event is no older when it is written."""
_LONGEST_PROBLEM, _MOST_PROBLEMS = 200, 8


@dataclass(frozen=True, slots=True)
class Pace:
    """Pace at which each node may write for one ask.

    Attributes:
        every: seconds between two batches.
        room: bytes of a batch.
    """

    every: float
    room: int

    @classmethod
    def of(cls, nodes: int) -> Pace:
        """Return the pace that keeps so many nodes together within BYTES_PER_S and WRITES_PER_S."""
        nodes = max(1, nodes)
        every = max(1.0, nodes / WRITES_PER_S)
        return cls(every, min(MOST_BYTES, int(BYTES_PER_S * 3 / 4 * every / nodes)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one node.

    Attributes:
        at: when it was written, by the node's monotonic clock.
        begun: what is watched there.
        counts: how much there was until then.
        left_out: events until then for which there was no room.
        seen: connections.
        refused: refusals.
        is_last: whether the node has ended its watch.
    """

    at: float
    begun: Begun
    counts: Counts = field(default_factory=Counts)
    left_out: int = 0
    seen: tuple[Seen, ...] = ()
    refused: tuple[Refusal, ...] = ()
    is_last: bool = False


_Text = Annotated[str, msgspec.Meta(max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Age = Annotated[float, msgspec.Meta(ge=0, le=MOST_AGE_S)]


class _Connection(msgspec.Struct, array_like=True, frozen=True):
    task: _Count
    age: _Age
    protocol: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9]{1,8}\Z")]
    source: _Text
    source_port: _Port
    destination: _Text
    destination_port: _Port
    backend: _Text


class _Refusal(msgspec.Struct, array_like=True, frozen=True):
    task: _Count
    age: _Age
    direction: Literal["in", "out", "apart"]
    other: _Text
    packets: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]


class _Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: float
    tasks: tuple[_Text, ...]
    watched: _Count
    here: _Count
    problems: tuple[str, ...]
    counts: tuple[_Count, _Count, _Count, _Count]
    left_out: _Count
    seen: tuple[_Connection, ...]
    refused: tuple[_Refusal, ...]
    last: bool


_DECODER = msgspec.json.Decoder(_Packed)


def pack(batch: Batch, room: int = MOST_BYTES) -> tuple[bytes, int]:
    """Pack a batch; of more connections than there is room for, a part that is spread over its time is kept.

    Returns:
        The bytes, and how many events were left out; the packed count has them.
    """
    seen, refused = list(batch.seen), list(batch.refused)
    whole = len(seen) + len(refused)
    while True:
        left_out = whole - len(seen) - len(refused)
        kept = replace(batch, seen=tuple(seen), refused=tuple(refused), left_out=batch.left_out + left_out)
        packed = zlib.compress(msgspec.json.encode(_plain(kept)), level=3)
        if len(packed) <= room or not (seen or refused):
            return packed, left_out
        if seen:
            seen = _thinned(seen, room / len(packed))
        else:
            refused = refused[: len(refused) // 2]


def _thinned(seen: Sequence[Seen], part: float) -> list[Seen]:
    """Return such a part of them, a little less, evenly spread."""
    count = min(int(len(seen) * part * 0.95), len(seen) - 1)
    return [seen[number * len(seen) // count] for number in range(count)]


def unpack(packed: bytes) -> Batch:
    """Read a batch. Raises InvalidRecordError."""
    if len(packed) > MOST_BYTES:
        raise InvalidRecordError("a batch of flows: too large")
    try:
        return _batch(_DECODER.decode(decompressed(packed, MOST_UNPACKED)))
    except (msgspec.MsgspecError, ValueError, IndexError, RecursionError) as error:
        raise InvalidRecordError(f"a batch of flows: {error}") from None


def _plain(batch: Batch) -> _Packed:
    tasks = {task: number for number, task in enumerate(dict.fromkeys(each.task for each in _events(batch)))}
    counts = batch.counts
    return _Packed(
        batch.at,
        tuple(tasks),
        batch.begun.tasks,
        batch.begun.tasks_here,
        tuple(problem[:_LONGEST_PROBLEM] for problem in batch.begun.problems[:_MOST_PROBLEMS]),
        (counts.events, counts.full_seconds, counts.overflowed_tasks, counts.tasks),
        batch.left_out,
        tuple(_written(each, tasks[each.task], batch.at) for each in batch.seen),
        tuple(
            _Refusal(tasks[each.task], _age(batch.at, each.at), each.direction, each.other, each.packets)  # type: ignore[arg-type]
            for each in batch.refused
        ),
        batch.is_last,
    )


def _events(batch: Batch) -> tuple[Seen | Refusal, ...]:
    return (*batch.seen, *batch.refused)


def _written(seen: Seen, task: int, at: float) -> _Connection:
    one = seen.connection
    ends = (str(one.source), one.source_port, str(one.destination), one.destination_port, str(one.backend))
    return _Connection(task, _age(at, seen.at), one.protocol, *ends)


def _age(written: float, at: float) -> float:
    return round(min(max(written - at, 0.0), MOST_AGE_S), 3)


def _batch(plain: _Packed) -> Batch:
    tasks, at = plain.tasks, plain.at
    return Batch(
        at,
        Begun(plain.watched, plain.here, tuple(one[:_LONGEST_PROBLEM] for one in plain.problems[:_MOST_PROBLEMS])),
        Counts(*plain.counts),
        plain.left_out,
        tuple(
            Seen(
                tasks[each.task],
                at - each.age,
                Connection(
                    each.protocol,
                    ip_address(each.source),
                    each.source_port,
                    ip_address(each.destination),
                    each.destination_port,
                    ip_address(each.backend),
                ),
            )
            for each in plain.seen
        ),
        tuple(
            Refusal(tasks[each.task], at - each.age, each.direction, each.other, each.packets)
            for each in plain.refused
        ),
        plain.last,
    )
