"""Scope of one run of a plan: everything, or the parts that a change can concern. Pure.

The scope may be too large, never too small: whatever is outside of it gave no step when it was looked at last, and
nothing that it depends on has changed since (controller.index.impact).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """Parts of a plan to look at.

    Attributes:
        ids: of services, tasks and nodes; None for all.
        link_keys: their names; None for all.
    """

    ids: frozenset[str] | None = None
    link_keys: frozenset[str] | None = None

    @property
    def everything(self) -> bool:
        """True if nothing is left out."""
        return self.ids is None and self.link_keys is None

    def among(self, names: Collection[str]) -> Iterable[str]:
        """Choose the ids that are in scope."""
        return _chosen(self.ids, names)

    def keys_among(self, names: Collection[str]) -> Iterable[str]:
        """Choose the link keys that are in scope."""
        return _chosen(self.link_keys, names)

    def widened(self, ids: Iterable[str], link_keys: Iterable[str]) -> Scope:
        """Return a scope with more ids and link keys."""
        return Scope(
            None if self.ids is None else self.ids.union(ids),
            None if self.link_keys is None else self.link_keys.union(link_keys),
        )


EVERYTHING = Scope()


def _chosen(wanted: frozenset[str] | None, names: Collection[str]) -> Iterable[str]:
    return names if wanted is None else [name for name in wanted if name in names]
