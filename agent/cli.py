"""Command line of `linkwire-agent`. Each command loads its own modules: the supervisor has to be small and quick."""

from __future__ import annotations

import resource
import sys

import structlog

from agent import settings
from agent.supervisor import supervise
from mesh.errors import LinkwireError
from mesh.process import hardening
from mesh.process import log_setup as logging

log = structlog.get_logger(__name__)

OPEN_FILES = 65_536


def main() -> None:
    """Run the command; exit 1 on an error that no retry can mend."""
    hardening.protect()
    options = settings.parse(sys.argv[1:])
    _allow_open_files()
    logging.configure(options.log_level)
    if options.command == "supervise":
        sys.exit(supervise([argument for argument in sys.argv[1:] if argument != "supervise"]))
    if options.command in settings.NODE_JOBS:
        from agent.node_gate import node_jobs  # noqa: PLC0415 - see above

        sys.exit(node_jobs.run(options.command, options.docker, options.containers, options.state))
    from agent import assembly  # noqa: PLC0415 - see above

    try:
        {"inspect": assembly.inspect, "events": assembly.events}.get(options.command, assembly.run)(options)
    except LinkwireError as error:
        log.error("agent stopped", error=str(error))  # noqa: TRY400 - the message says it all
        sys.exit(1)


def _allow_open_files() -> None:
    """Raise the limit of open files: a wired task takes about ten, and Docker's default may be 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
