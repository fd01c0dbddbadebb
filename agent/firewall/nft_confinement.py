"""Confinement of nft to the files that it needs, and the pipe by which it is told its commands.

Whoever has taken over nft has NET_ADMIN over every network namespace whose file can be opened. So nft runs in a mount
namespace without such a file: all that is mounted is detached there (/proc, /run/docker, volumes, secrets) but what
the program itself lies on. That namespace is made once and kept; each nft enters it.

Without /proc there is no /dev/stdin: a command comes by a pipe that has a random name, in a folder that nobody can
list, until nft has opened it. An nft whose agent was killed meanwhile would wait at that pipe for ever: the next
agent lets it read nothing, and removes the folder.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.linux import privileges
from mesh.errors import Terminal

_FOLDERS = Path("/tmp")  # noqa: S108 - not TMPDIR: nft's user has to get there; names in it are random
_PREFIX = "linkwire-pipes-"
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000  # linux/sched.h
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # linux/mount.h
_DETACH = 0x2 | 0x8  # sys/mount.h, MNT_DETACH and UMOUNT_NOFOLLOW
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache")
_LOOK_S = 0.0003

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_void_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class _Confinement:
    """The mount namespace, kept open, and the folder of the pipes, which is in it too.

    Attributes:
        mounts: descriptor of the namespace.
        folder: of the pipes.
        lock: descriptor of the folder, locked for as long as this process lives.
    """

    mounts: int
    folder: Path
    lock: int


_lock = threading.Lock()
_made: list[_Confinement] = []


def enter(program: str) -> Path:
    """Move the calling thread, and all that it starts, to where there are no files of others.

    It must be a thread that ends soon: there is no way back.

    Args:
        program: what is to be found there.

    Returns:
        The folder of the pipes.

    Raises:
        Terminal: it did not work.
    """
    with _lock:
        if not _made:
            _made.append(_make(program))
    _checked(_libc.unshare(_CLONE_FS))
    _checked(_libc.setns(_made[0].mounts, _CLONE_NEWNS))
    return _made[0].folder


@contextlib.contextmanager
def pipe(folder: Path) -> Iterator[Path]:
    """Make a pipe of the calling thread's user; no name of it is left. Raises OSError."""
    path = folder / secrets.token_hex(16)
    os.mkfifo(path, 0o600)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def opened(path: Path, by: subprocess.Popen[bytes], seconds: float) -> IO[bytes] | None:
    """Wait until a program has opened a pipe, and take its name away: nobody else opens it.

    Returns:
        The other end; None where the program has ended without.

    Raises:
        TimeoutExpired: it did neither in so many seconds.
        OSError.
    """
    deadline = time.monotonic() + seconds
    while by.poll() is None:
        try:
            end = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody has it open for reading
                raise
        else:
            path.unlink()
            os.set_blocking(end, True)
            return os.fdopen(end, "wb")
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(by.args, seconds)
        time.sleep(_LOOK_S)
    return None


def _make(program: str) -> _Confinement:
    _drop_left()
    while (lock := _locked(folder := Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_FOLDERS)))) is None:
        pass  # an agent that starts at the same moment took it for one that was left
    atexit.register(_remove, folder, os.getpid())
    folder.chmod(0o733)  # any user makes a pipe in it, and finds no other
    found = Path(shutil.which(program) or program).resolve()
    with ThreadPoolExecutor(1) as apart:  # a thread of its own: what it detaches stays where it is for all others
        mounts = apart.submit(_detached, (*_PROGRAMS, str(found), str(folder.resolve()))).result()
    return _Confinement(mounts, folder, lock)


def _locked(folder: Path) -> int | None:
    """Lock a folder of pipes; return its descriptor, None where another process has it, or has removed it."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(opened).st_nlink:
            return opened
    except BlockingIOError:
        pass
    os.close(opened)
    return None


def _drop_left() -> None:
    """Remove, as far as that goes, the folders of processes that were killed, and end the nfts that wait there."""
    for folder in _FOLDERS.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if (lock := _locked(folder)) is None:
                continue
            try:
                with ThreadPoolExecutor(1) as apart:
                    apart.submit(_open_once, list(folder.iterdir())).result()
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _open_once(pipes: Iterable[Path]) -> None:
    """Let whoever waits at the pipes read their end, as the user whose they are."""
    privileges.give_up(keep=privileges.NET_ADMIN)
    for path in pipes:
        with contextlib.suppress(OSError):  # ENXIO: nobody waits
            found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                path.unlink()  # nft opens what is no JSON once more, and would wait there again
                os.close(os.open(f"/proc/self/fd/{found}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            finally:
                os.close(found)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a fork of it goes on with the same folder
        shutil.rmtree(folder, ignore_errors=True)


def _detached(needed: tuple[str, ...]) -> int:
    """Detach in this thread all mounts but those that are needed; return a descriptor of its mount namespace."""
    _checked(_libc.unshare(_CLONE_NEWNS))
    kept = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        mounts = Path("/proc/thread-self/mountinfo").read_text().splitlines()
        # Else it would be detached for everybody. Docker's containers share nothing, and AppArmor lets them detach
        # but not say so.
        is_private = _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
        if not is_private and any(" shared:" in line.partition(" - ")[0] for line in mounts):
            _checked(-1)
        gone: list[str] = []
        for place in _surplus(map(_place, mounts), needed):
            if not any(place.startswith(f"{parent}/") for parent in gone):
                _checked(_libc.umount2(place.encode(), _DETACH))
                gone.append(place)
    except BaseException:
        os.close(kept)
        raise
    return kept


def _place(line: str) -> str:
    """Extract the mount point of a line of mountinfo (proc(5)); it writes spaces and the like in octal."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4])


def _surplus(places: Iterable[str], needed: tuple[str, ...]) -> Iterator[str]:
    """Choose the mount points that no needed path lies on, and that lie on none; from the outside to the inside."""
    for place in sorted(places):
        inside = f"{place.rstrip('/')}/"
        if not any(f"{path}/".startswith(inside) or place.startswith(f"{path}/") for path in needed):
            yield place


def _checked(result: int) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise Terminal(f"cannot keep nft apart from other files: {reason} (the agent needs SYS_ADMIN and SYS_CHROOT)")
