"""How long a test waits for what has to come: longer on a machine that has more to do than it can."""

from __future__ import annotations

import os

SLOWNESS_VARIABLE = "LINKWIRE_SLOWNESS"
"""How many times longer everything takes than outside, where the processor is emulated (deploy/test-arm64.sh)."""


def slowness() -> float:
    """Return how many times longer things take here than with two programs a processor.

    It is 1 to 4 by the machine's load, times what the environment says of an emulator.
    """
    load = min(4.0, max(1.0, os.getloadavg()[0] / (2 * (os.cpu_count() or 1))))
    return load * float(os.environ.get(SLOWNESS_VARIABLE) or 1)
