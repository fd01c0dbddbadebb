"""The errors every part speaks: what may be tried again, what may not, what is not ours to read."""


class LinkwireError(Exception):
    """The root of every error that Linkwire raises on purpose."""


class Retryable(LinkwireError):  # noqa: N818 - the name says what the caller may do
    """The world was not ready (a connection, a race, a restart): the same call may succeed later."""


class Terminal(LinkwireError):  # noqa: N818 - as above
    """The same call will fail again until somebody changes something."""


class InvalidRecord(LinkwireError):  # noqa: N818 - as above
    """A value in the store that is not a record of ours; the text says which key and why."""


class NetnsGone(LinkwireError):  # noqa: N818 - as above
    """The task's network namespace has ended: the task is over, there is nothing to configure."""


class DeviceNotFound(LinkwireError):  # noqa: N818 - as above
    """There is no WireGuard device of that name where it was looked for."""
