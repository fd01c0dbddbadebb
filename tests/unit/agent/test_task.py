"""What an agent may do later with a task, and what it says of one that a thread is at work on."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given

from agent.containers.docker_client import LocalTask
from agent.interface.task import TaskState
from mesh.model import records
from mesh.topology.wgtypes import InterfaceConfig
from tests.unit.agent.test_diff import ANY, configs

APART = (IPv4Address("198.51.100.7"),)


def task() -> TaskState:
    return TaskState(LocalTask("c", "t", "s", "n", "running", None, "", None, (), gated=False))


def apart(config: InterfaceConfig) -> InterfaceConfig:
    return replace(config, policy=replace(config.policy, isolated=(*config.policy.isolated, *APART)))


@ANY
@given(configs(), configs())
def test_only_those_isolated_from_wired_tasks_wait(before: InterfaceConfig, other: InterfaceConfig) -> None:
    state = task()
    assert not state.is_in_no_hurry(apart(before)), "it is not wired"
    state.interface.applied = before
    assert not state.is_in_no_hurry(apart(before)), "it is to be read"
    state.schedule.dirty = False
    assert state.is_in_no_hurry(apart(before))
    for after in (replace(before, peers=other.peers), replace(before, policy=other.policy, hosts=other.hosts)):
        same = replace(after, policy=replace(after.policy, isolated=before.policy.isolated)) == before
        assert state.is_in_no_hurry(apart(after)) == same


def test_during_work_earlier_statements_on_task_hold() -> None:
    state = task()
    assert not state.report().wired
    state.busy, state.error = True, "half done"
    assert state.report().error is None
    assert state.is_wired_still(), "an agent that is to stop waits for it"
    state.busy = False
    assert state.report().error == "half done"
    assert not state.is_wired_still()


@pytest.mark.parametrize(
    ("state", "ways", "is_new"),
    [("created", (), True), ("created", None, False), ("running", None, False), ("running", (), False)],
)
def test_only_a_namespace_just_made_goes_unsearched(
    state: records.TaskState, ways: tuple[()] | None, *, is_new: bool
) -> None:
    """An unhealthy task is reported as created, but an agent before this one may have wired it."""
    assert TaskState(replace(task().local, state=state, ways=ways)).is_new == is_new
