"""Transactions by count and by bytes, and a plan's steps that cannot be in any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.steps import Allocate, PlanStep, Share
from controller.swarm.model import SwarmService
from controller.transactions import packed
from mesh.crypto.preshared_keys import LinkKey
from mesh.crypto.signed_envelope import MAX_BODY
from mesh.errors import Terminal
from mesh.model import codec, keyspace
from mesh.model.labels.link_labels import LINKS, MAX_ALL_RANGES, MAX_RANGES, LinkLabel, ServiceLabels, decode
from mesh.model.labels.ports import PortRange
from mesh.model.records import Port, Service
from mesh.model.snapshot import Delete, Holds, Op, Put, Write
from mesh.store.packing import MAX_BYTES, MAX_OPS, Part, pack
from tests.support.swarm_world import DB, WEB, DerivedSecrets, secret
from tests.unit.controller.transactions import fresh, made_of, settled

MOST_OF_A_RECORD = MAX_BODY * 3 // 4 - 1000
"""What a node can bring back in base64, in a record of its own."""


def record(node: str, size: int) -> Put:
    """A record of so many bytes."""
    empty = Port(node, 1, "")
    return Put(replace(empty, task="x" * (size - len(codec.encode(empty)))), None)


def refused(op: Op, reason: str) -> None:
    raise AssertionError(f"{op.key}: {reason}")


def sizes(batches: Sequence[Sequence[Part[int]]]) -> list[int]:
    return [len(batch) for batch in batches]


def test_a_transaction_is_bounded_in_bytes() -> None:
    parts = [(n, (record(f"t{n}", 240_000),)) for n in range(10)]
    assert sizes(list(pack(parts, refused))) == [4, 4, 2]
    signed = [(n, (Write(f"services/{n}", 1, bytes(240_000), None),)) for n in range(10)]
    assert sizes(list(pack(signed, refused))) == [4, 4, 2]


def test_a_transaction_is_bounded_in_operations() -> None:
    parts = [(n, (Delete(f"ports/n/{n}", None), Delete(f"addresses/{n}", None))) for n in range(120)]
    assert sizes(list(pack(parts, refused))) == [50, 50, 20]


def test_the_largest_record_is_written_alone() -> None:
    parts = [(0, (record("a", 10_000),)), (1, (record("b", MAX_BODY),)), (2, (record("c", 10_000),))]
    assert sizes(list(pack(parts, refused))) == [1, 1, 1]


def test_a_key_stands_once_in_a_transaction() -> None:
    parts: list[Part[int]] = [(0, (Put(Port("n", 1, "t"), 0),)), (1, (Delete("ports/n/1", None),))]
    assert sizes(list(pack(parts, refused))) == [1, 1]


def test_a_record_too_large_is_left_out() -> None:
    told: list[tuple[str, str]] = []
    seen: list[int] = []

    def parts() -> Iterator[Part[int]]:
        for n, size in enumerate((1000, MAX_BODY + 1, 1000)):
            seen.append(len(told))
            yield n, (Holds("leader", 1), record(f"t{n}", size))

    batches = list(pack(parts(), lambda op, reason: told.append((op.key, reason))))
    assert [[what for what, _ in batch] for batch in batches] == [[0], [2]]
    assert told == [("ports/t1/1", "ports/t1/1: a record of 1000001 bytes, the limit is 1000000")]
    assert seen == [0, 0, 1]


@given(st.lists(st.lists(st.integers(200, 400_000), min_size=1, max_size=2), max_size=30))
def test_everything_is_written_once_and_in_order(parts: list[list[int]]) -> None:
    made = [(n, [record(f"{n}-{m}", size) for m, size in enumerate(part)]) for n, part in enumerate(parts)]
    batches = list(pack(made, refused))
    assert [part for batch in batches for part in batch] == made
    for batch in batches:
        ops = [op for _, ops in batch for op in ops if isinstance(op, Put)]
        assert len(ops) <= MAX_OPS
        assert sum(len(op.key) + len(codec.encode(op.record)) for op in ops) <= MAX_BYTES


# --- a plan


def large(found: SwarmService, ranges: int = 22_000) -> SwarmService:
    """The same with a link whose ports make its record too large."""
    ports = tuple(PortRange("tcp", 20_000 + n, 20_000 + n) for n in range(0, 2 * ranges, 2))
    return replace(found, labels=ServiceLabels((LinkLabel("shop_db", ("db",), ports),)))


def test_a_service_too_large_is_one_problem() -> None:
    store, world = fresh()
    web, db = world.add(large(WEB), "n1"), world.add(DB, "n2")
    plan = packed(made_of(store, world).steps, secret)
    steps = [step for batch in plan.batches for step, _ in batch]
    assert [step.task for step in steps if isinstance(step, Allocate)] == list(db)
    assert web
    written = [op.key for batch in plan.batches for _, ops in batch for op in ops]
    assert keyspace.service(DB.id) in written
    assert keyspace.service(WEB.id) not in written
    (problem,) = plan.problems
    assert problem.startswith(f"service shop_web: its labels are not applied: {keyspace.service(WEB.id)}: ")
    assert problem.endswith(": name fewer links and ports")


def test_a_service_that_was_written_goes_on() -> None:
    store, world = fresh()
    world.add(WEB, "n1")
    world.add(DB, "n2")
    settled(store, world)
    world.services[WEB.id] = large(WEB)
    task = world.start(WEB.id, "n3")
    plan = packed(made_of(store, world).steps, secret)
    assert [step.task for batch in plan.batches for step, _ in batch if isinstance(step, Allocate)] == [task]
    assert len(plan.problems) == 1


def test_an_impossible_step_is_a_problem() -> None:
    store, world = fresh()
    world.add(WEB, "n1")
    world.add(DB, "n2")

    class NoSecret(DerivedSecrets):
        def __call__(self, key: str, epoch: int, /) -> LinkKey:
            del epoch
            raise Terminal(f"nobody knows {key}")

    steps = made_of(store, world).steps
    plan = packed(steps, NoSecret())
    assert [step for batch in plan.batches for step, _ in batch] == [s for s in steps if not isinstance(s, Share)]
    shares = [step for step in steps if isinstance(step, Share) and step.boxes]
    assert plan.problems == tuple(f"{s.reason}: not written: nobody knows shop_web:shop_db" for s in shares)


# --- labels

ports = st.lists(st.integers(1, 65_535), max_size=300).map(lambda found: ",".join(map(str, found)))


@given(st.dictionaries(st.integers(0, 70), ports | st.just(",".join(map(str, range(1, 2 * MAX_RANGES, 2))))))
def test_no_labels_keep_a_step_from_being_written(found: dict[int, str]) -> None:
    labels = {LINKS: ",".join(f"x{n}" for n in found)} | {f"linkwire.link.x{n}.ports": p for n, p in found.items()}
    check_record(labels)


def test_the_longest_labels_fit_a_record() -> None:
    names = [f"{n:03}" + "x" * 25 for n in range(1000)]
    key = "k" * 63
    most = ",".join(map(str, range(20_001, 20_001 + 2 * MAX_RANGES, 2)))
    labels = {LINKS: ",".join(f"{name}:{name}.{n:04}{'a' * 3}" for n, name in enumerate(names))}
    labels |= {f"linkwire.link.{name}.key": key for name in names}
    labels |= {f"linkwire.link.{name}.ports": most for name in names[: MAX_ALL_RANGES // MAX_RANGES + 1]}
    check_record(labels)


def test_many_short_port_lists_fit_a_record() -> None:
    labels = {LINKS: ",".join(f"x{n}" for n in range(900))}
    labels |= {f"linkwire.link.x{n}.ports": ",".join(map(str, range(1, 2 * MAX_RANGES, 2))) for n in range(900)}
    check_record(labels)


def check_record(labels: dict[str, str]) -> None:
    """What is read of labels makes a record that can be written, and that a node can bring back."""
    read, errors = decode(labels)
    store, world = fresh()
    world.add(replace(WEB, labels=read, label_errors=errors))
    (change,) = made_of(store, world).steps[1:] or (None,)
    if change is None:
        assert not read.links
        return
    assert isinstance(change, PlanStep)
    plan = packed([change], secret)
    assert not plan.problems
    (put,) = (op for op in change.ops if isinstance(op, Put) and isinstance(op.record, Service))
    assert len(codec.encode(put.record)) < MOST_OF_A_RECORD
