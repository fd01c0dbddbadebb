"""What one run of a plan looks at: everything, or what a change can concern. Pure.

More than has changed may be looked at, never less: whatever is not looked at gave nothing to do when it was looked at
last, and nothing that this rests on has changed since (controller.lookup says what rests on what).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Focus:
    """What to look at.

    Attributes:
        ids: of services, tasks and nodes, whichever each is the id of; None for all.
        link_keys: their names; None for all.
    """

    ids: frozenset[str] | None = None
    link_keys: frozenset[str] | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is passed over."""
        return self.ids is None and self.link_keys is None

    def among(self, known: Collection[str]) -> Iterable[str]:
        """Those of some ids that are to be looked at."""
        return _chosen(self.ids, known)

    def keys_among(self, known: Collection[str]) -> Iterable[str]:
        """Those of some link keys that are to be looked at."""
        return _chosen(self.link_keys, known)

    def widened(self, ids: Iterable[str], link_keys: Iterable[str]) -> Focus:
        """With some more."""
        return Focus(
            None if self.ids is None else self.ids.union(ids),
            None if self.link_keys is None else self.link_keys.union(link_keys),
        )


EVERYTHING = Focus()


def _chosen(wanted: frozenset[str] | None, known: Collection[str]) -> Iterable[str]:
    return known if wanted is None else [one for one in wanted if one in known]
