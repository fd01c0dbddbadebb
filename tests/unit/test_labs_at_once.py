"""Labs that come up and go at one time: what they share of the machine is there for as long as one is."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.lab import lab, layout

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ROUNDS = 300


def test_labs_at_once_share_dockers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    for module in (lab, layout):
        monkeypatch.setattr(module, "STATE", tmp_path / "labs")
    monkeypatch.setattr(lab, "DOCKER_FOLDER", docker)

    def come_and_go(name: str) -> int:
        found = 0
        for _ in range(ROUNDS):
            one = lab.Lab(name)
            with one._locked():
                one._record()
                found += docker.is_dir()
                shutil.rmtree(one.layout.root)
                one._leave_machine()
        return found

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(come_and_go, ("a", "b", "c"))) == [ROUNDS] * 3
    assert not docker.exists()
    assert not (tmp_path / "labs").exists()
