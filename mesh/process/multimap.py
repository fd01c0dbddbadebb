"""A mapping of groups to sets of members, without empty groups. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)


class MultiMap(dict[K, set[V]]):
    """Groups and their members; a group ends with its last member.

    Attributes:
        count: members of all groups.
    """

    def __init__(self) -> None:
        """Start without groups."""
        super().__init__()
        self.count = 0

    def add(self, group: K, member: V) -> None:
        """Put a member into a group."""
        members = self.setdefault(group, set())
        self.count += member not in members
        members.add(member)

    def discard(self, group: K, member: V) -> None:
        """Take a member out of a group, if it is there."""
        members = self.get(group)
        if members is not None and member in members:
            members.remove(member)
            self.count -= 1
            if not members:
                del self[group]
