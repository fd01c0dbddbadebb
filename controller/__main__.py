"""Entry point of `linkwire-controller`, of `linkwire-etcd` and of `python -m controller`.

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
    """Run the controller; leave at once when told to stop before it could prepare for that."""
    _prepare()
    from controller import cli  # noqa: PLC0415 - after that

    cli.main()


def etcd() -> None:
    """Run etcd with its users and roles; leave at once when told to stop."""
    _prepare()
    from controller.etcd import server  # noqa: PLC0415 - after that

    server.main()


if __name__ == "__main__":
    main()
