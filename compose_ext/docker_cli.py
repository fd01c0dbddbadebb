"""The `docker` program, run with the user's own flags: contexts, ssh and TLS work as in Docker."""

import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Self

from compose_ext.diagnostics import DockerError

CHOICE = "LINKWIRE_DOCKER"
"""Environment variable that names the program."""
# Set by docker when it runs a plugin, so that the plugin can run the same docker (cli-plugins/metadata/metadata.go).
_ORIGINAL = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"
_PLUGIN = "docker-linkwire"
_PLUGIN_ONLY = (_ORIGINAL, "DOCKER_CLI_PLUGIN_SOCKET")
_LONGEST_ERROR = 2000
_CHUNK = 65_536
PWD = "PWD"  # noqa: S105 - no password: the variable with the folder's name
_SOCKET = "unix://"
# Flags and variables that hold a path: it counts from the folder in which docker runs. In what stands before it.
_PATHS = {
    **dict.fromkeys(("--config", "--tlscacert", "--tlscert", "--tlskey", "DOCKER_CONFIG", "DOCKER_CERT_PATH"), ""),
    **dict.fromkeys(("--host", "DOCKER_HOST"), _SOCKET),
}

Said = tuple[int, str | DockerError | None]
"""The number of a command, and a line of its output, or how it ended."""


@dataclass(frozen=True, slots=True)
class Docker:
    """The docker program, aimed at one endpoint."""

    program: str
    flags: tuple[str, ...] = ()
    """Docker's global flags, as the user gave them."""
    folder: str | None = None
    """Where it runs; None: where we do."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables besides our own, or instead of ours."""

    def within(self, folder: str) -> Self:
        """Return the same program, run in a folder, where each relative path of its own leads where it led before.

        Go takes its folder's name from the variable PWD, which is changed where the folder would lose its symbolic
        links otherwise.

        Args:
            folder: an absolute path.
        """
        if folder == named_folder("."):
            return self
        renamed = {} if named_folder(folder) == folder else {PWD: folder}
        moved = {
            name: _absolute(name, value)
            for name in _PATHS
            if (value := self.environment.get(name) or os.environ.get(name))
        }
        flags = []
        for flag in self.flags:
            name, equals, value = flag.partition("=")
            flags.append(f"{name}={_absolute(name, value)}" if equals and name in _PATHS else flag)
        program = shutil.which(self.program) or self.program
        program = os.path.abspath(program) if os.path.dirname(program) else program  # noqa: PTH100, PTH120 - texts
        environment = {**self.environment, **renamed, **moved}
        return replace(self, program=program, flags=tuple(flags), folder=folder, environment=environment)

    def with_variables(self, environment: Mapping[str, str]) -> Self:
        """Return the same program with more variables."""
        return replace(self, environment={**self.environment, **environment})

    def run(self, arguments: Sequence[str], stdin: bytes | None = None) -> int:
        """Run a command whose output is for the user; returns its exit code.

        Raises:
            DockerError: the program cannot be run.
        """
        command = [self.program, *self.flags, *arguments]
        streams = {"stdin": None if stdin is None else subprocess.PIPE}
        with _started(command, self.environment, self.folder, **streams) as process:
            if stdin is not None and process.stdin:
                try:
                    process.stdin.write(stdin)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # docker ended without reading it all; its exit code says why
            return process.wait()

    def ask(
        self,
        arguments: Sequence[str],
        timeout: float,
        stdin: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        merged: bool = False,
    ) -> str:
        """Run a command and return its output.

        Args:
            arguments: of docker.
            timeout: in seconds.
            stdin: what it reads there, the way for secrets: arguments and environment are for everybody to see.
            environment: variables besides our own.
            merged: whether to return standard error too: `docker service logs` writes a program's there.

        Raises:
            DockerError: the program cannot be run, fails, or takes longer; the text is docker's own.
        """
        command = [self.program, *self.flags, *arguments]
        source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        errors = subprocess.STDOUT if merged else subprocess.PIPE
        streams = {"stdin": source, "stdout": subprocess.PIPE, "stderr": errors}
        with _started(command, {**self.environment, **(environment or {})}, self.folder, **streams) as process:
            try:
                out, error = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise DockerError(f"docker did not answer within {timeout:g} s") from None
        if process.returncode:
            reason = printable((out if merged else error).decode("utf-8", "replace").strip()[:_LONGEST_ERROR])
            written = out.decode("utf-8", "replace")
            raise DockerError(reason or f"docker failed with exit code {process.returncode}", written)
        return out.decode("utf-8", "replace")

    def follow(self, arguments: Sequence[str]) -> Iterator[str]:
        """Run a command and yield its output's lines as they come; its standard input is open until then.

        Raises:
            DockerError: the program cannot be run or fails; the text is docker's own.
        """
        command = [self.program, *self.flags, *arguments]
        with tempfile.TemporaryFile() as errors:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors.fileno()}
            with _started(command, self.environment, self.folder, **streams) as process:
                try:
                    for line in process.stdout or ():
                        yield line.decode("utf-8", "replace")
                    code = process.wait()
                finally:
                    if process.stdin:  # docker may wait for it before it heeds a signal
                        process.stdin.close()
            failure = _failure(code, errors)
        if failure is not None:
            raise failure

    def follow_all(self, commands: Sequence[Sequence[str]], tick: float) -> Generator[Said | None]:
        """Run commands at the same time, and yield lines of standard output and error as they come.

        `docker service logs` writes a program's standard error to its own. A command ends with None, or where it
        failed with its last line as the error; the others go on.

        Args:
            commands: of docker.
            tick: seconds without a line after which None is yielded.

        Raises:
            DockerError: the program cannot be run.
        """
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            running: dict[int, tuple[subprocess.Popen[bytes], _Lines]] = {}
            for number, arguments in enumerate(commands):
                streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
                command = [self.program, *self.flags, *arguments]
                process = stack.enter_context(_started(command, self.environment, self.folder, **streams))
                stack.callback(process.terminate)
                if process.stdout is None:
                    raise AssertionError("it was asked for")
                running[number] = process, _Lines()
                selector.register(process.stdout, selectors.EVENT_READ, number)
            while running:
                ready = selector.select(tick)
                for key, _ in ready:
                    process, lines = running[key.data]
                    part = os.read(key.fd, _CHUNK)
                    yield from ((key.data, line) for line in lines.split(part))
                    if not part:
                        selector.unregister(key.fileobj)
                        del running[key.data]
                        yield key.data, lines.failure(process.wait())
                if not ready:
                    yield None


