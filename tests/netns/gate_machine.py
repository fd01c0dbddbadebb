"""A machine with the gate in front of the real runc: a mount namespace with a /run, /var/lib and /etc of its own.

Containers are real; Docker's files about them are laid out by hand.
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

PROJECT = Path(__file__).resolve().parents[2]
WRAPPER = PROJECT / "deploy/linkwire-runc"
ROOT = "/run/docker/runtime-runc/moby"
DOCKER = "/var/lib/docker"
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
