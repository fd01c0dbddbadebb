"""When who did what for a fresh task: by Docker's own events, and the agent's and the controller's own logs."""

from __future__ import annotations

import datetime as dt
import json
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from tests.bench.measure import Row

_AIM = "< 0.25"
_PLACED = re.compile(r"task (\w+): placed on ")
TASK = "com.docker.swarm.task.id"


@dataclass(frozen=True, slots=True)
class Start:
    """One task's start, in milliseconds since the epoch.

    Attributes:
        created: Docker has made its container.
        connected: Docker has connected it to its first network.
        placed: the controller has given it its address and keys; None where nobody was asked.
        found: the agent has found its namespace; None where it did not have to look, or does not log so much.
        wired: the agent has read back what it set.
        reconciled: milliseconds that setting and reading back took, of all.
        started: Docker has started its process.
    """

    created: float
    connected: float
    placed: float | None
    found: float | None
    wired: float
    reconciled: float
    started: float

    @property
    def ours(self) -> float:
        """Milliseconds from Docker's connecting it to its being wired."""
        return self.wired - self.connected

    @property
    def dockers(self) -> float:
        """Milliseconds from Docker's making it to its process's start."""
        return self.started - self.created


def read(events: Iterable[str], logged: Iterable[str], controllers: Iterable[str] = ()) -> dict[str, Start]:
    """The tasks that both know from the beginning to the end, by task id.

    Args:
        events: lines of `docker events --format '{{json .}}'`, of containers and networks.
        logged: lines of the agent's log on that node.
        controllers: lines of the controllers' logs.
    """
    made: dict[str, str] = {}
    at: dict[tuple[str, str], float] = {}
    for line in events:
        event = json.loads(line)
        actor, what = event["Actor"], event["Action"]
        container = actor["ID"] if event["Type"] == "container" else actor["Attributes"].get("container", "")
        at.setdefault((container, what), event["timeNano"] / 1e6)
        if what == "create" and TASK in actor["Attributes"]:
            made[actor["Attributes"][TASK]] = container
    wired, found = _agents(logged)
    placed = _placed(controllers)
    return {
        task: Start(
            created=at[container, "create"],
            connected=at[container, "connect"],
            placed=placed.get(task),
            found=found.get(container[:12]),
            wired=wired[task][0],
            reconciled=wired[task][1],
            started=at[container, "start"],
        )
        for task, container in made.items()
        if task in wired and {(container, "connect"), (container, "start")} <= at.keys()
    }


def rows(key: str, what: str, starts: list[Start]) -> list[Row]:
    """The median and the 99th percentile, each of all tasks."""
    ours, dockers = [one.ours for one in starts], [one.dockers for one in starts]
    against = "Docker's create -> start"
    late, dockers_late = [percentile(ours, 99)], [percentile(dockers, 99)]
    text = f"{what}, connect -> wired"
    return [
        Row(f"{key}.p50", text, against, "ms", "lower", ours, dockers, _AIM, where(starts)),
        Row(f"{key}.p99", f"{text}, p99", f"{against}, p99", "ms", "lower", late, dockers_late, _AIM),
    ]


def where(starts: list[Start]) -> str:
    """Where the time of the median task goes, from Docker's connecting it on."""
    moments = [
        ("placed by the controller", [one.placed - one.connected for one in starts if one.placed is not None]),
        ("its namespace found", [one.found - one.connected for one in starts if one.found is not None]),
        ("reconcile begins", [one.ours - one.reconciled for one in starts]),
        ("wired", [one.ours for one in starts]),
        ("started, says Docker", [one.started - one.connected for one in starts]),
    ]
    told = ", ".join(f"{statistics.median(values):.0f} ms {name}" for name, values in moments if values)
    found, first = sum(one.found is not None for one in starts), sum(one.wired < one.started for one in starts)
    return f"medians: {told}; of {len(starts)} namespaces {found} found before Docker told, {first} wired before"


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that so many of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _agents(logged: Iterable[str]) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """When each task was first wired and how long that took, by task; when its namespace was found, by container."""
    wired: dict[str, tuple[float, float]] = {}
    found: dict[str, float] = {}
    for line in logged:
        if not line.startswith("{"):
            continue  # wireguard-go's banner
        said = json.loads(line)
        if said.get("event") == "wired":
            wired.setdefault(said["task"], (_milliseconds(said["timestamp"]), said["seconds"] * 1000))
        elif said.get("event") == "namespace found":
            found.setdefault(said["container"], _milliseconds(said["timestamp"]))
    return wired, found


def _placed(controllers: Iterable[str]) -> dict[str, float]:
    """When each task was given its address and keys."""
    placed: dict[str, float] = {}
    for line in controllers:
        if line.startswith("{") and (found := _PLACED.match(json.loads(line).get("change", ""))):
            placed.setdefault(found[1], _milliseconds(json.loads(line)["timestamp"]))
    return placed


def _milliseconds(timestamp: str) -> float:
    return dt.datetime.fromisoformat(timestamp).timestamp() * 1000
