"""Keeps these tests off the host when somebody names their path (a path that is named is not ignored)."""

from __future__ import annotations

import os

import pytest

from tests.kernel.guest import GUEST_VARIABLE
from tests.netns.conftest import world

__all__ = ["world"]

if GUEST_VARIABLE not in os.environ:
    raise pytest.UsageError(
        "these tests change the machine they run on and belong in the guest: "
        "python -m tests.kernel pytest tests/kernel/guest_tests"
    )
