"""Our decoder of etcd's answers against etcd3's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import mesh.store.etcd_channel  # noqa: F401 - has etcd3 use the implementation of protobuf that it works with
from mesh.store.range_response import Header, KeyValue, Page, decode

from etcd3 import etcdrpc  # isort: skip

UINT64 = st.integers(0, 2**64 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(st.binary(max_size=300), st.integers(100, 20_000).map(bytes))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """One of etcd's; sometimes with fields that nobody knows, or that come in several parts."""
    answer: Any = etcdrpc.RangeResponse()
    for name in draw(st.sets(st.sampled_from(("cluster_id", "member_id", "raft_term")))):
        setattr(answer.header, name, draw(UINT64))
    if draw(st.booleans()):
        answer.header.revision = draw(INT64)
    answer.more, answer.count = draw(st.booleans()), draw(INT64)
    for _ in range(draw(st.integers(0, 4))):
        numbers = draw(st.lists(INT64, min_size=4, max_size=4))
        names = ("create_revision", "mod_revision", "version", "lease")
        answer.kvs.add(key=draw(VALUES), value=draw(VALUES), **dict(zip(names, numbers, strict=True)))
    unknown = draw(st.sampled_from((b"", b"\x7d1234", b"\x7912345678", b"\x7a\x02ab", b"\x78\xff\x01", b"\x10\x07")))
    parts = [answer.SerializeToString(), unknown]
    if draw(st.booleans()):
        parts.append(draw(answers()))
    return b"".join(parts)


def as_etcd3_reads(data: bytes) -> Page:
    read: Any = etcdrpc.RangeResponse.FromString(data)
    header = read.header
    kvs = tuple(KeyValue(kv.key, kv.value, kv.mod_revision) for kv in read.kvs)
    return Page(Header(header.cluster_id, header.member_id, header.revision, header.raft_term), kvs, read.more)


@given(answers())
@example(b"")
def test_it_reads_what_etcd3_reads(data: bytes) -> None:
    assert decode(data) == as_etcd3_reads(data)


@given(answers(), st.data())
def test_corrupted_page_is_refused_or_read_like_etcd3(data: bytes, choose: st.DataObject) -> None:
    at = choose.draw(st.integers(0, len(data)))
    if choose.draw(st.booleans()):
        broken = data[:at]
    else:
        broken = data[:at] + choose.draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]
    try:
        theirs: Page | None = as_etcd3_reads(broken)
    except Exception:  # noqa: BLE001 - whatever it raises, it does not read it
        theirs = None
    try:
        ours = decode(broken)
    except ValueError:
        return
    assert theirs is None or ours == theirs


@pytest.mark.parametrize(
    "data",
    [
        b"\x12",  # a key without a length
        b"\x12\x05\x0a\x01",  # shorter than it says
        b"\x12\x02\x0a\x05abcde",  # a key that goes on after its record
        b"\x12\x02\x18\xff\x18\x01",  # likewise a number
        b"\x0a\x02\x18\xff\x01",
        b"\x18" + b"\xff" * 11,  # a number without an end
        b"\x00\x00",  # a field without a number
        b"\x13",  # a group, of which there has been none for long
        b"\x12\x01\x1b",
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="malformed answer of etcd"):
        decode(data)
