"""How long a test waits for what has to come: longer on a machine that has more to do than it can."""

from __future__ import annotations

import os


def slowness() -> float:
    """How many times longer things take here than where a processor serves two programs at a time: 1 to 4."""
    return min(4.0, max(1.0, os.getloadavg()[0] / (2 * (os.cpu_count() or 1))))
