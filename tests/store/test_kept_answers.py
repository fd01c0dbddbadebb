"""Answers about links, asked of a real store: what an agent keeps between two of them, and for how long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.queries import answers as answers_module
from agent.queries.server import encoded
from mesh.model import keyspace
from mesh.model.pair_columns import with_pairs
from tests.bench.links import Swarm
from tests.store.waiting import until

TASKS = 20


def told(swarm: Swarm, **query: object) -> list[dict[str, Any]]:
    """The pairs of all links, without what passes with time."""
    (document,) = swarm.answers.links(query)
    read: dict[str, Any] = json.loads(encoded(document))
    read = with_pairs(read) if "measured" in read else read
    return [pair | {"as_of": None} for link in read["links"] for pair in link["pairs"]]


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    with Swarm(TASKS, tmp_path) as made:
        yield made


def test_new_readings_are_told_at_once(swarm: Swarm) -> None:
    swarm.read()
    first = told(swarm, columns=True)
    assert first == told(swarm, columns=True) == told(swarm)
    assert {pair["state"] for pair in first} <= {"connected", "idle"}
    swarm.read(1)
    second = told(swarm, columns=True)
    assert second == told(swarm)
    changed = {one["consumer_node"] for one, other in zip(first, second, strict=True) if one != other}
    assert len(changed) == 1, "one node has read its devices again"


def test_kept_views_are_forgotten_when_nobody_asks(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "FORGOTTEN_S", 0.5)
    swarm.read()
    first = told(swarm, columns=True)
    assert any(key.startswith(keyspace.VIEWS) for key in swarm.answers.kept)
    until(lambda: not any(key.startswith(keyspace.VIEWS) for key in swarm.answers.kept))
    assert told(swarm, columns=True) == first


def test_no_more_views_are_kept_than_allowed(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "KEPT_BYTES", 2000)
    swarm.read()
    first = told(swarm, columns=True)
    kept = [each.raw or b"" for key, each in swarm.answers.kept.items() if key.startswith(keyspace.VIEWS)]
    assert sum(map(len, kept)) <= 2000
    assert told(swarm, columns=True) == first
