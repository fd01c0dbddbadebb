"""A mapping of groups to sets of members, without empty groups. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)


class MultiMap(dict[K, set[V]]):
    """Groups and their members; a group ends with its last member."""

    def add(self, group: K, member: V) -> None:
        """Put a member into a group."""
        self.setdefault(group, set()).add(member)

    def discard(self, group: K, member: V) -> None:
        """Take a member out of a group, if it is there."""
        members = self.get(group)
        if members is not None:
            members.discard(member)
            if not members:
                del self[group]
