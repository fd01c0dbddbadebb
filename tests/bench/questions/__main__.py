"""Print what questions about all links of a Swarm cost, in one table.

.venv/bin/python -m tests.bench.questions 100 1000 5000 1000:1

With 1000:1 every service has one task in place of ten.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from mesh.process.log_setup import configure
from tests.bench.questions import docker
from tests.bench.questions.swarm import Size, Swarm

TURNS = 3
_TICKS = os.sysconf("SC_CLK_TCK")
_PLUGIN = "from compose_ext.plugin import main; import sys; sys.argv[0] = 'docker-linkwire'; main()"
_PAGE = """
import json
from compose_ext.docker_cli import choose
from compose_ext.ui import snapshot, source
made = source.Source(lambda: source.links(choose(())), list)
reading, failed = made.read()
assert failed is None, failed
print(len(json.dumps(snapshot.graph(reading))))
"""
COMMANDS = {
    "no command": [_PLUGIN, "linkwire", "--help"],
    "status": [_PLUGIN, "linkwire", "status"],
    "ps": [_PLUGIN, "linkwire", "ps"],
    "ps --pairs": [_PLUGIN, "linkwire", "ps", "--pairs"],
    "ps --format json": [_PLUGIN, "linkwire", "ps", "--format", "json"],
    "snapshot of the page": [_PAGE],
    "check": [_PLUGIN, "linkwire", "check"],
    "check --live": [_PLUGIN, "linkwire", "check", "--live"],
}
_NOTED = """
import atexit, shutil, sys
atexit.register(shutil.copyfile, "/proc/self/status", {file!r})
"""
_FINDS = {"status", "check"}
"""Commands that exit with 1 where they find that Linkwire's own services are not there; all others failed then."""


@dataclass(slots=True)
class Cost:
    """What one run cost: seconds, and processor seconds and memory of the client, the asked agent, and another."""

    seconds: float
    client: tuple[float, float]
    agent: tuple[float, float]
    other: tuple[float, float]


class Unanswered(Exception):  # noqa: N818 - a row of the table
    """A command failed; the text is its own."""


class Node:
    """A node's agent, in a process of its own (tests.bench.questions.node)."""

    def __init__(self, node: str, etcd: str, size: Size, folder: Path) -> None:
        folder.mkdir()
        told = json.dumps({"node": node, "etcd": etcd, **asdict(size), "folder": str(folder)})
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.bench.questions.node", told]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.socket = folder / "socket" / "queries"
        self._answer()

    def forget(self) -> None:
        """Have it forget what it keeps for the next answer, and count its memory anew."""
        stdin = _open(self._process.stdin)
        stdin.write("forget\n")
        stdin.flush()
        self._answer()
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def cpu(self) -> float:
        """Processor seconds that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def mib(self) -> float:
        """Memory that it held at most since it forgot."""
        return _mib(Path(f"/proc/{self._process.pid}/status"))

    def close(self) -> None:
        """End it."""
        _open(self._process.stdin).close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _open(self._process.stdout).close()

    def _answer(self) -> None:
        if not _open(self._process.stdout).readline():
            raise RuntimeError(f"an agent of the simulation ended with {self._process.wait(10)}")


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise AssertionError("it was asked for")
    return stream


def _mib(status: Path) -> float:
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(found) / 1024


def _run(words: Sequence[str], program: Path, noted: Path, nodes: Sequence[Node]) -> Cost:
    """Run a command, and say what it cost, with all that it starts."""
    for node in nodes:
        node.forget()
    before = [node.cpu() for node in nodes]
    code, *arguments = words
    project = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "LINKWIRE_DOCKER": str(program), "PYTHONPATH": project}
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        command = [sys.executable, "-c", _NOTED.format(file=os.fspath(noted)) + code, *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        out.seek(0)
        if process.returncode not in ({0, 1} if _FINDS.intersection(arguments) else {0}):
            raise Unanswered(out.read(2000).decode().strip())
        if arguments[1:] == ["check", "--live"]:
            _check(out.read().decode())
    after = [(node.cpu() - spent, node.mib()) for node, spent in zip(nodes, before, strict=True)]
    return Cost(seconds, (used.ru_utime + used.ru_stime, _mib(noted)), after[0], after[1])


def _check(said: str) -> None:
    """Require that `check --live` says of no link that it does not work."""
    odd = [line for line in said.splitlines() if " -> " in line]
    if odd:
        raise RuntimeError(f"{len(odd)} causes where nothing is wrong: {odd[0][:500]}")


def measure(size: Size, folder: Path, names: Sequence[str]) -> None:
    """Print the rows of a Swarm of some links: medians of three turns."""
    with Swarm(size, folder) as swarm:
        asked, other = swarm.world.nodes[0], swarm.world.nodes[1]
        swarm.crowd.leave_out([asked, other])
        with (
            closing(Node(asked, swarm.etcd, size, folder / "asked")) as first,
            closing(Node(other, swarm.etcd, size, folder / "other")) as second,
        ):
            program = docker.install(swarm.world, folder / "docker", first.socket)
            for name in names:
                try:
                    turns = [_run(COMMANDS[name], program, folder / "noted", (first, second)) for _ in range(TURNS)]
                except Unanswered as error:
                    print(f"| {_told(size)} | {name} | {error} | | | | {os.getloadavg()[0]:.0f} |", flush=True)
                else:
                    _show(size, name, turns)


def _told(size: Size) -> str:
    return f"{size.links:,}" + (f" of {size.tasks} task" if size.tasks != Size(0).tasks else "")


def _show(size: Size, name: str, turns: Sequence[Cost]) -> None:
    seconds = statistics.median(turn.seconds for turn in turns)
    parts = [[turn.client for turn in turns], [turn.agent for turn in turns], [turn.other for turn in turns]]
    cells = [_told(size), name, f"{seconds:.2f} s"]
    for part in parts:
        cpu, mib = (statistics.median(each) for each in zip(*part, strict=True))
        cells.append(f"{cpu:.2f} s, {mib:.0f} MiB")
    print(f"| {' | '.join([*cells, f'{os.getloadavg()[0]:.0f}'])} |", flush=True)


def main(words: Sequence[str]) -> None:
    """Measure the sizes that are named, and of these the commands that are named; else all."""
    configure("warning")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sizes = [Size(*map(int, word.split(":"))) for word in words if re.fullmatch(r"\d+(:\d+)?", word)]
    names = [word for word in words if word in COMMANDS] or list(COMMANDS)
    print("| links | question | on the clock | client: CPU, memory | asked agent | another agent | load |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for size in sizes or map(Size, (100, 1000, 5000)):
        with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as folder:
            measure(size, Path(folder), names)


if __name__ == "__main__":
    main(sys.argv[1:])
