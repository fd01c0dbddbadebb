"""What an agent acts on: the last verified state, and after a restart nothing older than it has seen."""

import stat
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import structlog

from agent.state.state_encoding import pack, unpack
from agent.state.verified_state import VerifiedState, followed, generation, remembered
from mesh.errors import Terminal
from mesh.model import keyspace
from mesh.model.snapshot import Snapshot
from mesh.store.follower import Batch, MaterializedView, RecordChange
from mesh.store.watch_stream import Ranges
from tests.support.signing import RECORD_SIGNER
from tests.unit.mesh.test_contents import CLUSTER, RECORDS, service, shown, values

NEW = values(*RECORDS, generation=7)
OLD = values(CLUSTER, generation=3)


def test_verified_state_holds_until_a_newer_verifies(tmp_path: Path) -> None:
    trust = VerifiedState(tmp_path)
    good, broken = shown(NEW), shown({key: raw for key, raw in NEW.items() if key != "services/a"})
    with structlog.testing.capture_logs() as logs:
        assert trust.update(good) is good
        assert not trust.held
        kept = trust.update(broken)
        assert (kept.records, kept.complete) == (good.records, False)
        assert trust.update(shown(dict(broken_values()))) is kept, "the same object, so that nothing is done anew"
        assert "services/a: gone" in trust.held
        later = shown(values(*RECORDS, service("c", 3), generation=8))
        assert trust.update(later) is later
        assert not trust.held
    assert [entry["event"] for entry in logs] == [
        "store content not acted on",
        "store content verified again",
    ]


def broken_values() -> dict[str, bytes]:
    return {key: raw for key, raw in NEW.items() if key != "services/a"}


def test_nothing_is_believed_before_something_was_verified(tmp_path: Path) -> None:
    trust = VerifiedState(tmp_path)
    assert trust.update(Snapshot()) == Snapshot()
    assert not trust.held, "nothing was read yet, which is no problem"
    assert trust.update(shown(broken_values())) == Snapshot()
    assert trust.held


def test_old_state_is_refused_after_restart_too(tmp_path: Path) -> None:
    old = shown(OLD)
    assert VerifiedState(tmp_path / "new").update(old) == Snapshot(), (
        "the folder is not there: nothing can be written down"
    )
    assert VerifiedState(tmp_path).update(old) is old, "who never saw a newer one believes it"
    VerifiedState(tmp_path).update(shown(NEW))
    again = VerifiedState(tmp_path)
    assert again.update(old) == Snapshot()
    assert "generation 3 after 7 was seen" in again.held
    assert again.update(shown(NEW)).records


def test_the_file(tmp_path: Path) -> None:
    assert remembered(tmp_path) == b""
    VerifiedState(tmp_path).update(shown(NEW))
    path = tmp_path / "manifest"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert remembered(tmp_path) == NEW["manifest"]
    assert generation(remembered(tmp_path)) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["manifest"]
    written = path.stat().st_mtime_ns
    VerifiedState(tmp_path).update(shown(NEW))
    assert path.stat().st_mtime_ns == written, "nothing new, nothing written"
    path.write_bytes(NEW["manifest"])
    assert remembered(tmp_path) == NEW["manifest"], "as it was written before"
    path.write_bytes(bytes(8192))
    with pytest.raises(Terminal, match="is damaged"):
        VerifiedState(tmp_path)
    path.write_bytes(b"junk")
    with pytest.raises(Terminal, match="is damaged"):
        VerifiedState(tmp_path)


def test_unwritable_state_is_not_acted_on(tmp_path: Path) -> None:
    trust = VerifiedState(tmp_path / "none")
    assert trust.update(shown(NEW)) == Snapshot()
    assert "cannot be written down" in trust.held
    assert is_unsaved(trust), "so it is tried again, though the store stays as it is"
    (tmp_path / "none").mkdir()
    assert trust.update(shown(NEW)).records
    assert not is_unsaved(trust)
    trust.update(shown(broken_values()))
    assert not is_unsaved(trust)


def is_unsaved(trust: VerifiedState) -> bool:
    return trust.is_unsaved


