"""The gate's wrapper in front of the real runc, on real containers; Docker's files about them are laid out by hand.

All in a mount namespace of its own, with a /run, a /var/lib and an /etc that end with it. What Docker itself makes of
the wrapper is tried in tests/lab/test_gate.py.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.containers import after_reboot
from agent.firewall import nft
from agent.linux.netns import TaskNetns
from agent.linux.nft_json import Rules
from agent.node_encryption import ruleset
from tests.netns.world import World

PROJECT = Path(__file__).resolve().parents[2]
WRAPPER = PROJECT / "deploy/linkwire-runc"
ROOT = "/run/docker/runtime-runc/moby"
DOCKER = "/var/lib/docker"
GATED = {"linkwire.gate": "true"}
# Holds the namespace: what is mounted in it ends with it.
HOLD = """
set -eu
for folder in /run /var/lib; do mount -t tmpfs tmpfs $folder; done
mkdir -p /run/docker/netns /run/etc/new /run/etc/work /var/lib/docker
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/new,workdir=/run/etc/work overlay /etc
echo ready
exec sleep 3600
"""


@dataclass
class Machine:
    """A mount namespace in which containers are made and started."""

    holder: subprocess.Popen[str]
    folder: Path
    made: list[Container] = field(default_factory=list)

    def command(self, *argv: str | Path) -> list[str]:
        """The command line that runs something in it."""
        return ["nsenter", f"--target={self.holder.pid}", "--mount", "--", *map(str, argv)]

    def run(self, *argv: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], **variables}
        done = self.command(*argv)
        return subprocess.run(done, capture_output=True, text=True, env=environment, timeout=60, check=False)

    def sh(self, script: str) -> str:
        done = self.run("sh", "-euc", script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(self, path: str, text: str) -> None:
        feed = self.command("sh", "-euc", 'mkdir -p "${0%/*}"; cat >"$0"', path)
        subprocess.run(feed, input=text, text=True, check=True, timeout=60)

    def agent(self, call: str) -> Any:  # noqa: ANN401 - whatever the call gives
        """What a call of agent.containers.start_gate gives, made in this namespace."""
        script = f"import json; from agent.containers import start_gate as gate; print(json.dumps(gate.{call}))"
        done = self.run(sys.executable, "-c", script, PYTHONPATH=str(PROJECT))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def make(
        self,
        labels: dict[str, str] | None,
        *,
        root: str = DOCKER,
        host_network: bool = False,
        docker: bool = True,
    ) -> Container:
        """A container that has been created; `labels` None: Docker has no file about it."""
        rootfs = self.folder / f"rootfs{len(self.made)}"
        for folder in ("out", "proc", "dev", "sys"):
            (rootfs / folder).mkdir(parents=True)
        shutil.copy("/bin/busybox", rootfs / "busybox")
        container = Container(self, secrets.token_hex(32), rootfs, root)
        self.made.append(container)
        if host_network:
            self.sh("touch /run/docker/netns/default; mount --bind /proc/self/ns/net /run/docker/netns/default")
        spec = specification(container, host_network=host_network, docker=docker)
        self.write(f"{container.bundle}/config.json", json.dumps(spec, separators=(",", ":")))
        if labels is not None:
            container.labels(labels)
        container.create()
        assert not container.has_begun
        return container


@dataclass
class Container:
    """One container: its process writes a file as its first instruction."""

    machine: Machine
    id: str
    rootfs: Path
    docker_root: str
    runs: int = 0

    @property
    def bundle(self) -> str:
        return f"/run/containerd/moby/{self.id}"

    @property
    def log(self) -> str:
        return f"{self.bundle}/log.json"

    def argv(self, *arguments: str) -> list[str | Path]:
        """The wrapper's command line, as containerd's shim writes it."""
        return [WRAPPER, "--root", ROOT, "--log", self.log, "--log-format", "json", *arguments]

    def create(self) -> None:
        # Its output goes nowhere: the container's process, which waits to be started, would hold it open.
        command = " ".join(
            map(str, self.argv("create", "--bundle", self.bundle, "--pid-file", f"{self.bundle}/init.pid", self.id))
        )
        self.machine.sh(
            f"{command} </dev/null >/dev/null 2>{self.bundle}/said || {{ cat {self.bundle}/said >&2; exit 1; }}"
        )
        self.runs += 1
        self.machine.sh(f"touch {self.netns}; mount --bind /proc/$(cat {self.bundle}/init.pid)/ns/net {self.netns}")

    @property
    def netns(self) -> str:
        return f"/run/docker/netns/{self.id[:11]}{self.runs}"

    @property
    def number(self) -> int:
        """The inode number of its network namespace."""
        return int(self.machine.sh(f"stat -L -c %i {self.netns}"))

    def start(self, seconds: int = 1) -> subprocess.CompletedProcess[str]:
        return self.machine.run(*self.argv("start", self.id), LINKWIRE_GATE_SECONDS=str(seconds))

    @property
    def has_begun(self) -> bool:
        """Whether its process's first instruction has been carried out."""
        return (self.rootfs / "out" / "begun").exists()

    def begins(self) -> bool:
        """The same, for one that has just been let go."""
        deadline = time.monotonic() + 10
        while not self.has_begun and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.has_begun

    def labels(self, labels: dict[str, str]) -> None:
        """What Docker says of it in its file."""
        text = json.dumps({"ID": self.id, "Config": {"Labels": labels}}, separators=(",", ":"))
        self.machine.write(f"{self.docker_root}/containers/{self.id}/config.v2.json", text)

    def delete(self) -> None:
        self.machine.run(*self.argv("delete", "--force", self.id))
        (self.rootfs / "out" / "begun").unlink(missing_ok=True)


