"""etcd within its quota: an etcd that is full is made to take writes again, and its file gives back what is free."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controller.etcd import space
from controller.etcd.space import Space
from controller.etcd.upkeep import Upkeep, is_worth
from mesh.model import keyspace
from mesh.store.etcd_channel import ChannelPool
from tests.store.etcd_server import EtcdServer
from tests.store.secured import ROOT, Secured, write
from tests.store.waiting import until

QUOTA = 16 * 1024**2
VALUE = b"x" * 200_000


@pytest.fixture
def full(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd whose quota is used up by the history of one key."""
    with EtcdServer(tmp_path, arguments=(f"--quota-backend-bytes={QUOTA}",)) as server:
        with closing(ChannelPool([server.target], 5.0)) as line:
            assert "database space exceeded" in fill(line)
        yield server


def asked(line: ChannelPool) -> Space:
    with line.use() as link:
        return space.space(link)


def fill(line: ChannelPool, key: bytes = b"one") -> str:
    """Write versions of one key until etcd takes no more, or enough are written; what etcd said last."""
    for _ in range(200):
        if (said := write(line, key, VALUE)) != "written":
            return said
    return ""


def test_an_etcd_that_is_full_takes_writes_again(full: EtcdServer, figure: Callable[[str], None]) -> None:
    with closing(ChannelPool([full.target], 5.0)) as line:
        before = asked(line)
        assert before.alarm
        assert "database space exceeded" in write(line, b"two"), "else there is nothing to mend"
        Upkeep(QUOTA).mend(line)
        after = asked(line)
        assert not after.alarm
        assert after.size < QUOTA / 4
        assert write(line, b"two") == "written"
        figure(f"a full etcd: {before.size:,} bytes, {before.in_use:,} in use; mended: {after.size:,}")


def test_the_alarm_alone_is_no_mending(full: EtcdServer) -> None:
    with closing(ChannelPool([full.target], 5.0)) as line:
        with line.use() as link:
            space.disarm(link)
        assert "database space exceeded" in write(line, b"two")


def test_interrupted_mending_is_repeated(full: EtcdServer) -> None:
    """Compacted, and not disarmed: nothing is written meanwhile, so the same revision would be compacted again."""
    with closing(ChannelPool([full.target], 5.0)) as line:
        with line.use() as link:
            space.compact(link, space.space(link).revision)
        Upkeep(QUOTA).mend(line)
        assert not asked(line).alarm
        assert write(line, b"two") == "written"


def test_mostly_free_file_is_shrunk(tmp_path: Path) -> None:
    with EtcdServer(tmp_path) as server, closing(ChannelPool([server.target], 5.0)) as line:
        for _ in range(60):
            assert write(line, b"one", VALUE) == "written"
        with line.use() as link:
            space.compact(link, space.space(link).revision)
        # Pages become free when the next batch is written.
        until(lambda: write(line, b"two") == "written" and is_worth(asked(line), QUOTA))
        grown = asked(line)
        Upkeep(QUOTA).look(line, 1000.0)
        after = asked(line)
        assert grown.size > 10 * len(VALUE)
        assert after.size < grown.size / 4
        told = server.keys(keyspace.ROOT + keyspace.SPACE)
        assert json.loads(next(iter(told.values())))["quota"] == QUOTA


def test_linkwire_etcd_starts_on_data_that_is_full(tmp_path: Path) -> None:
    secured = Secured.made(tmp_path)
    secured.settings["LINKWIRE_ETCD_QUOTA"] = str(QUOTA)
    try:
        secured.start()
        with closing(secured.line(secured.tls("controller"))) as line:
            assert "database space exceeded" in fill(line, ROOT + b"one")
            secured.stop()
            secured.start()
            assert write(line, ROOT + b"two") == "written"
            fill(line, ROOT + b"one")
            deadline = time.monotonic() + 60
            while write(line, ROOT + b"two") != "written":
                assert time.monotonic() < deadline, secured.logged()[-2000:]
                time.sleep(0.5)
    finally:
        secured.stop()
