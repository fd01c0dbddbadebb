"""A member of etcd as agents and the plugin describe it, apart from the client, which the plugin has not. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """A member of etcd, at one of the endpoints that a client was given.

    Attributes:
        endpoint: `host:port`.
        name: its own; empty where etcd tells this client no names.
        is_leader: by its own word.
        problem: why it does not answer a read with quorum, in words; empty where it does.
        size: bytes of its file; None where it does not say.
        in_use: bytes of it in use; None likewise.
    """

    endpoint: str
    name: str = ""
    is_leader: bool = False
    problem: str = ""
    size: int | None = None
    in_use: int | None = None
