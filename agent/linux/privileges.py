"""Privileges of a thread, given up for good: a program that it starts has none of the agent's.

Linux keeps credentials for each thread; it is libc that changes them in all threads at once (nptl(7)), so the ids are
set by raw system calls here. A program that sets itself apart (setpriv) is one more to start for each that is run;
what Python does between fork and exec needs a copy of the agent's memory, which takes longer than all of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import threading

from mesh.errors import Terminal

NET_ADMIN = 12  # linux/capability.h

USER = 65533
"""User and group, of nobody else on the node (systemd's UIDS-GIDS.md has it as unused).

Not 65534, which daemons share: by kill(2) and ptrace(2) whoever has a thread's user may end the thread's process.
"""

_CLONE_NEWPID = 0x20000000  # linux/sched.h
# linux/prctl.h
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP = 4, 8, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 38, 47, 2
_CAPABILITY_VERSION_3 = 0x20080522
_MOST_CAPABILITIES = 64

_GENERIC = (159, 149, 147)  # asm-generic/unistd.h
_SET_IDS = {"x86_64": (116, 119, 117), "aarch64": _GENERIC, "riscv64": _GENERIC}
"""By processor, the numbers of setgroups, setresgid and setresuid."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.syscall.argtypes = (ctypes.c_long, *[ctypes.c_long] * 3)


def give_up(keep: int) -> None:
    """Leave the calling thread, and all that it starts, one capability and no user's identity.

    It must be a thread that ends soon: nothing is given back. Its programs see no other process, and so can send
    signals to none, not to this thread either.

    Args:
        keep: the capability, which a program has that is executed (it is ambient).

    Raises:
        Terminal: it did not work; some of it may be gone.
    """
    if threading.get_native_id() == os.getpid():
        raise Terminal("the process's first thread must keep its rights")
    set_groups, set_gids, set_uids = _numbers()
    _checked(_libc.unshare(_CLONE_NEWPID))
    _drop_bounds(keep)
    _prctl(_PR_SET_KEEPCAPS, 1)
    _checked(_libc.syscall(set_groups, 0, 0, 0))
    _checked(_libc.syscall(set_gids, USER, USER, USER))
    _checked(_libc.syscall(set_uids, USER, USER, USER))
    # It is of the process, and the kernel has just set it to fs.suid_dumpable (commit_creds in kernel/cred.c), by
    # which this user might look into the agent's memory. It may not before, having fewer capabilities.
    _prctl(_PR_SET_DUMPABLE, 0)
    # struct __user_cap_header_struct, then twice effective, permitted and inheritable
    sets = [1 << keep & 0xFFFFFFFF] * 3 + [1 << keep >> 32] * 3
    _checked(_libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), struct.pack("=6I", *sets)))
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, keep)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if {*os.getresuid(), *os.getresgid()} != {USER} or os.getgroups():
        raise Terminal("a thread kept privileges that the kernel confirmed it had given up")


def _numbers() -> tuple[int, int, int]:
    machine = platform.machine()
    if machine not in _SET_IDS or struct.calcsize("P") != 8:  # noqa: PLR2004 - bytes of a pointer
        raise Terminal(f"cannot set a thread's user on this processor: {machine}")
    return _SET_IDS[machine]


def _drop_bounds(keep: int) -> None:
    for capability in range(_MOST_CAPABILITIES):
        if capability != keep and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            if ctypes.get_errno() == errno.EINVAL:
                return  # the kernel has no more
            _checked(-1)


def _prctl(option: int, first: int, second: int = 0) -> None:
    _checked(_libc.prctl(option, first, second, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        needed = "the agent needs SYS_ADMIN, SETUID, SETGID and SETPCAP"
        raise Terminal(f"cannot give up a thread's privileges: {reason} ({needed})")
