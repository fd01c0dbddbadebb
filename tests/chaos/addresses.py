"""Reads etcd's whole history of addresses: was one ever given to two tasks without a rest between?

etcd tells every change of every key in order, whatever crashed meanwhile; so this cannot miss what a look now and
then would. It shares no code with Linkwire but what takes a record out of its envelope.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from mesh.crypto.signed_envelope import peek
from mesh.model.keyspace import ROOT

PREFIX = f"{ROOT}addresses/"


@dataclass
class History:
    """What etcd's watch told, from entering to leaving.

    Attributes:
        faults: every time an address went from one holder to another with nobody between.
        given: how many times an address was given.
    """

    endpoint: str
    file: Path
    faults: list[str] = field(default_factory=list)
    given: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        argv = ["etcdctl", "--endpoints", self.endpoint, "watch", "--prefix", PREFIX, "-w", "json"]
        with self.file.open("wb") as out:
            self._process = subprocess.Popen(argv, stdout=out, env={**os.environ, "ETCDCTL_API": "3"})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.poll() is None, "the watch ended early, so its history has a gap"
        self._process.terminate()
        self._process.wait()
        self._read()

    def _read(self) -> None:
        """etcdctl prints a line of JSON for each answer; an event's type is left out for a put and 1 for a delete."""
        holders: dict[str, str | None] = {}
        events = [event for line in self.file.read_text().splitlines() for event in json.loads(line)["Events"]]
        for event in events:
            key = base64.b64decode(event["kv"]["key"]).decode()
            address = key.removeprefix(PREFIX)
            holder: str | None = "free"
            if not event.get("type"):
                value = base64.b64decode(event["kv"]["value"])
                holder = json.loads(peek(key.removeprefix(ROOT), value).body)["holder"]
            before = holders.get(address, "free")
            if holder not in ("free", None):
                self.given += 1
                if before != "free":
                    self.faults.append(f"{address}: {before} -> {holder}")
            holders[address] = holder
