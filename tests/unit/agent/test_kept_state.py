"""State on a node's disk from which whole records were taken: each one is signed, the set is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.state import state_encoding
from agent.state.verified_state import VerifiedState
from mesh.model.snapshot import Snapshot
from tests.unit.agent.test_verified_state import NEW, opened


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
