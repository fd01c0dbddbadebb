"""The benchmark as a program: every row is there, and nothing of it stays. What the figures are is not tested."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.holder import sockets
from tests.netns.world import NETNS_FOLDER, wait_for

ROWS = [
    "link.throughput",
    "link.round_trip",
    "link.bare.throughput",
    "link.bare.round_trip",
    "overlay.throughput",
    "overlay.round_trip",
    *(
        f"nodes.{reference}.{what}.{streams}"
        for streams in ("one", "eight")
        for reference in ("plain", "ipsec", "same_cipher", "by_hand")
        for what in ("throughput", "cpu")
    ),
    *(f"nodes.{reference}.round_trip" for reference in ("plain", "ipsec", "same_cipher", "by_hand")),
    "rules.throughput.one",
    "rules.throughput.hundred",
    *(f"rules.connections.{size}" for size in ("one", "twenty", "hundred")),
    *(f"rules.veth.message.{what}" for what in ("tracked", "one", "hundred", "one.own")),
    *(f"rules.veth.connections.{size}" for size in ("one", "twenty", "hundred")),
    "wire.one",
    "look.one",
    "wire.many",
    "look.many",
    "device.made",
    *(f"peers.{what}.{size}" for size in ("some", "most") for what in ("set", "read", "change", "confirm", "tell")),
    "many.wire",
    "many.look",
    "memory.agent",
    "memory.task",
    "store.list",
    "store.follow",
    "verified.load",
    "verified.memory",
    "verified.commit",
    "plan.ten",
    "plan.hundred",
    "index.ten",
    "index.hundred",
]
SECONDS = 300


def namespaces(pid: int) -> list[Path]:
    return list(NETNS_FOLDER.glob(f"lwtest-{pid}-*"))


def devices(pid: int) -> list[Path]:
    return list(sockets.SOCKETS.glob(f"lw{pid:07d}*.sock"))


def processes(of: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text())
        except OSError:
            continue
    return [arguments for arguments in found if of in arguments]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the benchmark puts what it needs for a moment: its programs have this path among their arguments."""
    made = tmp_path / "scratch"
    made.mkdir()
    yield made
    assert list(made.iterdir()) == []
    assert processes(str(made)) == []


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench", *arguments],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def is_spread(found: dict[str, float]) -> bool:
    return 0 < found["least"] <= found["median"] <= found["most"]


def test_every_row_is_measured_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "result.json"
    with start(folder, "--quick", "--output", str(output)) as bench:
        table, errors = bench.communicate(timeout=SECONDS)
    assert bench.returncode == 0, errors
    result = json.loads(output.read_text())
    here = [row for row in ROWS if not row.startswith(tuple(f"{name}." for name in result["not_here"]))]
    assert [row["key"] for row in result["rows"]] == here
    for row in result["rows"]:
        assert all(is_spread(row[name]) for name in ("linkwire", "reference", "ratio")), row
        assert len(row["linkwire"]["all"]) == len(row["reference"]["all"]) >= 2
        assert f"\n{row['what']} " in table
    assert result["machine"].keys() >= {"cores", "cpu", "kernel", "wireguard", "versions", "load", "load_after"}
    assert result["failed"] == {}
    assert result["not_here"].keys() <= {"overlay", "nodes.ipsec", "nodes.same_cipher"}
    assert "Traceback" not in errors
    assert namespaces(bench.pid) == devices(bench.pid) == []


@pytest.mark.parametrize("group", ["link", "wire", "store"])
def test_nothing_is_left_after_ctrl_c(folder: Path, tmp_path: Path, group: str) -> None:
    with start(folder, group, "--output", str(tmp_path / "result.json")) as bench:
        match group:
            case "link":
                wait_for(lambda: len(devices(bench.pid)) == 4, SECONDS)
            case "wire":
                wait_for(lambda: len(devices(bench.pid)) == 1, SECONDS)
            case _:
                wait_for(lambda: bool(processes(str(folder))), SECONDS)
        os.killpg(bench.pid, signal.SIGINT)  # a terminal sends it to all of them
        _, errors = bench.communicate(timeout=SECONDS)
    assert bench.returncode == 128 + signal.SIGINT, errors
    assert "interrupted" in errors
    assert namespaces(bench.pid) == devices(bench.pid) == []
    assert not (tmp_path / "result.json").exists()


def test_a_group_that_does_not_exist(folder: Path) -> None:
    with start(folder, "links") as bench:
        _, errors = bench.communicate(timeout=SECONDS)
    assert bench.returncode == 2
    assert "no group links" in errors
    assert "link, overlay, nodes, rules, wire, device, peers, many, store, verified, plan, docker, scale" in errors
