"""A release's base image is of the locked Debian packages, or there is no release."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import released
from tests.support.locks import LOCKS

LOCK = (LOCKS / "debian-amd64.txt").read_text()
PACKAGES = LOCK.partition("\n")[2]
make = released.module("make")


def newer(packages: str) -> str:
    return packages.replace("zlib1g 1:", "zlib1g 2:")


OTHERS: dict[str, Callable[[str], str]] = {
    "a newer version": newer,
    "another archive of the version": lambda packages: packages.replace("sha256:", "sha256:0", 1),
    "one package more": lambda packages: packages + f"extra 1.0 amd64 sha256:{'0' * 64}\n",
    "one package less": lambda packages: packages.partition("\n")[2],
}


def test_the_locked_packages_are_a_release() -> None:
    assert make.differing(PACKAGES, LOCK) == []


@pytest.mark.parametrize("change", OTHERS)
def test_other_debian_packages_are_no_release(change: str) -> None:
    other = OTHERS[change](PACKAGES)
    assert other != PACKAGES
    assert make.differing(other, LOCK) != []
    with pytest.raises(make.ReleaseError, match="the base image is not the locked one"):
        make.check_base(other, LOCK)
