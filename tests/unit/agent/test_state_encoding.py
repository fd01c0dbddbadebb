"""The file in which a node keeps the values of its last verified state."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.state.state_encoding import addition, pack, unpack

KEYS = st.text(max_size=3)
VALUES = st.dictionaries(KEYS, st.binary(min_size=1, max_size=50), max_size=5)
CHANGES = st.dictionaries(KEYS, st.binary(max_size=50), max_size=5)


@given(VALUES, st.lists(CHANGES, max_size=4))
def test_what_is_written_is_read_again(values: dict[str, bytes], changes: list[dict[str, bytes]]) -> None:
    with contextlib.suppress(UnicodeEncodeError):  # half a character is no key of ours
        content, now = pack(values.items()), dict(values)
        assert dict(unpack(content)) == now
        for change in changes:
            content += addition(change.items())
            now |= change
            assert dict(unpack(content)) == {key: value for key, value in now.items() if value}


@given(VALUES, CHANGES, st.data())
def test_truncated_or_damaged_part_changes_nothing(
    values: dict[str, bytes], change: dict[str, bytes], data: st.DataObject
) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        whole, added = pack(values.items()), bytearray(addition(change.items()))
        left = bytes(added[: data.draw(st.integers(0, len(added) - 1))])
        assert dict(unpack(whole + left)) == values
        added[data.draw(st.integers(0, len(added) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        assert dict(unpack(whole + bytes(added))) == values
        with pytest.raises(ValueError, match=r"damaged|cut short"):
            unpack(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(VALUES, st.data())
def test_damage_is_an_error_or_values_never_crash(values: dict[str, bytes], data: st.DataObject) -> None:
    with contextlib.suppress(ValueError):  # which a UnicodeError is too
        content = bytearray(pack(values.items()))
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        list(unpack(bytes(content[: data.draw(st.integers(0, len(content)))])))


def test_length_of_thousands_of_digits_ends_reading() -> None:
    content = pack([("a", b"1")])
    assert dict(unpack(content + b"9" * 5000 + b" 00\n")) == {"a": b"1"}
