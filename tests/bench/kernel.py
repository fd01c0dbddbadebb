"""The groups that a kernel with WireGuard changes, measured in the guest (tests/kernel), in the same table.

Its processor is emulated, and runs Python and programs ten times slower than outside: only ratios mean anything.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mesh.log import configure
from tests.bench import device, link, many, overlay, peers, report, wire
from tests.bench.measure import QUICK, Effort, NotHere, Row
from tests.bench.run import run_groups
from tests.kernel import guest
from tests.kernel.errors import GuestError, GuestSetupError

_GROUPS: dict[str, Callable[[Effort], list[Row]]] = {
    "link": link.measure,
    "overlay": overlay.measure,
    "wire": wire.measure,
    "device": device.measure,
    "peers": peers.measure,
    "many": many.measure,
}
_EFFORT = replace(QUICK, seconds=0.5, most=1000)
_PACKETS = replace(_EFFORT, rounds=6, exchanges=100)
"""What passes packets takes no longer here than elsewhere, and scatters."""
_OF = {"link": _PACKETS, "overlay": _PACKETS}
_SECONDS = 900.0
_RESULT = "rows.json"


def measure(effort: Effort) -> list[Row]:
    """The rows of the guest, their keys after `kernel.`."""
    quick = ["--quick"] * (effort == QUICK)
    with tempfile.TemporaryDirectory(prefix="linkwire-bench-") as folder:
        result = Path(folder) / _RESULT
        command = [sys.executable, "-m", "tests.bench.kernel", *quick]
        try:
            done = guest.run(command, timeout=_SECONDS, exchange=Path(folder))
        except GuestSetupError as error:
            raise NotHere(str(error)) from error
        except GuestError as error:
            raise ChildProcessError(str(error)) from error
        if done.returncode or not result.exists():
            raise ChildProcessError(f"in the guest: exit code {done.returncode}: {done.output[-1000:]}")
        rows = [report.from_json(row) for row in json.loads(result.read_text())]
    return [replace(row, key=f"kernel.{row.key}", what=f"{row.what} [kernel]") for row in rows]


def main() -> int:
    """What runs in the guest. What is measured is printed too: it is seen also when the guest is stopped."""
    configure("warning")
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for name, group in _GROUPS.items():
        done = run_groups({name: group}, QUICK if "--quick" in sys.argv else _OF.get(name, _EFFORT))
        rows += done.rows
        failed |= done.failed
        print(report.table(done.rows), flush=True)
    Path(guest.EXCHANGE, _RESULT).write_text(json.dumps([report.as_json(row) for row in rows]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
