"""State on a node's disk from which whole records were taken: each one is signed, the set is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from agent.desired_state import DesiredState
from agent.state import state_encoding
from agent.state.verified_state import VerifiedState
from mesh.crypto.hpke import NodeKey
from mesh.model.snapshot import Snapshot
from tests.unit.agent.test_verified_state import NEW, opened

if TYPE_CHECKING:
    from agent.wireguard.backend import Backend


@pytest.mark.parametrize("taken", [key for key in NEW if key != "manifest"])
def test_whole_records_of_no_whole_state(tmp_path: Path, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.state.verified_state.SAVE_S", 0.0)
    monkeypatch.setattr("agent.state.verified_state.ALONE_S", 0.0)
    state = VerifiedState(tmp_path)
    state.update(opened(NEW.items(), revision=9))
    state.save("n1")
    path = tmp_path / "state"
    kept = list(state_encoding.unpack(path.read_bytes()))
    for records, is_acted_on in ((kept, True), ([one for one in kept if one[0] != taken], False)):
        path.write_bytes(state_encoding.pack(records))
        again = VerifiedState(tmp_path)
        again.recover(opened)
        assert (again.update(Snapshot()) != Snapshot()) == is_acted_on


def test_state_that_disk_refused_is_saved_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nothing changes in the store: a node that loses its power then would wire nothing without one."""
    monkeypatch.setattr("agent.state.verified_state.SAVE_S", 0.0)
    state = VerifiedState(tmp_path)
    state.update(opened(NEW.items(), revision=9))
    path = tmp_path / "state"
    path.mkdir()
    state.save("n1")
    path.rmdir()
    state.save("n1")
    assert dict(state_encoding.unpack(path.read_bytes())).keys() == NEW.keys()


def test_manifest_that_disk_refused_is_tried_again(tmp_path: Path) -> None:
    """Of the same snapshot: nothing says that another one comes."""
    folder = tmp_path / "state"
    key, backend = NodeKey.generate(), SimpleNamespace()
    desired = DesiredState("n1", key, VerifiedState(folder), cast("Backend", backend))
    snapshot = opened(NEW.items(), revision=9)
    desired.update(snapshot, frozenset())
    assert not desired.graph.complete
    folder.mkdir()
    desired.update(snapshot, frozenset())
    assert desired.graph.complete
