"""Threads of the controller after an error that nobody thought of: they say so and go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from controller import election
from controller.swarm import docker_client
from mesh.model.snapshot import Snapshot
from tests.store.waiting import until


class EndedError(BaseException):
    """Ends a loop that has no end."""


def test_lead_is_won_after_an_odd_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "LOOK_S", 0.01)
    looks: list[object] = []

    def load(keys: object) -> Snapshot:
        looks.append(keys)
        if len(looks) == 1:
            raise ZeroDivisionError
        return Snapshot()

    store: Any = SimpleNamespace(load=load, commit=lambda _: 5)
    with structlog.testing.capture_logs() as logs:
        campaign = election.Election(store, "one", lambda: None)
        until(lambda: campaign.token)
        campaign.stop()
    assert [entry["event"] for entry in logs] == ["election crashed, retrying", "leadership won"]


def test_events_are_followed_after_an_odd_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def connect(*arguments: object) -> None:
        asked.append(arguments)
        raise EndedError if len(asked) > 1 else ZeroDivisionError

    monkeypatch.setattr(docker_client, "RECONNECT_S", 0.0)
    monkeypatch.setattr(docker_client, "connect", connect)
    with structlog.testing.capture_logs() as logs, pytest.raises(EndedError):
        docker_client.SwarmManager("unix:///nowhere")._follow(lambda _kind, _name: None)
    assert [entry["event"] for entry in logs] == ["following of swarm events crashed"]
