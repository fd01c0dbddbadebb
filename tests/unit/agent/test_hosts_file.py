from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import HostsFileMissingError
from agent.linux import hosts_file
from mesh.errors import Terminal
from mesh.topology.wgtypes import HostEntry, resolved

DB = HostEntry(ip_address("10.99.0.3"), ("db", "database"))
CACHE = HostEntry(ip_address("fd00:99::4"), ("cache",))
BLOCK = "# linkwire begin\n10.99.0.3 db database # linkwire\nfd00:99::4 cache # linkwire\n# linkwire end\n"
"""As earlier versions wrote it."""
DOCKERS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n172.17.0.2\t0123456789ab\n"

label = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
entries = st.lists(
    st.builds(HostEntry, st.ip_addresses(), st.lists(label, min_size=1, max_size=3).map(tuple)), max_size=5
)
foreign_line = st.binary(max_size=40).filter(lambda line: b"\n" not in line and not hosts_file._is_ours(line))
foreign = st.builds(
    lambda lines, end: b"".join(line + b"\n" for line in lines) + end, st.lists(foreign_line), foreign_line
)


def after(content: bytes, meant: Iterable[HostEntry]) -> bytes:
    return hosts_file.applied(content, hosts_file.changes(content, meant))


def others(content: bytes) -> bytes:
    """All that is not ours."""
    return b"".join(line for line in content.splitlines(keepends=True) if not hosts_file._is_ours(line))


def seen_by(content: bytes) -> list[tuple[str, ...]]:
    """The lines as a resolver takes them (hosts(5))."""
    lines = (line.partition(b"#")[0].split() for line in content.split(b"\n"))
    return [tuple(word.decode(errors="replace") for word in words) for words in lines if len(words) > 1]


def readings(states: Sequence[bytes], piece: int) -> Iterator[bytes]:
    """All that a reader in pieces can get while the file goes through these states."""
    left: list[tuple[int, bytes]] = [(0, b"")]
    known = set(left)
    while left:
        state, got = left.pop()
        for later in range(state, len(states)):
            more = states[later][len(got) : len(got) + piece]
            if not more:
                yield got
            elif (following := (later, got + more)) not in known:
                known.add(following)
                left.append(following)


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\n10.0.0.1 bank", "a#b", "\x00"])
def test_name_breaking_out_of_its_line_is_refused(name: str) -> None:
    with pytest.raises(Terminal, match="cannot be a name"):
        hosts_file.changes(b"", [HostEntry(DB.address, (name,))])


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
    for meant in ((DB, CACHE), ()):
        written = after(content, meant)
        assert b"".join(line for line in hosts_file._split(written) if not hosts_file._is_ours(line)) == left
        assert (hosts_file.parse(written) or ()) == meant


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (DOCKERS, None),
        (BLOCK.encode(), (DB, CACHE)),
        (DOCKERS + BLOCK.encode() + DOCKERS, (DB, CACHE)),
        (b"# linkwire begin\n", ()),
        (b"#                 # linkwire\n", ()),
        (b"nonsense # linkwire\n" + BLOCK.encode(), ()),
        (b"10.99.0.3       db database # linkwire\n", (DB,)),
        (b"10.99.0.3 \xff # linkwire\n", ()),
        (b"10.99.0.3 # linkwire\n", ()),
        (b"#0.99.0.3 db # linkwire\n", ()),
    ],
)
def test_parse(content: bytes, seen: tuple[HostEntry, ...] | None) -> None:
    assert hosts_file.parse(content) == seen


@given(foreign, st.lists(entries, min_size=1, max_size=6))
def test_one_comment_says_what_the_lines_are(content: bytes, meant: list[list[HostEntry]]) -> None:
    """It is not taken for room when links come and go; in a file of Docker's it stands before every name."""
    whole = DOCKERS + b"fe00::\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"  # as Docker writes it
    content, dockers = after(content, [DB]), after(whole, [DB])
    for one in meant:
        content, dockers = after(content, one), after(dockers, one)
        assert content.count(hosts_file._NOTE) == dockers.count(hosts_file._NOTE) == 1
        assert seen_by(dockers.partition(hosts_file._NOTE)[0]) == []


@given(foreign, entries, entries)
def test_foreign_lines_stay_and_last_names_read_back(
    content: bytes, first: list[HostEntry], second: list[HostEntry]
) -> None:
    written = after(after(content, first), second)
    assert resolved(hosts_file.parse(written)) == resolved(second)
    assert hosts_file.changes(written, second) == ()
    left = b"".join(line for line in hosts_file._split(written) if not hosts_file._is_ours(line))
    assert left in (content, content + b"\n" if content[-1:] != b"\n" else content)


