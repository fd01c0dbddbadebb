"""Tests of atomic_file: whatever of a write reaches the disk, the value or the one before it is read again."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.state.atomic_file import SLOT, drop_leftovers, read_newest, write, write_newest

SECTOR = 512


def number(value: bytes) -> int:
    return int.from_bytes(value[:4], "big")


def value(n: int, more: bytes = b"") -> bytes:
    return n.to_bytes(4, "big") + more


@given(
    st.lists(st.binary(max_size=600), min_size=2, max_size=6),
    st.sets(st.integers(0, 2 * SLOT // SECTOR - 1)),
    st.sets(st.integers(0, SLOT // SECTOR - 1)),
)
def test_interrupted_write_may_leave_any_part(written: list[bytes], reached: set[int], junk: set[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "value"
        for n, more in enumerate(written[:-1]):
            write_newest(path, value(n, more), number)
            assert read_newest(path, number) == value(n, more)
        before = path.read_bytes()
        last = value(len(written) - 1, written[-1])
        write_newest(path, last, number)
        assert read_newest(path, number) == last
        after = path.read_bytes()
        slot = next(at for at in (0, SLOT) if before[at : at + SLOT] != after[at : at + SLOT])
        assert before[SLOT - slot : 2 * SLOT - slot] == after[SLOT - slot : 2 * SLOT - slot], (
            "the other slot is whole"
        )
        torn = bytearray(before)
        for sector in reached:
            torn[sector * SECTOR : (sector + 1) * SECTOR] = after[sector * SECTOR : (sector + 1) * SECTOR]
        for sector in junk:
            torn[slot + sector * SECTOR : slot + (sector + 1) * SECTOR] = os.urandom(SECTOR)
        path.write_bytes(torn)
        assert read_newest(path, number) in {last, value(len(written) - 2, written[-2])}
        write_newest(path, value(99), number)
        assert read_newest(path, number) == value(99)


def test_it_is_overwritten_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "value"
    write_newest(path, value(0), number)
    made = path.stat()
    for n in range(1, 5):
        write_newest(path, value(n), number)
        assert path.stat().st_ino == made.st_ino
        assert read_newest(path, number) == value(n)
    assert stat.S_IMODE(made.st_mode) == 0o600
    assert made.st_size == path.stat().st_size == 2 * SLOT
    assert [p.name for p in tmp_path.iterdir()] == ["value"]


@pytest.mark.parametrize("content", [b"", value(7), bytes(2 * SLOT), bytes(3 * SLOT)])
def test_what_is_no_file_of_ours_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value"
    path.write_bytes(content)
    if content == bytes(2 * SLOT):
        with pytest.raises(ValueError, match="whole"):
            read_newest(path, number)
    else:
        assert read_newest(path, number) == content
    write_newest(path, value(8), number)
    assert read_newest(path, number) == value(8)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "value", tmp_path / "other"
    write_newest(other, value(1), number)
    path.symlink_to(other)
    write_newest(path, value(2), number)
    assert (read_newest(other, number), read_newest(path, number)) == (value(1), value(2))
    assert not path.is_symlink()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        write_newest(tmp_path / "value", bytes(SLOT), number)
    with pytest.raises(FileNotFoundError):
        write_newest(tmp_path / "none" / "value", value(1), number)
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "value", b"")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_unless_replaced(tmp_path: Path) -> None:
    path = tmp_path / "value"
    write(path, b"first", mode=0o640)
    write(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write(path, b"third")
    assert path.read_bytes() == b"third"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["value"]


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, *, fails: bool
) -> None:
    """Some file systems have no such call; on any other failure it is not known what outlives a power cut."""
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match=os.strerror(code)) if fails else contextlib.nullcontext():
        write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_leftovers_of_killed_processes_go_later(tmp_path: Path) -> None:
    write(tmp_path / "state", b"whole")
    lock = tmp_path / ".counter.lock"
    lock.touch()
    descriptor, left = tempfile.mkstemp(dir=tmp_path, prefix=".state.")
    os.close(descriptor)
    drop_leftovers(tmp_path)
    assert Path(left).exists(), "another agent may be writing it"
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    drop_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"state", lock.name}
    drop_leftovers(tmp_path / "none")
