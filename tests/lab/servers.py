"""The two servers that stand on the lab's bridge: a real etcd, and Debian's docker-registry."""

from __future__ import annotations

import http
import json
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab import cgroup, network, process
from tests.lab.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

STARTING = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class Server:
    """A daemon on the bridge: started detached, found again by its cgroup."""

    name: str
    layout: Layout
    url: str  # answers 200 when it is ready

    @property
    def folder(self) -> Path:
        return self.layout.root / self.name

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def group(self) -> cgroup.Group:
        return cgroup.Group(f"{self.layout.name}-lab/{self.name}")

    def is_up(self) -> bool:
        """Whether it answers, from the bridge's namespace."""
        pids = self.group.pids()
        return bool(pids) and network.same_netns(min(pids), self.layout.hub_netns) and self._answers()

    def _answers(self) -> bool:
        # Straight there: a proxy that the user has set knows nothing of the lab.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url, timeout=3) as response:
                return bool(response.status == http.HTTPStatus.OK)
        except (urllib.error.URLError, OSError):
            return False

    def start(self) -> None:
        """Start it on the data it had, and wait until it answers."""
        self.kill()
        self.data.mkdir(parents=True, exist_ok=True)
        enter = ["nsenter", f"--net={network.NETNS / self.layout.hub_netns}"]
        process.detach([*enter, *self.command()], self.group, self.log)
        process.wait_for_daemon(self.name, self._answers, self.group, self.log, seconds=STARTING)

    def command(self) -> list[str]:
        """What to execute."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL it."""
        self.group.kill()

    def wipe(self) -> None:
        """Kill it and forget its data."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Etcd(Server):
    """One etcd, spoken to in clear: who is on the lab's bridge is the lab."""

    def command(self) -> list[str]:
        endpoint = f"http://{self.layout.etcd_endpoint}"
        peer = "http://127.0.0.1:2380"
        return [
            *("etcd", "--name", "lab", "--data-dir", str(self.data), "--logger", "zap"),
            *("--listen-client-urls", endpoint, "--advertise-client-urls", endpoint),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"lab={peer}"),
        ]


@dataclass(frozen=True, slots=True)
class Registry(Server):
    """An image registry without TLS; the nodes have it among their insecure-registries."""

    def command(self) -> list[str]:
        config = self.folder / "config.yml"
        settings = {  # JSON is YAML
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.data)}, "delete": {"enabled": True}},
            "http": {"addr": self.layout.registry},
        }
        config.write_text(json.dumps(settings))
        return ["docker-registry", "serve", str(config)]


def etcd(layout: Layout) -> Etcd:
    """The lab's etcd."""
    return Etcd("etcd", layout, f"http://{layout.etcd_endpoint}/health")


def registry(layout: Layout) -> Registry:
    """The lab's registry."""
    return Registry("registry", layout, f"http://{layout.registry}/v2/")
