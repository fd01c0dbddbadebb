"""The `docker-linkwire` program: a Docker CLI plugin.

Docker asks every plugin for its metadata at each `docker --help`: that answer needs nothing but this module.
"""

import sys

from compose_ext import __version__

TYPE_CHECKING = False
"""As `typing` has it, which takes longer to import than all else here."""
if TYPE_CHECKING:
    from types import FrameType

# docker/cli cli-plugins/metadata/metadata.go
_METADATA_COMMAND = "docker-cli-plugin-metadata"
_METADATA = """\
{{
  "SchemaVersion": "0.1.0",
  "Vendor": "Linkwire",
  "Version": "{version}",
  "ShortDescription": "WireGuard between the services that a compose file links"
}}
"""
_INTERRUPTED = 128 + 2  # as a shell says SIGINT


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    if sys.argv[1:2] == [_METADATA_COMMAND]:
        sys.stdout.write(_METADATA.format(version=__version__))
        return 0
    import gc  # noqa: PLC0415 - the metadata must not wait for these
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    for stream in (sys.stdout, sys.stderr):
        # A file's name may hold what the terminal's encoding does not.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's
        signal.signal(signal.SIGHUP, _end)
    # One short run that makes a million small objects and drops none: collecting would double its time.
    gc.disable()
    from compose_ext.cli import main as run  # noqa: PLC0415

    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough. What is left to write must not fail at exit again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _end(number: int, _frame: "FrameType | None") -> None:
    """Leave by an exception, so that private files are removed."""
    sys.exit(128 + number)