def specification(container: Container, *, host_network: bool, docker: bool) -> dict[str, Any]:
    made = container.machine.sh("cd $(mktemp -d); runc spec; cat config.json")
    spec: dict[str, Any] = json.loads(made)
    spec["process"] |= {
        "terminal": False,
        "args": ["/busybox", "sh", "-c", "echo >/out/begun; exec /busybox sleep 600"],
    }
    spec["root"] = {"path": str(container.rootfs), "readonly": False}
    spec["linux"]["cgroupsPath"] = f"/linkwire-gate-{container.id[:12]}"
    if host_network:
        spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
        spec["linux"]["namespaces"].append({"type": "network", "path": "/run/docker/netns/default"})
    if docker:
        source = f"{container.docker_root}/containers/{container.id}/hosts"
        container.machine.write(source, "127.0.0.1 localhost\n")
        spec["mounts"].append({"destination": "/hosts", "type": "bind", "source": source, "options": ["rbind"]})
    return spec


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", HOLD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    made = Machine(holder, tmp_path)
    try:
        assert holder.stdout.readline() == "ready\n", holder.communicate(timeout=5)
        yield made
    finally:
        for container in made.made:
            container.delete()
        made.run("sh", "-c", "umount /run/docker/netns/*")
        holder.kill()
        holder.communicate()
        shutil.rmtree(tmp_path, ignore_errors=True)


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


ASKED = f"{DOCKER}/volumes/linkwire_agent/_data/{after_reboot.FILE}"
ANSWER = f"/run/docker/linkwire/{after_reboot.FILE}"


def asked_version(machine: Machine, netns: TaskNetns) -> Rules | None:
    """What the node's table is after dockerd, in that namespace, has asked for the version; None for no table."""
    with open(netns.path) as place:  # noqa: PTH123 - of which a path is needed that the machine has too
        entered = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{place.fileno()}")
        said = machine.run(*entered, WRAPPER, "--version").stdout
    assert said == machine.run("runc", "--version").stdout
    table = nft.read(netns, ruleset.NAME)
    return None if table is None else table.rules


def test_plain_packets_are_refused_before_the_agent(machine: Machine, world: World) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    netns = world.netns()
    assert asked_version(machine, netns) is None
    machine.write(ASKED, "4790 lwnode\n")
    assert asked_version(machine, netns) == ruleset.render("lwnode", 4790)
    assert machine.sh(f"cat {ANSWER}") == f"{boot} 4790 lwnode\n"
    nft.remove(netns, ruleset.NAME)
    assert asked_version(machine, netns) is None, "once a start of the node: the rest is the agent's"
    machine.write(ANSWER, "another-boot 4790 lwnode\n")
    for _ in range(2):
        assert asked_version(machine, netns) == ruleset.render("lwnode", 4790)
        machine.sh(f"rm {ANSWER}")
    machine.sh(f"rm {ASKED}")
    nft.remove(netns, ruleset.NAME)
    assert asked_version(machine, netns) is None


@pytest.mark.parametrize("asked", ["4789; } lwnode", "4789 lw$node", "lwnode", "", "4789", "4789 lw*", "47x9 lwnode"])
def test_what_the_agent_never_asks_is_not_done(machine: Machine, world: World, asked: str) -> None:
    machine.write(ASKED, f"{asked}\n")
    assert asked_version(machine, world.netns()) is None
    assert machine.run("ls", ANSWER).returncode != 0


def test_refusal_finds_dockers_data_elsewhere(machine: Machine, world: World) -> None:
    machine.write("/etc/linkwire/gate", "LINKWIRE_DATA='/var/lib/a b/docker'\n")
    machine.write(ASKED.replace(DOCKER, "/var/lib/a b/docker"), "4789 lwnode\n")
    assert asked_version(machine, world.netns()) == ruleset.render("lwnode", 4789)


def test_node_that_cannot_refuse_says_why(machine: Machine, world: World) -> None:
    machine.write(ASKED, "4789 lwnode\n")
    machine.sh('mount --bind /dev/null "$(command -v nft)"')
    assert asked_version(machine, world.netns()) is None
    assert "nft: Permission denied" in machine.sh(f"cat {ANSWER}")
