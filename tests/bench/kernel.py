"""The groups that a kernel with WireGuard changes, measured in the guest (tests/kernel), in the same table.

Its processor is emulated, and runs Python and programs ten times slower than outside: only ratios mean anything.
One group by hand: python -m tests.kernel -- .venv/bin/python -m tests.bench.kernel nodes
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mesh.process.log_setup import configure
from tests.bench import device, link, many, nodes, overlay, peers, report, wire
from tests.bench.measure import QUICK, Effort, NotHere
from tests.bench.run import Measure, Run, run_groups
from tests.kernel import guest
from tests.kernel.errors import GuestError, GuestSetupError

_NAME = "kernel"
_GROUPS: Mapping[str, Measure] = {
    "link": link.measure,
    "overlay": overlay.measure,
    "nodes": lambda effort: nodes.measure(replace(effort, turns=8 * effort.turns)),
    "wire": wire.measure,
    "device": device.measure,
    "peers": peers.measure,
    # A namespace, a device and its rules are some twenty programs, and take seconds for each task.
    "many": lambda effort: many.measure(replace(effort, many=5)),
}
_EFFORT = replace(QUICK, turns=20, trips=40, exchanges=50, most=1000)
_SECONDS = 1200.0
_RESULT = "run.json"


def measure(effort: Effort) -> Run:
    """What came of the guest's groups, their names and keys after `kernel.`.

    A guest that does not come to its end is a failure, and what it has measured by then counts.

    Raises:
        NotHere: no guest can be started on this machine.
    """
    quick = ["--quick"] * (effort == QUICK)
    with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as folder:
        command = [sys.executable, "-m", "tests.bench.kernel", *quick]
        ended = ""
        try:
            done = guest.run(command, timeout=_SECONDS, exchange=Path(folder), stream=sys.stderr)
        except GuestSetupError as error:
            raise NotHere(str(error)) from error
        except GuestError as error:
            ended = str(error)
        else:
            if done.returncode:
                ended = f"exit code {done.returncode}"
        run = _read(Path(folder, _RESULT))
    if ended or not run.rows:
        print(ended, file=sys.stderr)
        first, *_ = ended.splitlines() or ["nothing was measured"]
        run.failed[_NAME] = f"in the guest: {first}"
    return run


def _read(path: Path) -> Run:
    """What the guest has written last."""
    run = Run.from_json(json.loads(path.read_text())) if path.exists() else Run()
    run.rows = [replace(row, key=f"{_NAME}.{row.key}", what=f"{row.what} [kernel]") for row in run.rows]
    return run


def main() -> int:
    """What runs in the guest, all groups or those that are named. What is measured is printed too."""
    configure("warning")
    effort = QUICK if "--quick" in sys.argv else _EFFORT
    groups = {name: group for name, group in _GROUPS.items() if name in sys.argv} or _GROUPS
    shown = 0

    def after(run: Run) -> None:
        nonlocal shown
        if fresh_rows := run.rows[shown:]:
            print(report.table(fresh_rows), flush=True)
        shown = len(run.rows)
        fresh = Path(guest.EXCHANGE, f"{_RESULT}.new")
        fresh.write_text(json.dumps(run.as_json()))
        fresh.replace(Path(guest.EXCHANGE, _RESULT))

    run_groups({f"{_NAME}.{name}": group for name, group in groups.items()}, effort, after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
