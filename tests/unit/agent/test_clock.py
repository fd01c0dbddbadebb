"""What a node remembers of its wall clock, and which keys it asks to be replaced."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent.state.clock import BACK_S, FILE, Clock, WatchedClock


def test_keys_are_spent_by_clock_rollback_until_changed() -> None:
    one = Clock().at(1000, {"a": 0, "b": 3})
    assert one == Clock(1000, {})
    assert one.at(1000 - BACK_S, {"a": 0}) == one, "so little does no harm, and the latest stays"
    back = one.at(900, {"a": 0, "b": 3})
    assert back == Clock(900, {"a": 0, "b": 3})
    assert back.at(950, {"a": 0, "b": 3}) == Clock(950, {"a": 0, "b": 3}), "nobody has replaced them yet"
    assert back.at(950, {"a": 1, "b": 3, "c": 0}) == Clock(950, {"b": 3})
    assert back.at(950, {"a": 1}) == Clock(950, {})
    assert back.at(100, {"a": 1}) == Clock(100, {"a": 1}), "and once more"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the wall clock says: the last of it."""
    told = [1000.0]
    monkeypatch.setattr(time, "time", lambda: told[-1])
    return told


def test_it_is_remembered_over_restarts(tmp_path: Path, now: list[float]) -> None:
    first = WatchedClock(tmp_path)
    first.look({"a": 0})
    first.save()
    now.append(500.0)
    again = WatchedClock(tmp_path)
    assert again.spent == {}
    again.look({"a": 0, "b": 1})
    assert again.spent == {"a": 0, "b": 1}
    again.save()
    once_more = WatchedClock(tmp_path)
    once_more.look({"a": 1, "b": 1})
    assert once_more.spent == {"b": 1}
    once_more.save()
    assert json.loads((tmp_path / FILE).read_text()) == {"latest": 500.0, "spent": {"b": 1}}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"latest": "x", "spent": {}}', '{"latest": 9e9, "spent": [1]}'])
def test_unreadable_clock_file_means_a_new_node(tmp_path: Path, now: list[float], content: str) -> None:
    (tmp_path / FILE).write_text(content)
    watched = WatchedClock(tmp_path)
    watched.look({"a": 0})
    watched.save()
    assert watched.spent == {}
    assert json.loads((tmp_path / FILE).read_text())["latest"] == now[-1]
