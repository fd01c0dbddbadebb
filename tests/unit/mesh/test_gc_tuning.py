"""The search for garbage is held off while much is made, and for no longer; what becomes garbage is found."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from mesh.process.gc_tuning import ALL_EVERY, EVERY_S, IdleCollector, gc_paused


class Ring:
    """Refers to itself, so that only a search frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    gc.enable()
    gc.unfreeze()
    yield
    gc.enable()
    gc.unfreeze()


def test_collection_pauses_within_and_resumes_after() -> None:
    with gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_ends_it_too() -> None:
    with pytest.raises(ZeroDivisionError), gc_paused(lasting=True):
        raise ZeroDivisionError
    assert gc.isenabled()


def test_who_never_searches_is_not_made_to() -> None:
    gc.disable()
    with gc_paused():
        pass
    assert not gc.isenabled()


def test_it_lasts_until_the_last_of_several_threads() -> None:
    inside, go = threading.Event(), threading.Event()

    def other() -> None:
        with gc_paused():
            inside.set()
            go.wait(60)

    thread = threading.Thread(target=other)
    with gc_paused():
        thread.start()
        assert inside.wait(60)
    assert not gc.isenabled()
    go.set()
    thread.join()
    assert gc.isenabled()


def test_what_lasts_is_left_out_of_later_searches() -> None:
    with gc_paused():
        passing = Ring()
    with gc_paused(lasting=True):
        lasting = Ring()
    later = Ring()
    searched = {id(one) for one in gc.get_objects() if isinstance(one, Ring)}
    assert [id(one) in searched for one in (passing, lasting, later)] == [False, False, True]


def test_without_lasting_all_is_searched_as_ever() -> None:
    with gc_paused():
        gone = weakref.ref(Ring())
    gc.collect()
    assert gone() is None
    assert not gc.get_freeze_count()


def test_garbage_made_meanwhile_is_found_by_next_collection() -> None:
    with gc_paused(lasting=True):
        kept = Ring()
        gone = weakref.ref(kept)
        within = weakref.ref(Ring())
    del kept
    gc.collect()
    assert gone() is not None, "a search would have had to look at it"
    with gc_paused(lasting=True):
        assert gone() is None
        assert within() is None


@pytest.fixture
def no_search() -> None:
    """None comes in between."""
    gc.disable()


def dropped() -> weakref.ref[Ring]:
    return weakref.ref(Ring())


@pytest.mark.usefixtures("no_search")
def test_garbage_is_found_now_and_then() -> None:
    upkeep, garbage = IdleCollector(), dropped()
    assert garbage() is not None
    upkeep.collect(1000.0)
    assert garbage() is None
    garbage = dropped()
    upkeep.collect(1000.0 + EVERY_S - 1)
    assert garbage() is not None, "not each time"
    upkeep.collect(1000.0 + EVERY_S)
    assert garbage() is None


@pytest.mark.usefixtures("no_search")
def test_what_stays_is_left_out_of_later_searches() -> None:
    stays = Ring()
    IdleCollector().collect(0.0)
    assert gc.is_tracked(stays)
    assert all(found is not stays for found in gc.get_objects())
    later = Ring()
    assert any(found is later for found in gc.get_objects())


@pytest.mark.usefixtures("no_search")
def test_skipped_garbage_is_found_within_an_hour() -> None:
    upkeep, ring = IdleCollector(), Ring()
    upkeep.collect(0.0)
    garbage = weakref.ref(ring)
    del ring
    for turn in range(1, ALL_EVERY - 1):
        upkeep.collect(turn * EVERY_S)
    assert garbage() is not None, "a search of everything is rare"
    upkeep.collect((ALL_EVERY - 1) * EVERY_S)
    assert garbage() is None
