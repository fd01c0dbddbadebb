from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import names
from agent.errors import HostsFileMissing
from mesh.errors import Terminal
from mesh.wgtypes import HostEntry

DB = HostEntry(ip_address("10.99.0.3"), ("db", "database"))
CACHE = HostEntry(ip_address("fd00:99::4"), ("cache",))
BLOCK = "# linkwire begin\n10.99.0.3 db database # linkwire\nfd00:99::4 cache # linkwire\n# linkwire end\n"
DOCKERS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n172.17.0.2\t0123456789ab\n"

label = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
entries = st.lists(
    st.builds(HostEntry, st.ip_addresses(), st.lists(label, min_size=1, max_size=3).map(tuple)), max_size=5
)
foreign_line = st.binary(max_size=40).filter(lambda line: b"\n" not in line and not names._is_ours(line))
foreign = st.builds(
    lambda lines, end: b"".join(line + b"\n" for line in lines) + end, st.lists(foreign_line), foreign_line
)


@pytest.mark.parametrize(
    ("given_entries", "text"), [((DB, CACHE), BLOCK), ((), ""), ((HostEntry(DB.address, ()),), "")]
)
def test_render(given_entries: tuple[HostEntry, ...], text: str) -> None:
    assert names.render(given_entries) == text


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\n10.0.0.1 bank", "a#b", "\x00"])
def test_a_name_that_would_break_out_of_its_line_is_refused(name: str) -> None:
    with pytest.raises(Terminal, match="cannot be a name"):
        names.render([HostEntry(DB.address, (name,))])


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (DOCKERS, DOCKERS),
        (b"", b""),
        (b"\n\n", b"\n\n"),
        (b"no newline", b"no newline"),
        (BLOCK.encode() + DOCKERS, DOCKERS),
        (DOCKERS + BLOCK.encode(), DOCKERS),
        (BLOCK.encode() + DOCKERS + BLOCK.encode(), DOCKERS),
        (b"# linkwire begin\n" + DOCKERS, DOCKERS),  # cut
        (DOCKERS + b"10.99.0.9 old # linkwire\n# linkwire end\n", DOCKERS),
        (b"# linkwire begin\n1.2.3.4\tmine\n# linkwire end\n", b"1.2.3.4\tmine\n"),  # somebody's, in our block
        (b"1.2.3.4 # linkwire begin here\n", b"1.2.3.4 # linkwire begin here\n"),
        (b"a\x0bb\x85c\r\n", b"a\x0bb\x85c\r\n"),
        (b"a\r# linkwire begin\n", b"a\r# linkwire begin\n"),  # one line: only a newline ends one
    ],
)
def test_only_our_lines_are_touched(content: bytes, left: bytes) -> None:
    assert names.merge(content, ()) == left
    assert names.merge(content, (DB, CACHE)) == BLOCK.encode() + left


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (DOCKERS, None),
        (BLOCK.encode(), (DB, CACHE)),
        (DOCKERS + BLOCK.encode() + DOCKERS, (DB, CACHE)),
        (b"# linkwire begin\n", ()),
        (b"# linkwire begin\nnonsense # linkwire\n# linkwire end\n", ()),
        (b"# linkwire begin\n10.99.0.3 db # linkwire\n", ()),
        (b"10.99.0.3 db # linkwire\n", ()),
        (b"# linkwire begin\n10.99.0.3  db # linkwire\n# linkwire end\n", ()),
        (b"# linkwire begin\n10.99.0.3 \xff # linkwire\n# linkwire end\n", ()),
        (BLOCK.encode() * 2, ()),
    ],
)
def test_parse(content: bytes, seen: tuple[HostEntry, ...] | None) -> None:
    assert names.parse(content) == seen


@given(foreign, entries, entries)
def test_whatever_is_written_the_foreign_lines_stay_and_the_last_block_is_read_back(
    content: bytes, first: list[HostEntry], second: list[HostEntry]
) -> None:
    written = names.merge(names.merge(content, first), second)
    assert names.parse(written) == (tuple(second) or None)
    assert names.merge(written, second) == written
    assert names.merge(written, ()) == content


def test_written_in_place_and_only_when_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(DOCKERS)
    inode = path.stat().st_ino
    assert names.read(str(path)) is None
    assert names.write(str(path), (DB, CACHE))
    assert names.read(str(path)) == (DB, CACHE)
    os.utime(path, (0, 0))
    assert not names.write(str(path), (DB, CACHE))
    assert path.stat().st_mtime == 0
    assert names.write(str(path), (DB,))
    assert names.write(str(path), ())
    assert path.read_bytes() == DOCKERS
    assert path.stat().st_ino == inode


def test_a_crash_before_the_file_is_cut_to_length_leaves_blank_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(BLOCK.encode() + DOCKERS)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", crash)
        with pytest.raises(KeyboardInterrupt):
            names.write(str(path), (DB,))
    assert path.read_bytes().rstrip(b"\n") + b"\n" == names.merge(DOCKERS, (DB,))
    assert names.read(str(path)) == (DB,)


def test_docker_deleting_a_name_of_its_own_does_not_take_ours() -> None:
    # libnetwork's etchosts.Delete drops each line that ends in a tab and the name.
    assert not any(
        line.endswith(b"\tdb") for line in names.merge(DOCKERS, [HostEntry(DB.address, ("db",))]).split(b"\n")
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "hosts", tmp_path / "no" / "hosts"):
        with pytest.raises(HostsFileMissing, match="there is no hosts file"):
            names.read(str(path))
        with pytest.raises(HostsFileMissing):
            names.write(str(path), (DB,))


def test_what_a_container_may_have_put_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious\n")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(names._MAX_BYTES + 1))
    for name in ("link", "pipe", "large"):
        with pytest.raises(Terminal):
            names.write(str(tmp_path / name), (DB,))
    assert (tmp_path / "target").read_bytes() == b"precious\n"