def opened(given: Iterable[tuple[str, bytes]], *, revision: int = 0) -> Snapshot:
    picture = MaterializedView(RECORD_SIGNER, with_raw=True)
    changes = [RecordChange(key.encode(), raw, revision) for key, raw in given]
    picture.replace(Batch(revision, whole=True, changes=changes))
    return picture.snapshot(complete=True)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a node that has verified a state and kept it."""
    monkeypatch.setattr("agent.state.verified_state.SAVE_S", 0.0)
    monkeypatch.setattr("agent.state.verified_state.ALONE_S", 0.0)
    trust = VerifiedState(tmp_path)
    trust.update(opened(NEW.items(), revision=9))
    trust.save("n1")
    return tmp_path


def test_without_store_known_tasks_stay_and_nothing_goes(kept: Path) -> None:
    again = VerifiedState(kept)
    assert again.update(Snapshot()) == Snapshot(), "it has not read what was kept"
    again.recover(opened)
    found = again.update(Snapshot())
    assert {key: one.record for key, one in found.records.items()} == {
        key: one.record for key, one in opened(NEW.items()).records.items()
    }
    assert not found.complete
    newer = opened(values(*RECORDS, service("c", 3), generation=8).items(), revision=10)
    assert again.update(newer) is newer


def test_changes_are_appended_and_sometimes_rewritten_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.state.verified_state.SAVE_S", 0.0)
    trust, picture, path = VerifiedState(tmp_path), MaterializedView(RECORD_SIGNER, with_raw=True), tmp_path / "state"
    now: dict[str, bytes] = {}
    sizes, files = [], []
    for turn in range(40):
        records = [*RECORDS, *(service(f"s{n}", n + 3) for n in range(turn % 3))]
        wanted = values(*records, generation=turn + 1)
        changes = [RecordChange(key.encode(), raw, turn + 1) for key, raw in wanted.items() if now.get(key) != raw]
        changes += [RecordChange(key.encode(), None, turn + 1) for key in now.keys() - wanted.keys()]
        now = wanted
        batch = Batch(turn + 1, whole=not turn, changes=changes)
        if turn:
            picture.apply(batch)
        else:
            picture.replace(batch)
        snapshot = picture.snapshot(complete=True)
        assert trust.update(snapshot) is snapshot
        if turn == 30:
            path.unlink()
        elif turn == 33:
            path.write_bytes(path.read_bytes() + b"cut short")
        trust.save("n1")
        assert dict(unpack(path.read_bytes())) == now
        sizes.append(path.stat().st_size)
        files.append(path.stat().st_ino)
    turns = list(pairwise(zip(sizes, files, strict=True)))[:29]  # before it is meddled with
    appended = [later > before for (before, file), (later, same) in turns if file == same]
    assert all(appended)
    assert 2 <= len(turns) - len(appended) < len(appended), "all of it is written anew now and then, and seldom"
    assert max(sizes) < 4 * len(pack(now.items()))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("state")] == ["state"]


def test_emptied_or_forged_store_takes_nothing_away(kept: Path) -> None:
    for given in ({}, broken_values()):
        again = VerifiedState(kept)
        again.recover(opened)
        assert again.update(opened(given.items(), revision=3)).records
        assert again.held


def test_saved_state_is_read_once_as_last_resort(kept: Path) -> None:
    read: list[int] = []

    def counted(given: Iterable[tuple[str, bytes]]) -> Snapshot:
        read.append(1)
        return opened(given)

    again = VerifiedState(kept)
    again.recover(counted)
    good = opened(NEW.items(), revision=9)
    assert again.update(good) is good
    assert again.update(opened({}.items(), revision=10)).records == good.records
    assert not read, "the store had it"
    (kept / "state").write_bytes(b"junk")
    damaged = VerifiedState(kept)
    damaged.recover(counted)
    with structlog.testing.capture_logs() as logs:
        assert [damaged.update(Snapshot()) for _ in range(3)] == [Snapshot()] * 3
    assert [entry["event"] for entry in logs] == ["verified state not read"]


def test_store_gets_time_to_answer_at_first(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.state.verified_state.ALONE_S", 60.0)
    again = VerifiedState(kept)
    again.recover(opened)
    assert again.update(Snapshot()) == Snapshot()


@pytest.mark.parametrize("how", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"x", lambda _: b"junk", lambda _: b""])
def test_state_damaged_on_disk_is_not_acted_on(kept: Path, how: Callable[[bytes], bytes]) -> None:
    path = kept / "state"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(how(path.read_bytes()))
    again = VerifiedState(kept)
    again.recover(opened)
    assert again.update(Snapshot()) == Snapshot()


def test_agents_follow_all_that_is_covered() -> None:
    """What the manifest covers and an agent does not read would be missing in its set: it would hold its state."""
    covered = {keyspace.prefix(kind) for kind in keyspace.KINDS.values() if kind.COVERED}
    assert covered <= set(followed("n"))


def test_no_task_of_others_wakes_an_agent() -> None:
    """One watch spans all that is followed; what it spans beyond that is received for nothing."""
    first, end = Ranges.of(b"/", [name.encode() for name in followed("0")]).span()
    for key in (keyspace.TENURE, keyspace.report("zzzz", "t"), keyspace.told("n", "m")):
        assert not first <= b"/" + key.encode() < end
