"""Note beside a member's data: the cluster and member that the data is of. File I/O only."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from controller.etcd.cluster.plan import Note
from controller.etcd.data_owner import MEMBER

NAME = "membership.json"
ASIDE = "earlier-member"


def has_data(data: Path) -> bool:
    """Tell whether a folder has data that etcd would start on (etcd, wal.Exist)."""
    return any((data / MEMBER / "wal").glob("*.wal"))


def read(data: Path) -> Note | None:
    """Read the note; None where there is none that can be read."""
    try:
        return Note(**json.loads((data / NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(data: Path, note: Note) -> None:
    """Write the note, so that it is there after a power cut. Raises OSError."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data / f"{NAME}.new"
    with path.open("w") as file:
        json.dump(asdict(note), file)
        file.flush()
        os.fsync(file.fileno())
    path.replace(data / NAME)


def set_aside(data: Path) -> None:
    """Move the data to a folder of its own, in place of what was set aside before. Raises OSError."""
    shutil.rmtree(data / ASIDE, ignore_errors=True)
    if (data / MEMBER).exists():
        (data / MEMBER).replace(data / ASIDE)
    (data / NAME).unlink(missing_ok=True)
