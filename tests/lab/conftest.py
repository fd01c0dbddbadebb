"""The lab as a fixture: three nodes, up once for all tests, down at the end unless LINKWIRE_LAB_KEEP=1."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    one = Lab(nodes=3, say=print)
    try:
        one.up()
        yield one
    finally:
        if os.environ.get("LINKWIRE_LAB_KEEP") != "1":
            one.down()
