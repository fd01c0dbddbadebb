"""Certificates in generations: in every step, and in whatever order Swarm carries it out, nobody refuses anybody."""

from __future__ import annotations

import itertools

import pytest

from compose_ext.secrets.etcd_certificates import State, following, settled, without_surplus


def steps(state: State, wanted: int, *, drop: bool = False, several: bool = False) -> list[State]:
    found = [state]
    while (state := following(found[-1], wanted, drop=drop, several=several) or found[-1]) != found[-1]:
        found.append(state)
        assert len(found) < 10
    return found


def halves(state: State) -> tuple[tuple[int, frozenset[int]], tuple[int, frozenset[int]]]:
    return (state.server, state.server_trusts), (state.clients, state.clients_trust)


@pytest.mark.parametrize("drop", [False, True])
def test_certificates_of_adjacent_steps_accept_each_other(drop: bool) -> None:
    for before, after in itertools.pairwise(steps(settled(1), 2, drop=drop)):
        for (server, server_trusts), (clients, clients_trust) in itertools.product(
            (halves(before)[0], halves(after)[0]), (halves(before)[1], halves(after)[1])
        ):
            assert clients in server_trusts, (before, after)
            assert server in clients_trust, (before, after)


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("begun", range(5))
def test_members_accept_each_other_in_each_step(drop: bool, begun: int) -> None:
    """Swarm restarts one after the other, and each needs the others to be ready."""
    first = steps(settled(1), 2, drop=drop, several=True)
    found = steps(first[min(begun, len(first) - 1)], 3 if begun else 2, drop=drop, several=True)
    for before, after in itertools.pairwise(found):
        for one, other in itertools.product((before, after), repeat=2):
            assert one.server in other.server_trusts, (before, after)
        for (server, server_trusts), (clients, clients_trust) in itertools.product(
            (halves(before)[0], halves(after)[0]), (halves(before)[1], halves(after)[1])
        ):
            assert clients in server_trusts, (before, after)
            assert server in clients_trust, (before, after)
    wanted = 3 if begun else 2
    assert (found[-1].server, set(found[-1].server_trusts)) == (wanted, {wanted})


def test_each_side_restarts_as_rarely_as_possible() -> None:
    found = steps(settled(1), 2)
    assert found[-1] == State(2, 2, frozenset({2}), frozenset({1, 2}))
    changes = [(halves(a)[0] != halves(b)[0], halves(a)[1] != halves(b)[1]) for a, b in itertools.pairwise(found)]
    assert changes == [(True, False), (False, True), (True, False)]
    assert steps(settled(1), 2, drop=True)[-1] == settled(2)
    assert following(settled(1), 1) is None


@pytest.mark.parametrize("wanted", [2, 3])
def test_interrupted_renewal_completes_from_anywhere(wanted: int) -> None:
    for state in steps(settled(1), 2, drop=True):
        for before, after in itertools.pairwise(steps(state, wanted)):
            assert after.clients in before.server_trusts | after.server_trusts
        last = steps(state, wanted)[-1]
        assert (last.server, last.clients) == (wanted, wanted)
        assert last.server_trusts == {wanted}
        assert steps(last, wanted, drop=True)[-1] == settled(wanted)


@pytest.mark.parametrize("several", [False, True])
def test_trust_ends_only_in_what_nobody_shows(several: bool) -> None:
    """An `install` may follow a renewal that was broken off."""
    found = [without_surplus(state) or state for state in steps(settled(1), 2, several=several)]
    assert all(state.server_trusts == {state.server, state.clients} for state in found)
    assert [set(state.server_trusts) for state in found][:3] == [{1}, {1}, {1, 2}]
