"""A world of namespaces for each test, ended after it; nothing of it may be left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.gate_machine import machine
from tests.netns.world import World, sweep, wait_until_nothing_is_left

__all__ = ["machine"]


@pytest.fixture(scope="session", autouse=True)
def _swept() -> None:
    sweep()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.close()
    assert wait_until_nothing_is_left() == []
