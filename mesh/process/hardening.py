"""Process hardening: no core dumps and no ptrace, since the memory holds secrets."""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def protect() -> None:
    """Disable core dumps of this process and its children, and ptrace of this process.

    PR_SET_DUMPABLE 0 also denies /proc/PID/mem to processes of the same user without CAP_SYS_PTRACE (prctl(2),
    ptrace(2)). It ends with the next execve; the limit on core dumps stays.

    Raises:
        OSError: the kernel refused.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot make the process undumpable (PR_SET_DUMPABLE)")
