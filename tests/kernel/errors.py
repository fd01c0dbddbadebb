"""What can go wrong around a command in the guest, as opposed to in it."""

from __future__ import annotations


class GuestError(Exception):
    """The guest gave no exit code; the message says why and ends with what the guest's console said last."""


class GuestSetupError(GuestError):
    """The guest cannot be started from this machine as it is."""


class GuestPanicError(GuestError):
    """The guest's kernel panicked (an oops counts: the guest runs with oops=panic)."""


class GuestTimeoutError(GuestError):
    """The guest did not boot, or its command did not end, in time. It was stopped."""


class GuestLostError(GuestError):
    """The guest, or a program it needs on the host, ended without an exit code and without a panic."""
