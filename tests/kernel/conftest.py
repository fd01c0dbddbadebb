"""What only the guest collects, and the guest's counts at the end of the host's run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.kernel.guest import GUEST_VARIABLE
from tests.support.gathered import kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernel.inner import InnerRun

# guest_tests needs a kernel with WireGuard and a machine it may change at will. On the host test_kernel.py runs it in
# the guest, where this variable is set; collected here it could only fail.
collect_ignore = [] if GUEST_VARIABLE in os.environ else ["guest_tests"]


@pytest.fixture
def announce(request: pytest.FixtureRequest) -> Callable[[str, InnerRun], None]:
    """Puts an inner run's counts at the end of this run's report, passed or not."""
    lines = kept(request.config, "in the guest")

    def add(what: str, run: InnerRun) -> None:
        lines.append(f"{what}: {run.summary()}")

    return add
