"""Log of open problems: each is logged once when it appears, and once when it is solved."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

log = structlog.get_logger(__name__)


class ProblemLog:
    """Problems that are open now.

    Attributes:
        open: the problems' texts, in their order.
    """

    def __init__(self) -> None:
        """Start without problems."""
        self.open: dict[str, None] = {}

    def update(self, problems: Iterable[str]) -> None:
        """Replace the open problems, and log those that are new and those that are gone."""
        before, self.open = self.open, dict.fromkeys(problems)
        for problem in self.open:
            if problem not in before:
                log.warning("problem found", reason=problem)
        for problem in before:
            if problem not in self.open:
                log.info("problem solved", reason=problem)
