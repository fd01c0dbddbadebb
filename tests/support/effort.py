"""How much is tried: some tests have a short form for every run, and a long one for `make chaos`."""

from __future__ import annotations

import os

import pytest
from _pytest.mark import ParameterSet

LONG = os.environ.get("LINKWIRE_CHAOS") == "long"

HOLD_S = float(os.environ.get("LINKWIRE_HOLD_S", "100"))
"""Seconds for which a long form watches what should not change: several looks of 30 s, of whoever looks so rarely."""

in_long_form = pytest.mark.skipif(not LONG, reason="in make chaos, or by LINKWIRE_CHAOS=long")
"""Mark of a test that the long form alone runs."""


def of_long_form(*values: object) -> ParameterSet:
    """Return a parameter that the long form alone tries."""
    return pytest.param(*values, marks=in_long_form)
