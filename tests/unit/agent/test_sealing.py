"""The node's sealing key: made once, whole or not at all, for root alone."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from agent.state.key_file import NODE_KEY_FILE as FILE
from agent.state.key_file import load_or_make_node_key as load_or_make
from mesh.crypto.hpke import NodeKey, seal, unseal
from mesh.errors import Terminal


def test_it_is_made_once_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "linkwire"
    key = load_or_make(folder)
    assert load_or_make(folder) == key
    assert unseal(seal(b"secret", key.public, b"test"), load_or_make(folder), b"test") == b"secret"
    assert load_or_make(tmp_path / "other") != key


def test_key_file_is_owner_readable_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    before = os.umask(0)
    try:
        load_or_make(folder)
    finally:
        os.umask(before)
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 31, b"secret words that are no key at all", b"x" * 64, b"linkwire node key 1\n" + b"x" * 31],
)
def test_malformed_key_file_is_refused_named_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).touch(0o600)
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(Terminal) as caught:
        load_or_make(tmp_path)
    assert f"{tmp_path / FILE} is not a sealing key of this version; remove it" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o601])
def test_key_readable_by_others_is_unused(tmp_path: Path, mode: int) -> None:
    load_or_make(tmp_path)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(Terminal, match=rf"sealing key .* may be read by others \(mode {mode:04o}\): remove it"):
        load_or_make(tmp_path)


def test_unusable_folder_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Terminal, match=r"the node's sealing key .*: Not a directory"):
        load_or_make(tmp_path / "file" / "state")
    (tmp_path / FILE).mkdir()
    with pytest.raises(Terminal, match=r"the node's sealing key .*: Is a directory"):
        load_or_make(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_failed_write_leaves_no_key_next_run_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(Terminal, match="No space left on device"):
            load_or_make(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert load_or_make(tmp_path) == load_or_make(tmp_path)


def test_many_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    for run in range(20):
        folder = tmp_path / str(run)
        keys: list[NodeKey | Terminal] = []
        start = threading.Barrier(8)

        def one(
            folder: Path = folder, start: threading.Barrier = start, keys: list[NodeKey | Terminal] = keys
        ) -> None:
            start.wait()
            try:
                keys.append(load_or_make(folder))
            except Terminal as error:
                keys.append(error)

        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(keys) == {load_or_make(folder)}
        assert [path.name for path in folder.iterdir()] == [FILE]
