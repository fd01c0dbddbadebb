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
    _open_streams()
    try:
        code = _run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        if error.filename is not None:  # no stream's
            raise
        return _unwritten(error)
    return code


def _run() -> int:
    if sys.argv[1:2] == [_METADATA_COMMAND]:
        sys.stdout.write(_METADATA.format(version=__version__))
        return 0
    import gc  # noqa: PLC0415 - the metadata must not wait for these
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

    return run(sys.argv[1:])


def _open_streams() -> None:
    """Open a stream that the caller closed: the next file would get its number, and be written to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open("/dev/null", mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - until the process ends


def _unwritten(error: OSError) -> int:
    """Give up standard output, which cannot be written; returns the exit code."""
    import os  # noqa: PLC0415 - as in _run
    from contextlib import suppress  # noqa: PLC0415

    # What is left to write must not fail at exit again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # the reader, `head` for one, has seen enough
        return 0
    with suppress(OSError):
        print(f"docker linkwire: the output cannot be written: {error.strerror}", file=sys.stderr)
    return 1


def _end(number: int, _frame: "FrameType | None") -> None:
    """Leave by an exception, so that private files are removed."""
    sys.exit(128 + number)
