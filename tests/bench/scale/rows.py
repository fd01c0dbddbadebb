"""What grows with the cluster and what does not: one task added, cold starts, a rolling update, a lost node."""

from __future__ import annotations

import math
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from mesh.model import keyspace
from tests.bench.measure import FULL, QUICK, Effort, Row, timed
from tests.bench.scale import world as worlds
from tests.bench.scale.stage import Part, Stage, staged, wait_for
from tests.bench.store import raw

_SMALL = 100
_VALUE = bytes(500)  # as long as an endpoint
_IDLE_S = 3.0
_FIRST_SLOT = 20
_PUTS = 10
"""Of the reference, after each replaced task: of a hundred puts alone the 99th percentile would be the worst."""
_STATUS_NOTE = "every other node says its status every 3 s"

Figures = dict[str, list[float]]


@dataclass(slots=True)
class _Size:
    """What was measured in a cluster of one size."""

    tasks: int
    figures: Figures = field(default_factory=lambda: defaultdict(list))


def measure(effort: Effort) -> list[Row]:
    """Clusters of three sizes, then a rolling update and a lost node on many nodes."""
    full = effort.tasks == FULL.tasks
    if full:
        small = [_of_size(tasks, 10, _IDLE_S, 0) for tasks in (_SMALL, 10 * _SMALL)]
        measured = [*small, _of_size(100 * _SMALL, 10, _IDLE_S, 3)]
    else:
        measured = [_of_size(_SMALL, QUICK.rounds, 0.5, 0), _of_size(3 * _SMALL // 2, QUICK.rounds, 0.5, 2)]
        measured.append(measured[-1])
    rows = [
        row
        for name, large in zip(("ten", "hundred"), measured[1:], strict=True)
        for row in _against(name, large, measured[0])
    ]
    rows += _alone(measured[-1], measured[0])
    return rows + (_rolling(300, 100, 3) if full else _rolling(30, 10, 1))


def _of_size(tasks: int, rounds: int, idle_s: float, colds: int) -> _Size:
    """One cluster. Cold starts wait a quarter of a minute each to hear nodes, and are rows of the largest alone."""
    world, found = worlds.stacks(tasks), _Size(tasks)
    affected, unaffected = world.nodes[0], world.nodes[2]
    began = time.monotonic()
    with staged(world, {"shape": "stacks", "tasks": tasks}, [affected, unaffected]) as stage:
        found.figures["fill"].append(time.monotonic() - began)
        for turn in range(rounds + 1):
            figures = _added(stage, affected, unaffected, turn)
            for name, figure in figures.items() if turn else ():
                found.figures[name].append(figure)
        for _ in range(2):
            _idle(stage, unaffected, found, idle_s)
        for _ in range(colds):
            _cold(stage, affected, found)
    return found


def _added(stage: Stage, affected: str, unaffected: str, turn: int) -> dict[str, float]:
    """What one more task costs, until nobody writes any more."""
    parts = {
        "controller": stage.controller,
        "affected": stage.nodes[affected],
        "unaffected": stage.nodes[unaffected],
    }
    service = next(iter(stage.world.services))
    writes, octets = stage.ear.writes, stage.ear.bytes
    before = {name: part.cpu() for name, part in parts.items()}
    made = _put(stage.controller, service, (_FIRST_SLOT + turn, affected, 0), scale=1)
    stage.nodes[affected]("container", task=made["task"], service=service, state="running")
    wait_for(lambda: made["task"] in stage.ear.ready)
    stage.settle()
    return {
        **{f"added.{name}": part.cpu() - before[name] for name, part in parts.items()},
        "added.writes": stage.ear.writes - writes,
        "added.bytes": stage.ear.bytes - octets,
    }


def _put(
    controller: Part, service: str, place: tuple[int, str, int], state: str = "running", scale: int = 0
) -> dict[str, str]:
    desired = "running" if state == "running" else "shutdown"
    return controller("put", service=service, place=place, desired=desired, state=state, scale=scale)


def _idle(stage: Stage, node: str, found: _Size, seconds: float) -> None:
    """What an agent uses while nothing happens but that every other node says its status; in ms a second."""
    stage.crowd("statuses", on=True)
    time.sleep(min(1.0, seconds))
    parts = {"agent.idle": stage.nodes[node], "controller.idle": stage.controller}
    before, began = {name: part.cpu() for name, part in parts.items()}, time.monotonic()
    time.sleep(seconds)
    for name, part in parts.items():
        found.figures[f"{name.partition('.')[0]}.mib"].append(part("cost")["mib"])
        found.figures[name].append((part.cpu() - before[name]) / (time.monotonic() - began))
    stage.crowd("statuses", on=False)


def _cold(stage: Stage, node: str, found: _Size) -> None:
    """From start to nothing left to do: a controller that takes over, and an agent that knows its tasks."""
    stage.controller.stop()
    stage.controller = stage.new_controller()
    began = time.monotonic()
    stage.controller("start")
    wait_for(lambda: stage.controller("state")["quiet_at"])
    state = stage.controller("state")
    found.figures["cold.controller"].append((state["quiet_at"] - began - state["waited"]) * 1000)
    found.figures["cold.controller.foresaw"].append(state["foresaw"] * 1000)
    found.figures["cold.controller.read"].append(timed(lambda: _read(stage, ("",))))
    stage.settle()
    agent = stage.again(node)
    mine = len(stage.world.on(node))
    began = time.monotonic()
    agent("start")
    wait_for(lambda: agent("state")["wirings"] >= mine)
    found.figures["cold.agent"].append((time.monotonic() - began) * 1000)
    prefixes = (keyspace.SERVICES, keyspace.ENDPOINTS, keyspace.EPOCHS)
    found.figures["cold.agent.read"].append(timed(lambda: _read(stage, prefixes)))
    stage.settle()


def _read(stage: Stage, prefixes: Sequence[str]) -> None:
    for prefix in prefixes:
        command = ["etcdctl", "--endpoints", stage.etcd.endpoint, "get", "--prefix", keyspace.ROOT + prefix]
        subprocess.run(command, check=True, capture_output=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"})


def _against(times: str, large: _Size, small: _Size) -> list[Row]:
    """What one more task costs here, against what it costs in the small cluster."""
    one = f"1 task added to {large.tasks}"
    what = {
        "writes": ("keys written", "keys", "<= 1"),
        "bytes": ("bytes written", "bytes", "<= 1.01"),
        "controller": ("CPU of the controller", "ms CPU", "<= 1.5"),
        "affected": ("CPU of an agent that it concerns", "ms CPU", "<= 1.5"),
        "unaffected": ("CPU of an agent that it does not concern", "ms CPU", "<= 1.5"),
    }
    return [
        _row(
            f"scale.added.{name}.{times}",
            f"{one}: {text}",
            unit,
            aim,
            f"added.{name}",
            large,
            small,
        )
        for name, (text, unit, aim) in what.items()
    ]


def _row(  # noqa: PLR0917 - one line of the table
    key: str, what: str, unit: str, aim: str, name: str, large: _Size, small: _Size
) -> Row:
    pairs = list(zip(large.figures[name], small.figures[name], strict=False))
    return Row(
        key=key,
        what=what,
        reference=f"in a cluster of {small.tasks}",
        unit=unit,
        better="lower",
        ours=[ours for ours, _ in pairs],
        theirs=[theirs for _, theirs in pairs],
        aim=aim,
        note=_STATUS_NOTE if name.endswith(".idle") else "",
        size=large.tasks,
        base=small.tasks,
    )


def _alone(large: _Size, small: _Size) -> list[Row]:
    figures = large.figures
    of = f"with {large.tasks} tasks"
    foresaw = statistics.median(figures["cold.controller.foresaw"])
    notes = {"controller": f"and {foresaw:.0f} ms in which it judges and plans while it waits for nodes"}
    cold = [
        Row(f"scale.cold.{who}", f"cold start of {text} {of}", f"etcdctl get of {keys}", "ms", "lower",
            figures[f"cold.{who}"], figures[f"cold.{who}.read"], aim="<= 3", note=notes.get(who, ""))
        for who, text, keys in (("controller", "the controller", "all keys"), ("agent", "an agent", "what it reads"))
    ]  # fmt: skip
    figure = partial(_row, large=large, small=small)
    idle = "ms CPU a second"
    return [
        *cold,
        figure("scale.memory.controller", f"memory of a controller {of}", "MiB", "<= 300 MiB", name="controller.mib"),
        figure("scale.memory.agent", f"memory of an agent {of}, 33 its own", "MiB", "", name="agent.mib"),
        figure("scale.idle.agent", f"an agent with nothing to do {of}", idle, "<= 1.5", name="agent.idle"),
        figure("scale.idle.controller", f"a controller with nothing to do {of}", idle, "", name="controller.idle"),
    ]


def _rolling(nodes: int, tasks: int, rounds: int) -> list[Row]:
    """Every task of a service replaced, one after the other, more than once; then some of its nodes are lost."""
    world = worlds.rolling(nodes, tasks)
    agents = [world.nodes[number] for number in (tasks, nodes - 1)]
    delays: list[list[float]] = []
    puts: list[list[float]] = []
    with (
        staged(world, {"shape": "rolling", "of": nodes, "tasks": tasks}, agents) as stage,
        raw(stage.etcd, _VALUE) as bare,
    ):
        for number in range(rounds):
            replaced = []
            puts.append([])
            for slot in range(tasks):  # by turns: what else the machine does falls on both
                replaced.append(_replaced(stage, slot, number))
                puts[-1] += [bare() for _ in range(_PUTS)]
            delays.append([delay for _, delay in replaced])
        lost = [_lost(stage, slot, task) for slot, (task, _) in enumerate(replaced[:5])]
    note = f"the last of {len(agents)} agents among {nodes} nodes, whose every task has the new one as a peer"
    rolled = f"rolling update of {tasks} tasks, {nodes} nodes: from Swarm's event to the last peer configured"
    lost_text = "a node lost: from Swarm's event to its task not ready"
    lost_note = "in the store, whose watch all have"
    return [
        Row(
            key,
            f"{text}{which}",
            "etcd put, until a watch has it",
            "ms",
            "lower",
            [of(turn) for turn in ours],
            [of(turn) for turn in puts],
            aim,
            note,
        )
        for key, text, which, ours, of, aim, note in (
            ("scale.rolling.p50", rolled, ", p50", delays, statistics.median, "", note),
            ("scale.rolling.p99", rolled, ", p99", delays, _p99, "<= 20", note),
            ("scale.lost", lost_text, "", [lost] * rounds, statistics.median, "", lost_note),
        )
    ]


def _p99(values: list[float]) -> float:
    """By nearest rank: of a hundred the last but one."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


def _replaced(stage: Stage, slot: int, number: int) -> tuple[str, float]:
    """A new task in the place of the one of a number in a slot, and milliseconds until the last peer has it."""
    node = stage.world.nodes[slot]
    _put(stage.controller, worlds.ROLLED, (slot, node, number), state="shutdown")
    made = _put(stage.controller, worlds.ROLLED, (slot, node, number + 1))
    wait_for(lambda: made["task"] in stage.ear.ready)
    key = stage.ear.keys[made["task"]]
    wait_for(lambda: all(part("peer", key=key)["at"] for part in stage.nodes.values()))
    last = max(at for part in stage.nodes.values() for at in part("peer", key=key)["at"])
    return made["task"], (last - float(made["at"])) * 1000


def _lost(stage: Stage, slot: int, task: str) -> float:
    """Milliseconds until the store says that the task of a lost node takes no more connections."""
    node = stage.world.nodes[slot]
    stage.crowd("fall_silent", node=node)
    at = stage.controller("fail", node=node)["at"]
    wait_for(lambda: task not in stage.ear.ready)
    return (stage.ear.ended[task] - float(at)) * 1000
