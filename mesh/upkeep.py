"""Python's search for garbage, made while there is nothing else to do.

Else it comes while something is being done, and the longest looks at every object there is: with what is imported
alone that is 60 ms, in which no peer is told of another.
"""

from __future__ import annotations

import gc

EVERY_S = 60.0
ALL_EVERY = 60
"""One search of so many goes over everything there is, which takes longer the larger the mesh is."""


class Upkeep:
    """Looks for garbage now and then. What stays is left out of all later searches, which so cost what is new.

    A cycle that becomes garbage only then is found within an hour, or when much is loaded again (mesh.garbage).
    Records, and the maps that they are in, are in none, and are freed as ever.
    """

    def __init__(self) -> None:
        """Nothing has been looked at yet."""
        self._due = 0.0
        self._taken = 0

    def take(self, now: float) -> None:
        """There is nothing to do. `now`: seconds of a clock that only grows."""
        if now >= self._due:
            self._due = now + EVERY_S
            self._taken += 1
            if self._taken % ALL_EVERY == 0:
                gc.unfreeze()
            gc.collect()
            gc.freeze()
