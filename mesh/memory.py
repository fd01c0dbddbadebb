"""Keeps a process's memory, in which there are secrets, from being written to disk or read by others."""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def protect() -> None:
    """No core dumps of this process and of those it starts; and of itself none that ptrace could make either.

    PR_SET_DUMPABLE 0 also keeps processes of the same user without CAP_SYS_PTRACE out of /proc/PID/mem (prctl(2),
    ptrace(2)). It ends with the next execve; the limit on core dumps stays.

    Raises:
        OSError: the kernel did not do it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot keep the process's memory from being dumped")
