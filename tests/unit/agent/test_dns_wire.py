"""DNS messages: what is read of a question, and what its answer says, held against Python's own reading of it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dns import wire
from agent.dns.wire import Rcode
from tests.netns.resolvers import addresses, question, rcode

labels = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=1, max_size=20)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)
kinds = st.sampled_from((1, 28, 15, 33, 65, 255))
V4 = [IPv4Address("10.1.0.1"), IPv4Address("10.1.0.2")]
V6 = [IPv6Address("fd12::1")]


@given(names, kinds, st.integers(0, 65535), st.sampled_from((None, 0, 1)))
def test_a_question_is_read_as_it_was_put(name: str, kind: int, identifier: int, edns: int | None) -> None:
    read = wire.parse(question(name, kind, identifier=identifier, edns=edns))
    assert read is not None
    assert (read.name, read.kind, read.id, read.edns) == (name.lower(), kind, identifier, edns)
    assert read.room == (512 if edns is None else 1232)
    encoded = wire.encoded(name)
    assert encoded is not None
    assert read.raw == encoded + b"\0" + struct.pack(">HH", kind, 1)


@given(st.binary(max_size=600))
def test_any_message_is_parsed_or_rejected(message: bytes) -> None:
    read = wire.parse(message)
    if read is not None:
        answer = wire.answer(read, Rcode.NO_ERROR, [*V4, *V6], 5)
        assert answer[:2] == message[:2]
        assert len(answer) <= 1232


@given(st.data(), names)
def test_a_broken_question_is_read_or_is_none(data: st.DataObject, name: str) -> None:
    """Bytes of a true one changed, cut and added: nothing but the reading may come of it."""
    message = bytearray(question(name, edns=0))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))]) + data.draw(st.binary(max_size=20))
    read = wire.parse(cut)
    if read is not None:
        wire.answer(read, Rcode.NO_ERROR, [*V4, *V6], 5)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (1, ["10.1.0.1", "10.1.0.2"]),
        (28, ["fd12::1"]),
        (255, ["10.1.0.1", "10.1.0.2", "fd12::1"]),
        (15, []),
        (65, []),
    ],
)
def test_answer_has_addresses_of_the_asked_family(kind: int, found: list[str]) -> None:
    read = wire.parse(question("dB", kind, edns=0))
    assert read is not None
    answer = wire.answer(read, Rcode.NO_ERROR, [*V4, *V6], 5)
    assert addresses(answer) == found
    assert rcode(answer) == 0
    flags, questions, count, authorities, extra = struct.unpack_from(">5H", answer, 2)
    assert flags == 0x8580, "an answer, of one who knows, that recursion was wanted for and can be had"
    assert (questions, count, authorities, extra) == (1, len(found), 0, 1)
    assert answer[12:16] == b"\x02dB\0", "with the case of the question: some compare it (0x20)"


def test_oversized_answer_is_cut_to_what_fits() -> None:
    many = [IPv4Address("10.1.0.0") + n for n in range(1000)]
    for edns, most in ((None, 512), (0, 1232)):
        read = wire.parse(question("db", edns=edns))
        assert read is not None
        answer = wire.answer(read, Rcode.NO_ERROR, many, 5)
        assert most - 16 < len(answer) <= most
        assert addresses(answer) == [str(one) for one in many[: len(addresses(answer))]]
        assert not answer[2] & 2, "truncated would mean: ask by TCP"


def test_other_edns_version_and_class_are_refused() -> None:
    read = wire.parse(question("db", edns=1))
    assert read is not None
    answer = wire.answer(read, Rcode.NO_ERROR, V4, 5)
    assert (rcode(answer), addresses(answer)) == (0, [])
    assert answer[-6] == 1, "BADVERS is 16: its upper bits stand in the OPT record (RFC 6891, 6.1.3)"
    chaos = question("db")[:-2] + b"\0\3"
    read = wire.parse(chaos)
    assert read is not None
    assert rcode(wire.answer(read, Rcode.NO_ERROR, V4, 5)) == 5


@pytest.mark.parametrize("name", ["", "a..b", ".a", "x" * 64, ".".join(["abcdefg"] * 33), "übung"])
def test_name_too_long_for_questions_has_no_encoding(name: str) -> None:
    assert wire.encoded(name) is None


def test_dot_inside_a_label_is_no_separator() -> None:
    read = wire.parse(question("x")[:12] + b"\x04a.db\0\0\1\0\1")
    assert read is not None
    assert read.name == "a\\.db"
