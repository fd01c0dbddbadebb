"""Measurements, side by side in one run: python -m tests.bench --help."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from mesh.process.log_setup import configure
from tests.bench import (
    device,
    docker,
    docs,
    kernel,
    link,
    machine,
    many,
    nodes,
    overlay,
    peers,
    plan,
    report,
    rules,
    scale,
    store,
    verified,
    wire,
)
from tests.bench.measure import FULL, QUICK, Effort
from tests.bench.run import Measure, run_groups
from tests.netns.world import sweep
from tests.support import stage

GROUPS: dict[str, Measure] = {
    "link": link.measure,
    "overlay": overlay.measure,
    "nodes": nodes.measure,
    "rules": rules.measure,
    "wire": wire.measure,
    "device": device.measure,
    "peers": peers.measure,
    "many": many.measure,
    "store": store.measure,
    "verified": verified.measure,
    "plan": plan.measure,
    "docker": docker.measure,
    "scale": scale.measure,
    "kernel": kernel.measure,
}
SLOW = ("docker", "scale", "kernel")
"""Groups that take a minute to begin: not among those of --quick unless they are named."""
OUTPUT = Path("build/bench/result.json")
DOCS = Path("docs/bench")
_PROGRAMS = ("ip", "nft", "nsenter", "wg", "wireguard-go", "etcd", "etcdctl", "setpriv")


def main(argv: list[str] | None = None) -> int:
    """Measure; 0 done, 1 it says why not, 2 wrong arguments."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.docs is not None:
        return _write_docs(options.output, options.docs)
    if unknown := [name for name in options.groups if name not in GROUPS]:
        parser.error(f"there is no group {', '.join(unknown)}; the groups are: {', '.join(GROUPS)}")
    if os.geteuid() != 0:
        print("bench: it makes network namespaces, so it has to run as root", file=sys.stderr)
        return 1
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        print(f"bench: not installed: {', '.join(missing)}; run deploy/bootstrap.sh", file=sys.stderr)
        return 1
    default = [name for name in GROUPS if not (options.quick and name in SLOW)]
    configure("warning")
    # SystemExit unwinds, and takes everything away; the signal's default would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    code = 1
    try:
        sweep()
        failed = _measure(QUICK if options.quick else FULL, options.groups or default, options)
        code = 1 if failed else 0
    except KeyboardInterrupt:
        print("bench: interrupted; taking everything away", file=sys.stderr)
        code = 128 + signal.SIGINT
    finally:
        left = stage.end_leftovers()
    if left:
        print(f"bench: could not take away {', '.join(left)}", file=sys.stderr)
        return code or 1
    return code


def _write_docs(measured: Path, folder: Path) -> int:
    """What was measured last, as files; 0 done, 1 it says why not."""
    try:
        result = json.loads(measured.read_text())
        if result["quick"]:
            print(f"bench: {measured} is of a --quick run, whose figures mean little", file=sys.stderr)
            return 1
        names = docs.write(result, folder)
    except (OSError, ValueError, KeyError) as error:
        print(f"bench: {measured}: {type(error).__name__}: {error}: run `make bench` first", file=sys.stderr)
        return 1
    print(f"wrote {', '.join(names)} to {folder}")
    return 0


def _measure(effort: Effort, groups: list[str], options: argparse.Namespace) -> dict[str, str]:
    """Measure, print and write; the groups that failed, and why."""
    before = machine.facts()
    run = run_groups({name: GROUPS[name] for name in groups}, effort)
    result = {
        "quick": options.quick,
        "machine": {**before, "load_after": machine.load()},
        **run.as_json(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(report.table(run.rows))
    print(
        "\nMedian (least..most). The ratio is Linkwire's figure to the reference's, turn by turn: only that is "
        f"comparable\nbetween runs. {before['cores']} cores, {before['wireguard']}, load {before['load']} before and "
        f"{result['machine']['load_after']} after. All figures: {options.output}",
    )
    print(f"Seconds: {', '.join(f'{name} {seconds:.0f}' for name, seconds in run.seconds.items())}")
    for name, why in run.not_here.items():
        print(f"Not measured here: {name}: {why}")
    for name, why in run.failed.items():
        print(f"FAILED: {name}: {why}")
    return run.failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What docs/bench.md describes.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"only these of: {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="seconds, with small sizes: shows that it works")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument(
        "--docs",
        type=Path,
        nargs="?",
        const=DOCS,
        metavar="FOLDER",
        help=f"measure nothing; write the last results as table and plots (default: {DOCS})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
