"""Tests of mesh.model.changelog: what a log says of two states of a thing is never less than what differs in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.model.changelog import LOGGED, ChangeLog, Cursor

_Step = tuple[str, int]
_STEPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), max_size=60)


@given(_STEPS)
def test_changes_between_states_are_all_named_or_unknown(steps: list[_Step]) -> None:
    changes = ChangeLog[str]()
    thing: dict[str, int] = {}
    states: list[tuple[dict[str, int], Cursor[str]]] = [({}, changes.mark())]
    for name, value in steps:
        if value == 0 and thing.get(name) == 0:
            changes.restart()
        thing[name] = value
        changes.add([name], 0)
        states.append((dict(thing), changes.mark()))
    for now, (after, mark) in enumerate(states):
        for then, (before, seen) in enumerate(states):
            named = mark.since(seen)
            if named is None:
                continue
            assert then <= now, "of a later state nothing is known"
            assert {name for name in {**before, **after} if before.get(name) != after.get(name)} <= set(named)
            assert list(named) == [name for name, _ in steps[then:now]]


def test_history_is_limited_and_says_so() -> None:
    changes = ChangeLog[int]()
    first = changes.mark()
    for n in range(LOGGED * 3 + 1):
        changes.add([n], 2)
        assert changes.mark().since(first) == list(range(n + 1))
    changes.add([0], 2)
    assert changes.mark().since(first) is None
    assert changes.mark().since(ChangeLog[int]().mark()) is None


def test_a_restarted_log_knows_of_nothing_before() -> None:
    changes = ChangeLog[str]()
    changes.add("a", 9)
    seen = changes.mark()
    changes.restart()
    assert changes.mark().since(seen) is None
    assert seen.since(changes.mark()) is None
