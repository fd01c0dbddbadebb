"""How a member of etcd starts, and what the leader changes: nothing is formed or removed on a guess."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from controller.etcd.cluster.plan import (
    ADD,
    MOVE,
    PROMOTE,
    REMOVE,
    UPDATE,
    WAITING,
    Answer,
    Change,
    Form,
    Join,
    Listed,
    Note,
    Rest,
    Resume,
    SetAside,
    Start,
    Wait,
    next_change,
    start,
)

A, B, C, D = (f"https://10.0.0.{number}:2380" for number in (1, 2, 3, 4))
THREE = (A, B, C)
IDS = {A: 1, B: 2, C: 3, D: 4}
NOTE = Note("x", 9, 2, B)


def listed(*peers: str) -> tuple[Listed, ...]:
    return tuple(Listed(IDS[peer], f"n{IDS[peer]}", peer) for peer in peers)


def cluster(*peers: str, joining: str = "") -> Answer:
    return Answer(9, listed(*peers) + ((Listed(7, "", joining, learner=True),) if joining else ()))


def decided(own: str, *answers: Answer | None, data: bool = False, note: Note | None = None) -> Start:
    others = [peer for peer in THREE if peer != own]
    return start(own, THREE, dict(zip(others, answers, strict=False)), has_data=data, note=note)


def test_first_forms_once_all_say_they_wait() -> None:
    assert decided(A, WAITING, WAITING) == Form()
    for answers in itertools.product((None, WAITING), repeat=2):
        if answers != (WAITING, WAITING):
            assert decided(A, *answers) == Wait()
        assert decided(B, *answers) == Wait(), "only the first of them"
    assert decided(A, cluster(B), WAITING) == Wait(), "until that cluster lists it"


def test_member_joins_cluster_that_lists_it() -> None:
    assert decided(C, cluster(A, B, joining=C), None) == Join(9, 7, listed(A, B))
    assert decided(C, cluster(A, B, C), cluster(A, B, C)) == Wait(), "as another one, when that one is removed"


def test_data_is_resumed_unless_clusters_lack_it() -> None:
    assert decided(B, None, None, data=True, note=NOTE) == Resume(B)
    assert decided(B, cluster(A, B, C), None, data=True, note=NOTE) == Resume(B)
    assert decided(B, WAITING, WAITING, data=True, note=NOTE) == Resume(B)
    assert decided(B, cluster(A, C), None, data=True, note=NOTE) == SetAside()
    assert decided(B, cluster(A, joining=B), None, data=True, note=NOTE) == SetAside()


def test_data_without_note_counts_at_first_alone() -> None:
    assert decided(A, WAITING, WAITING, data=True) == Resume(A)
    assert decided(B, None, None, data=True) == SetAside()


def test_member_not_desired_leaves_then_rests() -> None:
    assert decided("", cluster(A, B), data=True, note=NOTE) == Resume(B)
    assert decided("", cluster(A), data=True, note=NOTE) == Rest()
    assert decided("", cluster(A)) == decided("", cluster(A), data=True) == Rest()


def change(members: Sequence[Listed], desired: Sequence[str] = THREE, *waiting: str, own: str = A) -> Change | None:
    return next_change(IDS[A], members, desired, own, waiting)


def test_one_waiting_member_is_added_at_a_time() -> None:
    alone = listed(A)
    assert change(alone) is None, "nobody waits"
    assert change(alone, THREE, B, C) == Change(ADD, 0, B)
    joining = (*alone, Listed(7, "", B, learner=True))
    assert change(joining, THREE, B, C) is None, "until it has started"
    started = (*alone, Listed(7, "n2", B, learner=True))
    assert change(started, THREE, C) == Change(PROMOTE, 7, B)
    assert change(listed(A, B), THREE, C) == Change(ADD, 0, C)
    assert change(listed(*THREE)) is None


def test_member_that_lost_its_data_is_removed() -> None:
    assert change(listed(*THREE), THREE, C) == Change(REMOVE, 3, C)
    assert change(listed(*THREE), (A, B, D), D) == Change(REMOVE, 3, C), "before another one comes"


def test_address_of_an_only_member_is_corrected_first() -> None:
    alone = (replace(listed(A)[0], peer="https://127.0.0.1:2380"),)
    assert change(alone, THREE, B, C) == Change(UPDATE, 1, A)


def test_leader_not_desired_hands_over() -> None:
    assert change(listed(*THREE), (C,), own="") == Change(MOVE, 3, C)
    assert change(listed(A), (C,), own="") is None


@pytest.mark.parametrize("desired", [THREE, (A,), (A, B, D), (A, D, C)])
def test_changes_lead_to_desired_members(desired: Sequence[str]) -> None:
    members, steps = list(listed(*THREE)), 0
    while step := change(members, desired, *(peer for peer in desired if peer not in {one.peer for one in members})):
        voters = sum(not one.learner for one in members)
        assert steps < 10
        steps += 1
        if step.action == REMOVE:
            assert voters > 1
            members = [one for one in members if one.id != step.member]
        elif step.action == ADD:
            members.append(Listed(IDS[step.peer] + 10, "new", step.peer, learner=True))
        else:
            members = [replace(one, learner=False) if one.id == step.member else one for one in members]
    assert {one.peer for one in members} == set(desired)
    assert not any(one.learner for one in members)
