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
        container: its id.
        created: Docker has made its container.
        connected: Docker has connected it to its first network.
        placed: the controller has given it its address and keys; None where nobody was asked.
        there: its namespace was there to be seen, which Docker has no event for; None where nobody looked.
        wired: the agent has read back what it set.
        reconciled: milliseconds that setting and reading back took, of all.
        started: Docker has started its process.
    """

    container: str
    created: float
    connected: float
    placed: float | None
    there: float | None
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
    wired = _agents(logged)
    placed = _placed(controllers)
    return {
        task: Start(
            container=container,
            created=at[container, "create"],
            connected=at[container, "connect"],
            placed=placed.get(task),
            there=None,
            wired=wired[task][0],
            reconciled=wired[task][1],
            started=at[container, "start"],
        )
        for task, container in made.items()
        if task in wired and {(container, "connect"), (container, "start")} <= at.keys()
    }


def rows(key: str, what: str, starts: list[Start]) -> list[Row]:
    """The median and the 99th percentile of all tasks, and of those whose namespace was seen what is the agent's."""
    ours, dockers = [one.ours for one in starts], [one.dockers for one in starts]
    against = "Docker's create -> start"
    late, dockers_late = [percentile(ours, 99)], [percentile(dockers, 99)]
    text, own = f"{what}, connect -> wired", f"{what}, namespace there -> wired"
    seen = [(one.wired - one.there, one.dockers) for one in starts if one.there is not None]
    pair = [mine for mine, _ in seen], [other for _, other in seen]
    return [
        Row(f"{key}.p50", text, against, "ms", "lower", ours, dockers, _AIM, where(starts)),
        Row(f"{key}.p99", f"{text}, p99", f"{against}, p99", "ms", "lower", late, dockers_late, _AIM),
        *([Row(f"{key}.own", own, against, "ms", "lower", *pair, _AIM)] if seen else []),
    ]


def where(starts: list[Start]) -> str:
    """Where the time of the median task goes, from Docker's connecting it on."""
    moments = [
        ("placed by the controller", [one.placed - one.connected for one in starts if one.placed is not None]),
        ("its namespace is there", [one.there - one.connected for one in starts if one.there is not None]),
        ("reconcile begins", [one.ours - one.reconciled for one in starts]),
        ("wired", [one.ours for one in starts]),
        ("started, says Docker", [one.started - one.connected for one in starts]),
    ]
    told = ", ".join(f"{statistics.median(values):.0f} ms {name}" for name, values in moments if values)
    first = sum(one.wired < one.started for one in starts)
    return f"medians after the connect event: {told}; {first} of {len(starts)} wired before Docker said started"


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that so many of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _agents(logged: Iterable[str]) -> dict[str, tuple[float, float]]:
    """When each task was first wired, and how long setting and reading back took."""
    wired: dict[str, tuple[float, float]] = {}
    for line in logged:
        if not line.startswith("{"):
            continue  # wireguard-go's banner
        said = json.loads(line)
        if said.get("event") == "task wired":
            wired.setdefault(said["task"], (_milliseconds(said["timestamp"]), said["seconds"] * 1000))
    return wired


def _placed(controllers: Iterable[str]) -> dict[str, float]:
    """When each task was given its address and keys."""
    placed: dict[str, float] = {}
    for line in controllers:
        if line.startswith("{") and (found := _PLACED.match(json.loads(line).get("reason", ""))):
            placed.setdefault(found[1], _milliseconds(json.loads(line)["timestamp"]))
    return placed


def _milliseconds(timestamp: str) -> float:
    return dt.datetime.fromisoformat(timestamp).timestamp() * 1000
