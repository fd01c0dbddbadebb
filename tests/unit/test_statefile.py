"""The file in which a node keeps the values of its last verified state."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from agent.statefile import pack, unpack

VALUES = st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=50)), max_size=5)


@given(VALUES)
def test_what_is_written_is_read_again(values: list[tuple[str, bytes]]) -> None:
    with contextlib.suppress(UnicodeEncodeError):  # half a character is no key of ours
        assert list(unpack(pack(values))) == values


@given(VALUES, st.data())
def test_what_is_damaged_is_an_error_or_other_values_but_never_a_crash(
    values: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    with contextlib.suppress(ValueError):  # which a UnicodeError is too
        content = bytearray(pack(values))
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        list(unpack(bytes(content[: data.draw(st.integers(0, len(content)))])))
