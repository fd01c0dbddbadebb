"""Errors that all packages share: retryable, terminal, and unreadable values."""


class LinkwireError(Exception):
    """Base of every error that Linkwire raises on purpose."""


class Retryable(LinkwireError):  # noqa: N818 - the name says what the caller may do
    """A temporary failure (a connection, a race, a restart): the same call may succeed later."""


class Terminal(LinkwireError):  # noqa: N818 - as above
    """A permanent failure: the same call fails again until somebody changes something."""


class InvalidRecordError(LinkwireError):
    """A value in the store that is not a valid record; the text names the key and the reason."""


class NetnsGoneError(LinkwireError):
    """The task's network namespace is gone: the task has ended, and there is nothing to configure."""


class DeviceNotFoundError(LinkwireError):
    """The network namespace has no WireGuard device of that name."""
