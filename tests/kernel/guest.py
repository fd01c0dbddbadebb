"""One command on a real Debian kernel with WireGuard, in QEMU, with this machine's files.

The command sees the whole file system of the host at the same paths, read-only under an overlay in memory: what it
writes is gone when it ends, except in the exchange folder. No KVM is needed. Whatever is started here is stopped
here, by its own process id, however `run` ends; if this process is killed, the kernel stops them (PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TextIO

from tests.kernel import debian_kernel, initramfs
from tests.kernel.debian_kernel import REPO
from tests.kernel.errors import GuestError, GuestLostError, GuestPanicError, GuestSetupError, GuestTimeoutError
from tests.kernel.port import OutputPort

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from tests.kernel.debian_kernel import Kernel

EXCHANGE: Final = "/run/linkwire-exchange"
"""Where the guest has the exchange folder, readable and writable."""

GUEST_VARIABLE: Final = "LINKWIRE_GUEST"
"""Set to the kernel's release in the environment of every command in the guest, and nowhere else."""

BOOT_TIMEOUT: Final = 120.0
"""Seconds; it takes 5 on an idle machine, and 30 was seen with ten other programs on its two processors."""

VIRTIOFSD: Final = "/usr/lib/qemu/virtiofsd"  # Debian 12's, from qemu-system-common; not on PATH
COMMANDS: Final = ("qemu-system-x86_64", VIRTIOFSD, "busybox", "cpio", "setpriv", "dpkg", "apt-get", "apt-cache")
CONSOLE_TAIL: Final = 30  # lines


@dataclass(frozen=True, slots=True)
class Result:
    """How a command in the guest ended: exit code, standard output and error together, seconds in all and to boot."""

    returncode: int
    output: str
    seconds: float
    boot_seconds: float


def run(
    command: Sequence[str],
    *,
    timeout: float,
    memory_mib: int = 2048,
    cpus: int = 2,
    cwd: Path = REPO,
    env: Mapping[str, str] | None = None,
    exchange: Path | None = None,
    stream: TextIO | None = None,
) -> Result:
    """Boot a guest, run `command` in it, and return how it ended.

    Args:
        command: Program and arguments; found on the guest's PATH, which is Debian's for root.
        timeout: Seconds for the command; the boot has a limit of its own, BOOT_TIMEOUT.
        memory_mib: The guest's memory, of which three quarters may hold what the command writes.
        cpus: The guest's processors.
        cwd: The command's working folder.
        env: Added to the guest's environment, which inherits nothing from this process.
        exchange: A folder of the host that the guest has at EXCHANGE; by default one that is thrown away.
        stream: Where the output goes as it comes; by default nowhere.

    Raises:
        GuestSetupError: This machine lacks something, and the message says what.
        GuestPanicError: The guest's kernel panicked.
        GuestTimeoutError: It did not end in time, and was stopped.
        GuestLostError: It ended without an exit code in another way.
    """
    check_host()
    kernel = debian_kernel.obtain()
    with tempfile.TemporaryDirectory(prefix="linkwire-guest-") as name:
        work = Path(name)
        shared = exchange or work / "exchange"
        shared.mkdir(exist_ok=True)
        (shared / "started").unlink(missing_ok=True)
        (shared / "command").write_text(_script(command, cwd, {GUEST_VARIABLE: kernel.release, **(env or {})}))
        with _Guest(kernel, work, shared, memory_mib=memory_mib, cpus=cpus, stream=stream) as guest:
            return guest.wait(timeout)


def check_host() -> None:
    """Raise GuestSetupError if this machine lacks a command, or the right, to start a guest."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise GuestSetupError(f"missing {', '.join(missing)}: run deploy/bootstrap.sh kernel")
    # ldd fails on a static program. Debian's package `busybox` is not static and has the same path.
    if subprocess.run(["ldd", shutil.which("busybox") or ""], capture_output=True, check=False).returncode == 0:
        raise GuestSetupError("busybox is not static (package busybox-static): run deploy/bootstrap.sh kernel")
    if os.geteuid() != 0:
        raise GuestSetupError("the guest shares this machine's files as root: run as root")


def _script(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> str:
    """The shell script that the guest's init runs."""
    variables = {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        **env,
    }
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    return f"{exports}cd {shlex.quote(str(cwd))} || exit 126\nexec {shlex.join(command)}\n"


