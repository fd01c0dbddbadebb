"""The C libraries' own resolvers read a hosts file while the agent writes it: support/torn_reads.py in short."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import torn_reads

READS = 4000


@pytest.mark.parametrize("libc", sorted(torn_reads.COMPILERS))
def test_no_lookup_misses_a_name_during_writes(libc: str, figure: Callable[[str], None]) -> None:
    if libc not in torn_reads.here():
        pytest.fail(f"{torn_reads.COMPILERS[libc]} is not installed: run deploy/bootstrap.sh")
    wrong, written = torn_reads.wrong_reads(libc, torn_reads.ours, READS)
    figure(f"{libc}: {wrong} of {READS} look-ups wrong while the file was written {written} times")
    assert written > READS // 100
    assert wrong == 0
