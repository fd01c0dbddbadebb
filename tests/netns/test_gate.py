"""The gate's wrapper in front of the real runc, on real containers; Docker's files about them are laid out by hand.

All in a mount namespace of its own, with a /run, a /var/lib and an /etc that end with it. What Docker itself makes of
the wrapper is tried in tests/lab/test_gate.py.
"""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.netns.gate_machine import DOCKER, ROOT, WRAPPER, Machine

GATED = {"linkwire.gate": "true"}


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"linkwire.gate": "false"},
        {"linkwire_gate": "true", "linkwire.role": "agent"},
        {"said": '"linkwire.gate":"true"'},
        {"linkwire.gate.ready": "shop_db"},
    ],
)
@pytest.mark.parametrize("root", [DOCKER, "/var/lib/a b/docker"])
def test_what_is_not_gated_starts_at_once(machine: Machine, labels: dict[str, str], root: str) -> None:
    container = machine.make(labels, root=root)
    done = container.start(seconds=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert container.begins()


@pytest.mark.parametrize("value", ["true", "auto", "True", "1", "", "no"])
@pytest.mark.parametrize("root", [DOCKER, "/var/lib/a b/docker"])
def test_gated_start_is_refused_when_nobody_wired_it(machine: Machine, value: str, root: str) -> None:
    container = machine.make({"linkwire.gate": value}, root=root)
    done = container.start()
    said = "linkwire: the task was not wired in 1 s: no agent says why: see docker service ps linkwire_agent"
    assert (done.returncode, done.stderr) == (1, f"{said}\n")
    logged = [json.loads(line) for line in container.machine.sh(f"cat {container.log}").splitlines()]
    assert {"level": "error", "msg": said} in logged
    assert not container.has_begun
    assert container.machine.agent("waiting()") == {}


def test_it_starts_as_soon_as_it_is_wired(machine: Machine) -> None:
    container = machine.make(GATED)
    waits = subprocess.Popen(machine.command(*container.argv("start", container.id)), stderr=subprocess.PIPE)
    try:
        while machine.agent("waiting()") != {container.id: container.netns}:
            assert waits.poll() is None
        assert not container.has_begun
        machine.agent(f"open_for({container.id!r}, {container.netns!r})")
        assert waits.wait(10) == 0
    finally:
        waits.kill()
        waits.communicate()
    assert container.begins()
    assert machine.agent("waiting()") == {}


def test_what_was_wired_before_starts_at_once(machine: Machine) -> None:
    container = machine.make(GATED)
    machine.agent(f"open_for({container.id!r}, {container.netns!r})")
    assert container.start().returncode == 0
    assert container.begins()


def test_another_namespace_that_was_wired_opens_nothing(machine: Machine) -> None:
    container, other = machine.make(GATED), machine.make({})
    assert container.number != other.number
    machine.agent(f"open_for({container.id!r}, {other.netns!r})")
    done = container.start()
    assert done.returncode == 1
    assert f"not wired in 1 s: wired {other.number}" in done.stderr
    assert not container.has_begun


def test_agents_reason_is_reported_whatever_it_contains(machine: Machine) -> None:
    container = machine.make(GATED)
    why = 'the "subnet"\nclashes \\ with 10% of $(id) `id`'
    machine.agent(f"shut({container.id!r}, {why!r})")
    done = container.start()
    said = "linkwire: the task was not wired in 1 s: the  subnet  clashes   with 10  of $(id) `id`"
    assert (done.returncode, done.stderr) == (1, f"{said}\n")
    assert json.loads(machine.sh(f"tail -n 1 {container.log}"))["msg"] == said


def test_waiting_for_provider_has_own_limit_and_reason(machine: Machine) -> None:
    """From when it is wired on; if that does not last, the shorter limit counts again."""
    container = machine.make(GATED)
    machine.write("/etc/linkwire/gate", "LINKWIRE_READY_SECONDS=3\n")
    machine.agent(f"hold({container.id!r}, ['shop_db', 'shop_cache'])")
    began = time.monotonic()
    done = container.start(seconds=1)
    assert 2 < time.monotonic() - began < 8
    said = "linkwire: it is wired, and was held for 3 s: waits for a ready task of shop_db, shop_cache"
    assert (done.returncode, done.stderr) == (1, f"{said}\n")
    machine.agent(f"shut({container.id!r}, 'it lost its device')")
    assert "was not wired in 1 s: it lost its device" in container.start(seconds=1).stderr
    machine.agent(f"open_for({container.id!r}, {container.netns!r})")
    assert container.start().returncode == 0


def test_gate_being_removed_is_open(machine: Machine) -> None:
    machine.write("/etc/linkwire/gate", "LINKWIRE_GATE=off\n")
    container = machine.make(GATED)
    assert container.start(seconds=60).returncode == 0
    assert container.begins()


def test_gate_closes_again_when_task_is_unwired(machine: Machine) -> None:
    container = machine.make(GATED)
    machine.agent(f"open_for({container.id!r}, {container.netns!r})")
    machine.agent(f"shut({container.id!r}, 'it lost its device')")
    assert "it lost its device" in container.start().stderr
    assert not container.has_begun


def test_a_container_that_is_made_anew_waits_anew(machine: Machine) -> None:
    """The kernel soon gives the number of a namespace that is gone to another."""
    container = machine.make(GATED)
    machine.agent(f"open_for({container.id!r}, {container.netns!r})")
    assert container.start().returncode == 0
    assert container.begins()
    container.delete()
    container.create()
    assert machine.sh("ls /run/docker/linkwire/gate") == ""
    assert container.start().returncode == 1
    assert not container.has_begun


def test_the_agent_forgets_containers_that_are_gone(machine: Machine) -> None:
    container = machine.make(GATED)
    machine.agent(f"open_for({container.id!r}, {container.netns!r})")
    machine.agent("shut('gone', 'it went')")
    machine.write("/run/docker/linkwire/waiting/new", "1\n")
    machine.write("/run/docker/linkwire/waiting/old", "1\n")
    machine.sh("touch -d '2 days ago' /run/docker/linkwire/waiting/old")
    machine.agent(f"drop_stale_files([{container.id!r}])")
    assert machine.sh("cd /run/docker/linkwire; ls gate waiting").split() == [
        "gate:",
        container.id,
        "waiting:",
        "new",
    ]
    assert container.start().returncode == 0


def test_without_dockers_file_only_host_network_starts(machine: Machine) -> None:
    """Whether it is gated nobody can tell; the agent, without which nothing gated starts at all, is there."""
    agent, task = machine.make(None, host_network=True), machine.make(None)
    assert agent.start(seconds=60).returncode == 0
    assert agent.begins()
    refused = task.start(seconds=60)
    assert refused.returncode == 1
    assert (
        f"linkwire: the gate cannot read the labels in {DOCKER}/containers/{task.id}/config.v2.json" in refused.stderr
    )
    assert not task.has_begun


def test_containers_not_from_docker_start_at_once(machine: Machine) -> None:
    container = machine.make(None, docker=False)
    assert container.start(seconds=60).returncode == 0
    assert container.begins()


def test_everything_else_goes_through_unseen(machine: Machine) -> None:
    container = machine.make(GATED)
    assert machine.run(WRAPPER, "--version").stdout == machine.run("runc", "--version").stdout
    state = machine.run(*container.argv("state", container.id))
    assert json.loads(state.stdout)["status"] == "created"
    assert machine.run(*container.argv("state", "start")).returncode == 1
    assert machine.run(WRAPPER, f"--root={ROOT}", "list", "-q").stdout == f"{container.id}\n"
    assert machine.run(*container.argv("delete", "--force", container.id)).returncode == 0


def test_the_settings_file(machine: Machine) -> None:
    machine.write("/etc/linkwire/gate", "LINKWIRE_RUNC=/run/other-runc\nLINKWIRE_GATE_SECONDS=2\n")
    machine.write("/run/other-runc", '#!/bin/sh\necho >/run/used\nexec runc "$@"\n')
    machine.sh("chmod +x /run/other-runc")
    container = machine.make(GATED)
    machine.sh("ls /run/used")
    assert "was not wired in 2 s" in container.start(seconds=60).stderr
