"""Settings of devices, in /proc/sys/net as the calling thread's network namespace has it.

/proc/sys/net shows the network namespace of the thread that looks, through whatever mount
(net_ctl_header_lookup in net/sysctl_net.c). A container's own /proc/sys is read-only, so the host's /proc/sys/net is
bound into the agent's at another place, and used from there.
"""

from __future__ import annotations

import errno
from pathlib import Path

from mesh.errors import DeviceNotFoundError, Retryable, Terminal

BOUND = Path("/run/linkwire/sysctl")
"""Where the host's /proc/sys/net is bound into the agent's container (deploy/stack.yml)."""
OWN = Path("/proc/sys/net")
_REVERSE_PATH = "rp_filter"
_STRICT, _LOOSE = "1", "2"
"""The kernel takes the higher one of `all` and the device's (Documentation/networking/ip-sysctl.rst)."""
_REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def has_ipv6() -> bool:
    """Tell whether the kernel has IPv6 (it may be built without, or started with ipv6.disable=1)."""
    return (_folder() / "ipv6" / "conf").is_dir()


def enable_ipv6(device: str) -> bool:
    """Let a device of this thread's network namespace have IPv6 addresses; nothing is written where it may already.

    Returns:
        False when the kernel has no IPv6: then nothing can.

    Raises:
        Terminal: the device can have none, since its MTU is too small, or /proc/sys may not be written to.
        Retryable.
    """
    devices = _folder() / "ipv6" / "conf"
    if not devices.is_dir():
        return False
    setting = devices / device / "disable_ipv6"
    try:
        if setting.read_text().strip() != "0":
            setting.write_text("0")
    except FileNotFoundError:  # addrconf_notify in net/ipv6/addrconf.c
        raise Terminal(f"{device} can have no IPv6: its MTU is below the 1280 bytes that IPv6 needs") from None
    except OSError as error:
        text = f"cannot turn IPv6 on for {device}: {error.strerror} ({setting})"
        if error.errno in _REFUSED:
            raise Terminal(f"{text}; bind the host's /proc/sys/net to {BOUND} in the agent's container") from error
        raise Retryable(text) from error
    return True


def is_strict_everywhere() -> bool:
    """Tell whether this thread's namespace drops, on all devices, what came by another way than it answers."""
    return (_folder() / "ipv4" / "conf" / "all" / _REVERSE_PATH).read_text().strip() == _STRICT


def loosen(device: str) -> None:
    """Let a device receive what this thread's network namespace would answer by another one.

    Raises:
        DeviceNotFoundError: there is no such device.
        Terminal: /proc/sys may not be written to.
    """
    setting = _folder() / "ipv4" / "conf" / device / _REVERSE_PATH
    try:
        if setting.read_text().strip() == _STRICT:
            setting.write_text(_LOOSE)
    except FileNotFoundError:
        raise DeviceNotFoundError(f"there is no device {device}") from None
    except OSError as error:
        raise Terminal(
            f"cannot set {setting} to {_LOOSE}: {error.strerror}; bind the host's /proc/sys/net to {BOUND} in the "
            "agent's container"
        ) from error


def _folder() -> Path:
    return BOUND if (BOUND / "core").is_dir() else OWN
