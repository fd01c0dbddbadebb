"""Tests of mesh.upkeep: garbage is found while there is time, and what stays is not looked at again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from mesh.upkeep import ALL_EVERY, EVERY_S, Upkeep


class Ring:
    """In a cycle: only a search frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def searched() -> Iterator[None]:
    """No search comes in between, and what was left out is looked at again."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def dropped() -> weakref.ref[Ring]:
    return weakref.ref(Ring())


def test_garbage_is_found_now_and_then() -> None:
    upkeep, garbage = Upkeep(), dropped()
    assert garbage() is not None
    upkeep.take(1000.0)
    assert garbage() is None
    garbage = dropped()
    upkeep.take(1000.0 + EVERY_S - 1)
    assert garbage() is not None, "not each time"
    upkeep.take(1000.0 + EVERY_S)
    assert garbage() is None


def test_what_stays_is_left_out_of_later_searches() -> None:
    stays = Ring()
    Upkeep().take(0.0)
    assert gc.is_tracked(stays)
    assert all(found is not stays for found in gc.get_objects())
    later = Ring()
    assert any(found is later for found in gc.get_objects())


def test_what_became_garbage_after_it_was_left_out_is_found_within_an_hour() -> None:
    upkeep, ring = Upkeep(), Ring()
    upkeep.take(0.0)
    garbage = weakref.ref(ring)
    del ring
    for turn in range(1, ALL_EVERY - 1):
        upkeep.take(turn * EVERY_S)
    assert garbage() is not None, "a search of everything is rare"
    upkeep.take((ALL_EVERY - 1) * EVERY_S)
    assert garbage() is None
