"""Entry point of `linkwire-controller`, of `linkwire-etcd` and of `python -m controller`.

A container's first process does not get a signal that it has no handler for (pid_namespaces(7)), and to load all
modules takes a second or more: who stops the container in that time would wait for its whole grace period. Not
`sys.exit`: a module that is being loaded may catch what it raises.
"""

import os
import signal


def main() -> None:
    """Run the controller; leave at once when told to stop before it could prepare for that."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from controller import cli  # noqa: PLC0415 - after the handler

    cli.main()


def etcd() -> None:
    """Run etcd with its users and roles; leave at once when told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from controller.etcd import server  # noqa: PLC0415 - after the handler

    server.main()


if __name__ == "__main__":
    main()
