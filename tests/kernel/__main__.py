"""Runs a command, or pytest, on a real kernel with WireGuard: python -m tests.kernel --help."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from tests.kernel import guest, inner
from tests.kernel.errors import GuestError

EXIT_LOST = 125  # no exit code from the guest; as `timeout` and `docker run` do for failures of their own


def main() -> int:
    """Run the command line; the exit code is the command's own."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernel",
        usage="%(prog)s [options] (-- COMMAND [ARGUMENT...] | pytest [ARGUMENT...])",
        description="Run a command, or the project's pytest, on a real Debian kernel with WireGuard, in QEMU. "
        "It sees this machine's files at the same paths, and what it writes is thrown away. "
        "Variables whose names begin with LINKWIRE_ are passed on.",
    )
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for the command (default: %(default)g)")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB", help="default: %(default)s")
    parser.add_argument("--cpus", type=int, default=2, help="default: %(default)s")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    command: list[str] = options.command
    if command[:1] == ["pytest"]:
        command = inner.pytest_command(command[1:])
    elif command[:1] == ["--"]:
        command = command[1:]
    if not command:
        parser.error("no command: say `-- COMMAND` or `pytest PATHS`")
    # SystemExit unwinds, and stops the guest; the signal's default would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        result = guest.run(
            command,
            timeout=options.timeout,
            memory_mib=options.memory,
            cpus=options.cpus,
            env={key: value for key, value in os.environ.items() if key.startswith("LINKWIRE_")},
            stream=sys.stdout,
        )
    except GuestError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_LOST
    except KeyboardInterrupt:
        print("interrupted; the guest is stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    print(
        f"[guest: exit code {result.returncode}, {result.seconds:.1f} s, of them {result.boot_seconds:.1f} to boot]",
        file=sys.stderr,
    )
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
