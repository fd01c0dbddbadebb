"""A leading controller whose wall clock is wrong, or is set while it leads, and another after it that is right.

The controller loads a library by which its clock is off by what a file says. Its monotonic clock is right, as a real
machine's is when its time is set.
"""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.programs import INSIDE
from tests.store.two_controllers import Pair, Place, pair, place
from tests.store.waiting import until
from tests.support.effort import of_long_form

YEAR_S, HOUR_S = 365 * 86400, 3600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clocks")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Place]:
    library = folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(INSIDE / "clock.c")], check=True)
    off(folder, 0)
    wrong = {"LD_PRELOAD": str(library), "LINKWIRE_TEST_CLOCK": str(folder / "off")}
    with place(folder, (wrong, {})) as found:
        yield found


def off(folder: Path, seconds: int) -> None:
    """Set the first controller's clock by so many seconds wrong, from this moment on."""
    path = folder / "off"
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("q", seconds))


def rotate(two: Pair) -> None:
    """Have the link's key renewed every day."""
    for one in (two.first, two.second):
        one.docker.label("web", "linkwire.link.small_db.rotate", "24h")


@pytest.mark.parametrize(
    ("offsets", "renewed"),
    [
        pytest.param((0, YEAR_S), (1, 1), id="a year forward while it leads"),
        pytest.param((0, -HOUR_S), (1, 0), id="an hour back while it leads"),
        of_long_form((YEAR_S, YEAR_S), (0, 1)),
        of_long_form((-HOUR_S, -HOUR_S), (0, 0)),
        of_long_form((YEAR_S, 0), (1, 0)),
    ],
)
def test_wrong_clock_of_a_leader_harms_nothing(
    shared: Place, tmp_path: Path, offsets: tuple[int, int], renewed: tuple[int, int], figure: Callable[[str], None]
) -> None:
    """A link key that is renewed daily is renewed where a day seems to be over, or not to have come."""
    before, during = offsets
    off(shared.folder, before)
    with pair(shared, tmp_path) as two:
        rotate(two)
        two.seconds_until_written(two.start_task(), 10)
        counts = [len(two.history.epochs())]
        off(shared.folder, during)
        took = two.seconds_until_written(two.start_task(), 10)
        counts.append(settled(two, counts[-1] + renewed[0]))
        two.first.process.kill()
        after = two.seconds_until_written(two.start_task(), 20)
        counts.append(settled(two, counts[-1] + renewed[1]))
        until(lambda: all(reader.verified() for reader in two.readers), 10)
        figure(
            f"clock {before:+} s, then {during:+} s: a task's place after {took:.2f} s; another leader wrote after"
            f" {after:.1f} s; the link key was renewed {counts[1] - counts[0]} and {counts[2] - counts[1]} times"
        )
        assert (counts[1] - counts[0], counts[2] - counts[1]) == renewed
        assert two.history.wrong() == []
        assert two.history.suspects() == [], "silence goes by the monotonic clock"
        assert sorted(set(two.history.epochs())) == two.history.epochs(), "epochs only grow"
        assert not two.second.said("begun anew")


def settled(two: Pair, epochs: int) -> int:
    """Wait for so many epochs to have begun, and a moment for one more; return how many did."""
    until(lambda: len(two.history.epochs()) >= epochs, 10)
    time.sleep(2)
    return len(two.history.epochs())