@dataclass(slots=True)
class _Lines:
    """Output that comes in parts, line by line."""

    _rest: bytes = b""
    _last: str = ""

    def split(self, part: bytes) -> Iterator[str]:
        """Yield the lines that are whole with this part; an empty one is the end."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        if not part and self._rest:
            lines.append(self._rest)
        for line in lines:
            self._last = line.decode("utf-8", "replace")
            yield self._last

    def failure(self, code: int) -> DockerError | None:
        """Return the error of the command, when it has ended."""
        reason = printable(self._last.strip()[:_LONGEST_ERROR])
        return DockerError(reason or f"docker failed with exit code {code}") if code else None


def _failure(code: int, errors: IO[bytes]) -> DockerError | None:
    """Return the error of a command that ended, in docker's own words; None where it did not fail."""
    errors.seek(0)
    reason = printable(errors.read(_LONGEST_ERROR).decode("utf-8", "replace").strip())
    return DockerError(reason or f"docker failed with exit code {code}") if code else None


def choose(flags: Sequence[str]) -> Docker:
    """Choose the program: what LINKWIRE_DOCKER names, else the docker that called us, else the one on PATH."""
    caller = os.environ.get(_ORIGINAL, "")
    if os.path.basename(caller).startswith(_PLUGIN):  # noqa: PTH119 - a text
        caller = ""  # so docker calls itself when a shell's completion asks
    return Docker(os.environ.get(CHOICE) or caller or "docker", tuple(flags))


@contextmanager
def private_files(contents: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """Write files that only this user can read, and remove them afterwards; yields their paths by name."""
    with tempfile.TemporaryDirectory(prefix="linkwire-") as folder:
        paths = {}
        for name, data in contents.items():
            path = Path(folder) / name
            path.touch(mode=0o600)
            path.write_bytes(data)
            paths[name] = str(path)
        yield paths


def printable(text: str) -> str:
    """Replace characters that could control a terminal."""
    if text.isprintable():  # as nearly all: of a thousand links there are a million texts
        return text
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def named_folder(folder: str) -> str:
    """Return the name that a program of Go's has for the folder in which it runs (os.Getwd).

    $PWD if that is the folder, so with symbolic links in it, else its real path.
    """
    named = os.environ.get(PWD, "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, folder):  # noqa: PTH117, PTH121 - texts
            return named
    except OSError:
        pass
    return os.path.realpath(folder)


def _absolute(name: str, value: str) -> str:
    """Return the value of one of _PATHS that means the same in every folder; an address that is no path as it is."""
    before = _PATHS[name]
    path = value.removeprefix(before)
    if not path or not value.startswith(before):
        return value
    return before + os.path.abspath(path)  # noqa: PTH100 - a text


@contextmanager
def _started(
    command: Sequence[str], more: Mapping[str, str], folder: str | None, **streams: int | None
) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {name: value for name, value in os.environ.items() if name not in _PLUGIN_ONLY} | dict(more)
    process = None
    try:
        with _signals_held():
            process = _spawn(command, environment, folder, streams)
        yield process
    except BaseException:
        # Ctrl-C reaches docker as well, and it ends by itself; after any other way out it must not stay behind.
        if process:
            process.terminate()
            process.wait()
        raise


def _spawn(
    command: Sequence[str], environment: dict[str, str], folder: str | None, streams: dict[str, int | None]
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command, env=environment, cwd=folder, **streams)  # type: ignore[call-overload, no-any-return]
    except OSError as error:
        message = (
            f"cannot run {command[0]!r} ({error.strerror}); {CHOICE} in the environment names the docker program"
        )
        raise DockerError(message) from None


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back while a process starts: one that ended us then would leave the process behind.

    They end the main thread alone, and no other may hold them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for held in handlers:
        signal.signal(held, lambda arrived, _frame: caught.append(arrived))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for arrived in caught:
            signal.raise_signal(arrived)
