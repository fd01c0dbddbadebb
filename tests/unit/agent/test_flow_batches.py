"""Batches of flows that one node writes for another: their bounds, and what is refused of a stranger's."""

from __future__ import annotations

import json
import random
import zlib
from ipaddress import IPv4Address
from typing import Any

import pytest

from agent.flows import batch
from agent.flows.batch import Batch, Pace, pack, unpack
from agent.flows.conntrack_events import Connection
from agent.flows.events import Begun, Counts, Refusal, Seen
from mesh.errors import InvalidRecordError

TASK = "k3v9x1a7b2c4d5e6f7g8h9i0j"


def seen(number: int, at: float = 99.0) -> Seen:
    source = IPv4Address("100.96.0.0") + random.Random(number).randrange(60_000)  # noqa: S311 - no secret
    port = 1024 + number % 60_000
    return Seen(TASK, at, Connection("tcp", source, port, IPv4Address("100.96.0.9"), 5432, IPv4Address("100.96.1.1")))


WHOLE = Batch(
    100.0,
    Begun(3, 5, ("a problem",)),
    Counts(9, 1, 2, 3),
    4,
    (seen(1), seen(2, 99.5)),
    (Refusal(TASK, 98.0, "apart", "", 7), Refusal("other", 99.0, "in", "a service", 1)),
    is_last=True,
)


def test_a_batch_comes_round() -> None:
    packed, left_out = pack(WHOLE)
    assert left_out == 0
    assert unpack(packed) == WHOLE


def test_a_full_batch_is_thinned_and_says_so() -> None:
    full = Batch(100.0, Begun(1, 1), seen=tuple(seen(n, 90.0 + n / 1000) for n in range(5000)), left_out=10)
    packed, left_out = pack(full, 4096)
    kept = unpack(packed)
    assert len(packed) <= 4096
    assert left_out == 5000 - len(kept.seen)
    assert kept.left_out == 10 + left_out
    assert len(kept.seen) >= 50
    times = [one.at for one in kept.seen]
    assert times[0] < 90.5
    assert times[-1] > 94.5, "the end of its time is left out, not a part of all of it"


def test_refusals_too_fit_their_room() -> None:
    full = Batch(100.0, Begun(1, 1), refused=tuple(Refusal(f"{n:025}", 99.0, "in", "", 1) for n in range(3000)))
    packed, left_out = pack(full, 2048)
    assert len(packed) <= 2048
    assert left_out == 3000 - len(unpack(packed).refused) > 0


@pytest.mark.parametrize("nodes", [0, 1, 2, 16, 17, 300, 1000])
def test_all_nodes_together_keep_the_pace(nodes: int) -> None:
    pace = Pace.of(nodes)
    assert pace.every >= 1
    assert pace.room <= batch.MOST_BYTES
    assert nodes / pace.every <= batch.WRITES_PER_S
    assert nodes * pace.room * 4 / 3 / pace.every <= batch.BYTES_PER_S
    assert pace.room >= 3000


def test_a_second_of_two_nodes_fits() -> None:
    """As many events as a watch reads, of which nothing but the ports recurs less than in a real one."""
    one = Batch(100.0, Begun(64, 64), seen=tuple(seen(n) for n in range(400)))
    assert pack(one, Pace.of(2).room)[1] == 0


def plain(**changes: object) -> bytes:
    made: dict[str, Any] = json.loads(zlib.decompress(pack(WHOLE)[0]))
    return zlib.compress(json.dumps({**made, **changes}).encode())


CONNECTION = [0, 1.0, "tcp", "100.96.0.1", 1, "100.96.0.2", 2, "100.96.0.2"]


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"nonsense",
        zlib.compress(b"[" * 9000),
        plain(at="now"),
        plain(at=1e999),
        plain(seen=[[9, *CONNECTION[1:]]]),  # a task that is not in the table
        plain(seen=[[0, -1.0, *CONNECTION[2:]]]),  # the future
        plain(seen=[[0, 1e9, *CONNECTION[2:]]]),
        plain(seen=[[0, 1.0, "\x1b[2J", *CONNECTION[3:]]]),
        plain(seen=[[*CONNECTION[:3], "home", *CONNECTION[4:]]]),
        plain(seen=[[*CONNECTION[:4], 70_000, *CONNECTION[5:]]]),
        plain(refused=[[0, 1.0, "up", "", 1]]),
        plain(refused=[[0, 1.0, "in", "", 0]]),
        plain(more=1),
        plain(counts=[1, 2, 3]),
        plain(counts=[-1, 2, 3, 4]),
    ],
)
def test_malformed_batches_are_refused(packed: bytes) -> None:
    with pytest.raises(InvalidRecordError):
        unpack(packed)


def test_one_that_unpacks_to_more_is_refused() -> None:
    sound = zlib.decompress(plain())
    assert unpack(zlib.compress(sound + b" " * 1000)) == WHOLE
    with pytest.raises(InvalidRecordError):
        unpack(zlib.compress(sound + b" " * batch.MOST_UNPACKED))


def test_one_that_is_large_is_refused() -> None:
    large = plain(problems=[random.Random(1).randbytes(40_000).hex()])  # noqa: S311 - no secret
    assert len(large) > batch.MOST_BYTES
    with pytest.raises(InvalidRecordError, match="too large"):
        unpack(large)


def test_a_sound_change_is_not_refused() -> None:
    assert len(unpack(plain(seen=[CONNECTION])).seen) == 1


def test_problems_are_short_and_few() -> None:
    packed = plain(problems=["x" * 5000] * 50)
    problems = unpack(packed).begun.problems
    assert len(problems) <= 8
    assert max(map(len, problems)) <= 200