def test_musl_reads_lines_of_however_many_names() -> None:
    many = HostEntry(DB.address, tuple(f"a-name-of-some-length-{number}" for number in range(200)))
    written = after(DOCKERS, [many])
    assert max(map(len, written.split(b"\n"))) < 512
    assert resolved(hosts_file.parse(written)) == resolved([many])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2500), st.lists(entries, min_size=1, max_size=3), st.sampled_from((1024, 4096)), st.booleans())
def test_piecewise_reader_misses_and_invents_no_name(
    length: int, meant: list[list[HostEntry]], piece: int, starts_as_before: bool
) -> None:
    """Every order in which its reads can fall between the writes is tried."""
    line = b"172.17.0.2\tsomebody-else\n"
    content = DOCKERS + line * (length // len(line))
    if starts_as_before:
        content = BLOCK.encode() + content
    docker_says = set(seen_by(DOCKERS))
    for one in meant:
        states = [content]
        for change in hosts_file.changes(content, one):
            states.append(hosts_file.applied(states[-1], [change]))
        old, new = resolved(hosts_file.parse(states[0])), resolved(hosts_file.parse(states[-1]))
        known = {(name, str(address)) for name, address in old | new}
        stays = {name for name, _ in old} & {name for name, _ in new}
        for got in readings(states, piece):
            lines = seen_by(got)
            assert docker_says <= set(lines)
            ours = {(name, address) for address, *found in lines for name in found} - {
                (name, address) for address, *found in {*docker_says, *seen_by(line)} for name in found
            }
            assert ours <= known
            assert stays <= {name for name, _ in ours}
        content = states[-1]


def test_written_in_place_and_only_when_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(DOCKERS)
    inode = path.stat().st_ino
    assert hosts_file.read(str(path)) is None
    assert hosts_file.write(str(path), (DB, CACHE))
    assert hosts_file.read(str(path)) == (DB, CACHE)
    length = path.stat().st_size
    os.utime(path, (0, 0))
    assert not hosts_file.write(str(path), (DB, CACHE))
    assert path.stat().st_mtime == 0
    assert hosts_file.write(str(path), (HostEntry(ip_address("10.255.255.255"), DB.names), CACHE))
    assert hosts_file.write(str(path), (DB,))
    assert hosts_file.write(str(path), ())
    assert others(path.read_bytes()) == DOCKERS
    assert (path.stat().st_ino, path.stat().st_size) == (inode, length)


def test_the_comments_that_gather_are_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(DOCKERS)
    lengths = []
    for number in range(2000):
        hosts_file.write(str(path), (HostEntry(DB.address, ("db", f"name-{number}")),))
        lengths.append(path.stat().st_size)
    assert hosts_file.read(str(path)) == (HostEntry(DB.address, ("db", "name-1999")),)
    assert hosts_file._MAX_GATHERED / 2 < max(lengths) < 2 * hosts_file._MAX_GATHERED
    assert any(after < before for before, after in itertools.pairwise(lengths))
    assert others(path.read_bytes()) == DOCKERS


def test_docker_deleting_its_name_keeps_ours() -> None:
    # libnetwork's etchosts.Delete drops each line that ends in a tab and the name.
    written = after(DOCKERS, [HostEntry(DB.address, ("db",))])
    assert not any(line.endswith(b"\tdb") for line in written.split(b"\n"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "hosts", tmp_path / "no" / "hosts"):
        with pytest.raises(HostsFileMissingError, match="there is no hosts file"):
            hosts_file.read(str(path))
        with pytest.raises(HostsFileMissingError):
            hosts_file.write(str(path), (DB,))


def test_file_replaced_by_container_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious\n")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(hosts_file._MAX_BYTES + 1))
    for name in ("link", "pipe", "large"):
        with pytest.raises(Terminal):
            hosts_file.write(str(tmp_path / name), (DB,))
    assert (tmp_path / "target").read_bytes() == b"precious\n"


def test_file_full_of_our_lines_clears_at_once() -> None:
    """Quadratic work on what a container may write would keep its node's agent from everybody else."""
    content = b":: a # linkwire\n" * (hosts_file._MAX_BYTES // 16)
    entry = HostEntry(ip_address("100.96.0.9"), ("db",))
    made = hosts_file.changes(content, [entry])
    assert hosts_file.parse(hosts_file.applied(content, made)) == (entry,)
