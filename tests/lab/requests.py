"""Counts requests that are lost over a link while something is being broken."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.lab import process
from tests.lab.node import Node
from tests.lab.words import Words
from tests.support.effort import LONG
from tests.support.fault_rows import FaultRow
from tests.support.patience import slowness

PATIENCE_S = 1.0
"""Seconds without an answer after which a request is lost; more on a busy machine, where programs wait."""
PAUSE_S = 0.02 if LONG else 0.05
"""Seconds between two requests of a client. They cost a seventh of a processor in the long form, else half that."""
# One new connection after another, until the file /tmp/stop is there or the seconds have gone.
PROGRAM = """
import json, os, sys, time, urllib.request
url, ok, lost, first, last, why, when = sys.argv[1], 0, 0, None, None, {}, []
answered, longest, longest_ended = time.monotonic(), 0.0, 0.0
end = time.monotonic() + float(sys.argv[2])
while not os.path.exists("/tmp/stop") and time.monotonic() < end:
    began = time.time()
    try:
        urllib.request.urlopen(url, timeout=float(sys.argv[3])).read()
        ok += 1
        if time.monotonic() - answered > longest:
            longest, longest_ended = time.monotonic() - answered, time.time()
        answered = time.monotonic()
    except Exception as error:
        lost += 1
        first, last = first or began, time.time()
        why[str(error)] = why.get(str(error), 0) + 1
        when.append((round(began, 1), round(time.time() - began, 1)))
    time.sleep(float(sys.argv[4]))
gap = last - first if lost else 0.0
longest = max(longest, time.monotonic() - answered)
said = {"ok": ok, "lost": lost, "gap": gap, "why": why, "longest": longest, "when": when[:20]}
said["longest_ended"] = longest_ended
open("/tmp/counted", "w").write(json.dumps(said))
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What came of it.

    Attributes:
        ok: requests that were answered.
        lost: requests that were not.
        gap: seconds from the first lost one's start to the last one's end.
        why: how often each error came.
        longest: seconds between two answers, the longest.
        longest_ended: when it did, in seconds since the epoch; 0 where it ended with the requests.
        when: the first lost ones' starts, as seconds since the epoch, and how long each waited.
    """

    ok: int
    lost: int
    gap: float
    why: Mapping[str, int] = field(default_factory=dict)
    longest: float = 0.0
    longest_ended: float = 0.0
    when: Sequence[Sequence[float]] = ()

    def row(self, fault: str, wired: float | None = None, words: Words | None = None) -> FaultRow:
        """Its row in the table of faults; `wired` are seconds until a new task was, `words` those of `status`."""
        false = len(words.false) if words is not None and words.asked else None
        return FaultRow(fault, self.ok + self.lost, self.lost, self.longest, wired, false)

    def __str__(self) -> str:
        errors = ", ".join(f"{count} x {text}" for text, count in self.why.items())
        return (
            f"{self.lost} of {self.ok + self.lost} requests lost"
            + (f" in {self.gap:.1f} s: {errors}, at {self._times()}; " if self.lost else ", ")
            + f"longest gap {self.longest:.2f} s until {_clock(self.longest_ended)}"
        )

    def _times(self) -> str:
        return ", ".join(f"{_clock(began)} for {lasted:.1f} s" for began, lasted in self.when)


def _clock(at: float) -> str:
    """Return the time of day of logs (UTC)."""
    return time.strftime("%H:%M:%S", time.gmtime(at))


def together(counted: Sequence[Counted]) -> Counted:
    """Add up several clients' at the same time."""
    why: Counter[str] = Counter()
    for one in counted:
        why.update(one.why)
    total, lost = (sum(getattr(one, name) for one in counted) for name in ("ok", "lost"))
    when = sorted((lost_one for one in counted for lost_one in one.when), key=tuple)
    slowest = max(counted, key=lambda one: one.longest)
    gap = max(one.gap for one in counted)
    return Counted(total, lost, gap, why, slowest.longest, slowest.longest_ended, when)


class Requests:
    """While entered, requests from a task of a service over a link; afterwards `counted`."""

    def __init__(self, node: Node, container: str, url: str, seconds: float = 900.0) -> None:
        """Prepare to request `url` from a container on a node, for so many seconds at most."""
        self._seconds = seconds
        self._node = node
        self._container = container
        self._url = url
        self.counted = Counted(0, 0, 0.0)

    def __enter__(self) -> Requests:  # noqa: PYI034 - final
        self._node.docker("exec", self._container, "rm", "-f", "/tmp/stop", "/tmp/counted")  # noqa: S108 - in the container
        seconds = (f"{self._seconds}", f"{PATIENCE_S * slowness()}", f"{PAUSE_S}")
        program = ("python3", "-c", PROGRAM, self._url, *seconds)
        self._node.docker("exec", "--detach", self._container, *program)
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._node.docker("exec", self._container, "touch", "/tmp/stop")  # noqa: S108 - in the container
        said: list[str] = []

        def ended() -> bool:
            done = self._node.docker("exec", self._container, "cat", "/tmp/counted", check=False)  # noqa: S108
            said[:] = [done.stdout]
            return bool(done.stdout)

        process.wait_for("the requests to be counted", ended, seconds=20, every=0.2)
        self.counted = Counted(**json.loads(said[0]))


class Load:
    """While entered, the same from several tasks at once; afterwards `counted`, of all."""

    def __init__(self, tasks: Sequence[tuple[Node, str]], url: str, seconds: float = 900.0) -> None:
        """Prepare to request `url` from these containers, for so many seconds at most."""
        self._all = [Requests(node, container, url, seconds) for node, container in tasks]
        self.counted = Counted(0, 0, 0.0)

    def __enter__(self) -> Load:  # noqa: PYI034 - final
        with ThreadPoolExecutor(len(self._all)) as pool:
            list(pool.map(Requests.__enter__, self._all))
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(len(self._all)) as pool:
            list(pool.map(Requests.__exit__, self._all))
        self.counted = together([one.counted for one in self._all])
