"""Entry point of `linkwire-agent` and of `python -m agent`.

A container's first process does not get a signal that it has no handler for (pid_namespaces(7)), and to load all
modules takes a second or more: who stops the container in that time would wait for its whole grace period. Not
`sys.exit`: a module that is being loaded may catch what it raises.

rich is of the command line's: structlog would take it for coloured tracebacks, and a tenth of a start with it.
"""

import os
import signal
import sys


def _prepare() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sys.modules["rich"] = None  # type: ignore[assignment] # importlib: not to be found


def main() -> None:
    """Run the command; leave at once when told to stop before it could prepare for that."""
    _prepare()
    from agent import cli  # noqa: PLC0415 - after that

    cli.main()


if __name__ == "__main__":
    main()
