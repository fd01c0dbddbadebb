"""Entry point of `linkwire-agent` and of `python -m agent`.

A container's first process does not get a signal that it has no handler for (pid_namespaces(7)), and to load all
modules takes a second or more: who stops the container in that time would wait for its whole grace period. Not
`sys.exit`: a module that is being loaded may catch what it raises.
"""

import os
import signal


def main() -> None:
    """Run the command; leave at once when told to stop before it could prepare for that."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from agent import cli  # noqa: PLC0415 - after the handler

    cli.main()


if __name__ == "__main__":
    main()
