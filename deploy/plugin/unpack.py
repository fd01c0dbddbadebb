"""Unpacks the plugin's archive once, to a cache of the user's that nobody else may write.

In the archive this is `linkwire_unpack`, with the values of `make.py` for the three constants.
"""

import atexit
import os
import platform
import shutil
import stat
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

BUILD = ""
MACHINE = ""
PYTHONS: tuple[tuple[int, int], ...] = ()


def unpacked(archive: str) -> str:
    """Return the folder with the archive's contents: kept in the cache, or else one of this process alone."""
    _check()
    home = os.environ.get("HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
    if Path(cache).is_absolute():
        folder = Path(cache, "linkwire")
        ready = folder / f"plugin-{BUILD}"
        if _is_ours(folder) and _is_ours(ready):
            return str(ready)
        with suppress(OSError):  # a home that is read-only, full, or not this user's
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if _is_ours(folder) and _unpack(archive, folder, ready):
                return str(ready)
    folder = Path(tempfile.mkdtemp(prefix="linkwire-plugin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _unpack(archive, folder, folder / "plugin")
    return str(folder / "plugin")


def _check() -> None:
    machine = platform.machine()
    if sys.version_info[:2] not in PYTHONS or machine != MACHINE:
        made_for = ", ".join("{}.{}".format(*python) for python in PYTHONS)
        here = "{}.{}".format(*sys.version_info[:2])
        sys.exit(
            f"docker linkwire: this file is for Python {made_for} on {MACHINE}; python3 here is {here} on {machine}: "
            "put another python3 first on the PATH, or make the file on such a machine with `make plugin`"
        )


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user's, in which nobody else may write."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_ISDIR(found.st_mode) and not found.st_mode & others and found.st_uid == os.geteuid()


def _unpack(archive: str, folder: Path, ready: Path) -> bool:
    new = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
    try:
        with zipfile.ZipFile(archive) as contents:
            contents.extractall(new)
        with suppress(OSError):  # another call has just made it
            new.rename(ready)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for earlier in folder.glob("plugin-*"):
        if earlier != ready:
            shutil.rmtree(earlier, ignore_errors=True)
    return _is_ours(ready)