class _Guest:
    """The processes behind one guest, from `with` to the end of its block."""

    def __init__(
        self, kernel: Kernel, work: Path, exchange: Path, *, memory_mib: int, cpus: int, stream: TextIO | None
    ) -> None:
        self._kernel = kernel
        self._work = work
        self._exchange = exchange
        self._memory_mib = memory_mib
        self._cpus = cpus
        self._console = work / "console.log"
        self._port = OutputPort(work / "output", stream, token=secrets.token_hex(16))
        self._cleanup = contextlib.ExitStack()
        self._boot_seconds: float | None = None
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as starting:  # stops the first process if the second does not start
            starting.callback(self._port.close)
            for tag, source, cache in (("root", Path("/"), "always"), ("exchange", self._exchange, "auto")):
                self._servers.append(self._serve(starting, tag, source, cache))
            self._start_time = time.monotonic()
            self._qemu = self._start(starting, self._qemu_command(), "qemu")
            self._cleanup = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def wait(self, timeout: float) -> Result:
        """Wait for the command's end; see `run` for what it raises."""
        while self._port.returncode is None and self._qemu.poll() is None:
            self._port.read()
            self._check_progress(time.monotonic() - self._start_time, timeout)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._qemu.wait(timeout=0.1)
        seconds = time.monotonic() - self._start_time
        self._port.read(final=True)
        if self._port.returncode is None:
            raise self._without_code(seconds)
        return Result(self._port.returncode, self._port.text, seconds, self._boot_seconds or seconds)

    def _check_progress(self, seconds: float, timeout: float) -> None:
        if self._boot_seconds is None and (self._exchange / "started").exists():
            self._boot_seconds = seconds
        if self._boot_seconds is None:
            if seconds > BOOT_TIMEOUT:
                raise GuestTimeoutError(self._report(f"the guest did not boot in {BOOT_TIMEOUT:g} s"))
        elif seconds - self._boot_seconds > timeout:
            raise GuestTimeoutError(self._report(f"the guest's command did not end in {timeout:g} s"))
        if any(server.poll() is not None for server in self._servers) and self._qemu.poll() is None:
            # The guest would wait for its files for ever; but a guest that ends takes virtiofsd with it first.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._qemu.wait(timeout=5)
                return
            raise GuestLostError(self._report("virtiofsd ended while the guest was running"))

    def _without_code(self, seconds: float) -> GuestError:
        panic = re.search(r"Kernel panic[^\r\n]*", self._console.read_text(errors="replace"))
        if panic is not None:
            return GuestPanicError(self._report(f"the guest's kernel panicked after {seconds:.0f} s: {panic[0]}"))
        return GuestLostError(
            self._report(f"the guest ended after {seconds:.0f} s without an exit code (QEMU {self._qemu.returncode})")
        )

    def _report(self, what: str) -> str:
        """The error and what the console, the command and the programs on the host said last."""
        parts = [f"{what} (kernel {self._kernel.release})"]
        logs = {path.name: path.read_text(errors="replace") for path in sorted(self._work.glob("*.log"))}
        for name, text in {**logs, "the command's output": self._port.text}.items():
            lines = text.split("\n")[-CONSOLE_TAIL:]
            if any(line.strip() for line in lines):
                parts += [f"--- end of {name}:", *(line.rstrip() for line in lines)]
        return "\n".join(parts)

    def _serve(self, cleanup: contextlib.ExitStack, tag: str, source: Path, cache: str) -> subprocess.Popen[bytes]:
        # The socket listens before virtiofsd runs, so QEMU need not wait for it.
        listener = cleanup.enter_context(socket.socket(socket.AF_UNIX))
        folder = os.open(self._work, os.O_PATH)
        try:  # by way of /proc, because a socket's own path may have only 107 characters
            listener.bind(f"/proc/self/fd/{folder}/{tag}.sock")
        finally:
            os.close(folder)
        listener.listen(1)
        options = (f"source={source}", f"cache={cache}", "sandbox=chroot", "xattr", "log_level=warn")
        command = [VIRTIOFSD, f"--fd={listener.fileno()}", *(word for option in options for word in ("-o", option))]
        return self._start(cleanup, command, f"virtiofsd-{tag}", listener)

    def _start(
        self, cleanup: contextlib.ExitStack, command: Sequence[str], name: str, *inherited: socket.socket
    ) -> subprocess.Popen[bytes]:
        with (self._work / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],  # it execs: the process id is the program's
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[each.fileno() for each in inherited],
                cwd=self._work,
                start_new_session=True,  # a terminal's interrupt goes to us alone, and we stop them
            )
        cleanup.callback(_stop, process)
        return process

    def _qemu_command(self) -> list[str]:
        # fmt: off
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            # la57=off: five-level paging makes the emulated processor slower for nothing.
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off",
            "-smp", f"{self._cpus}", "-m", f"{self._memory_mib}",
            # virtiofsd reads and writes the guest's memory: it must be shared.
            "-object", f"memory-backend-memfd,id=memory,size={self._memory_mib}M,share=on",
            "-numa", "node,memdev=memory",
            "-no-reboot",  # with panic=-1 a panic ends QEMU
            "-serial", f"file:{self._console}",
            "-device", "virtio-serial-pci",
            "-chardev", f"file,id=output,path={self._port.path},append=on",
            "-device", "virtserialport,chardev=output,name=output",
            *self._share("root"), *self._share("exchange"),
            "-kernel", str(self._kernel.image),
            "-initrd", str(initramfs.build(self._kernel, self._work, exchange=EXCHANGE, token=self._port.token)),
            "-append", "console=ttyS0 quiet loglevel=3 panic=-1 oops=panic mitigations=off tsc=reliable nokaslr",
        ]
        # fmt: on

    def _share(self, tag: str) -> list[str]:
        device = f"vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"
        return ["-chardev", f"socket,id={tag},path={tag}.sock", "-device", device]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
