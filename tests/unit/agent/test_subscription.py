"""A subscription to the kernel's changes that cannot be had at first."""

from __future__ import annotations

import socket

from agent.linux.netlink_socket import Subscription
from mesh.errors import LinkwireError, Terminal


def test_subscription_is_tried_until_it_is_had() -> None:
    refusals = ["too many open files", "too many open files"]
    asked, said = list[int](), list[str]()

    def subscribe() -> socket.socket:
        asked.append(1)
        if refusals:
            raise Terminal(refusals.pop())
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def failed(error: LinkwireError) -> None:
        said.append(str(error))

    subscription = Subscription(subscribe, failed)
    assert [subscription.socket() for _ in range(2)] == [None, None]
    assert said == ["too many open files"], "once, however long it lasts"
    had = subscription.socket()
    assert had is not None
    assert subscription.socket() is had
    assert len(asked) == 3
    subscription.close()
    subscription.close()
    assert had.fileno() == -1
