"""The start gate's files that cannot be removed: nothing of the gate raises, since the loop would end with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from agent.containers import start_gate


def test_stubborn_file_does_not_end_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_gate, "FOLDER", tmp_path)
    stubborn = tmp_path / "gate" / "ended"
    stubborn.mkdir(parents=True)  # unlink refuses it
    with structlog.testing.capture_logs() as logs:
        start_gate.drop_stale_files(())
    assert [entry["event"] for entry in logs] == ["start gate files not removed"]
    stubborn.rmdir()
    stubborn.touch()
    start_gate.drop_stale_files(())
    assert not stubborn.exists()
