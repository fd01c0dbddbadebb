"""Starting programs: for an answer, or detached from this process and for good."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

from tests.lab.layout import LabError
from tests.support.patience import slowness

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.lab.cgroup import Group

# A user's DOCKER_HOST, ETCD_NAME or HTTP_PROXY must not reach the lab's daemons.
CLEAN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    # Docker collects garbage less often, for 25 MiB a daemon: a tenth less of a processor to start containers.
    "GOGC": "400",
}
LOG_TAIL = 15
LONGEST_PAUSE = 5.0
"""Seconds. A shorter one has the waits of a busy machine ask all the time, which keeps it busy."""


def need(*commands: str) -> None:
    """Check that all commands are installed.

    Raises:
        LabError: some are not; it names them.
    """
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        raise LabError(f"not installed: {', '.join(missing)}. Run deploy/bootstrap.sh")


def answer(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, `timeout` in seconds of a machine that is not busy.

    Raises:
        LabError: with `check`, it failed (the message has its stderr); always, it took too long.
    """
    timeout *= slowness()
    try:
        # No stdin is an empty one: nothing here may wait for a keyboard.
        done = subprocess.run(
            argv, capture_output=True, text=True, input=stdin or "", timeout=timeout, env=env, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: no end after {timeout:.0f} s") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing said")[-2000:]
        raise LabError(f"{' '.join(argv)}: exit code {done.returncode}: {said}")
    return done


def feed(argv: Sequence[str], data: bytes, *, timeout: float, env: Mapping[str, str]) -> None:
    """Run a program to its end with `data` as its stdin, `timeout` in seconds.

    Raises:
        LabError: it failed (the message has the end of what it said), or took too long.
    """
    try:
        done = subprocess.run(argv, capture_output=True, input=data, timeout=timeout, env=env, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: no end after {timeout:.0f} s") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()[-4000:]
        raise LabError(f"{' '.join(argv)}: exit code {done.returncode}:\n{said}")


def detach(argv: Sequence[str], group: Group, log: Path) -> None:
    """Start a daemon in `group`, in a session of its own and child of nobody here, output to `log`.

    When this returns the process is in its group: there is no moment in which a crash of ours could lose it.
    """
    group.make()
    log.parent.mkdir(parents=True, exist_ok=True)
    script = 'echo $$ >"$0" && exec setsid --fork "$@"'
    with log.open("ab") as out:
        subprocess.run(
            ["sh", "-c", script, str(group.procs), *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=CLEAN_ENVIRONMENT,
            cwd="/",
            check=True,
        )


def wait_for(what: str, ready: Callable[[], bool], *, seconds: float, every: float = 0.05) -> None:
    """Wait until `ready()`, asking again after `every` seconds.

    A question that takes long takes the processor from what is awaited: it is asked a quarter of the time at most.

    Raises:
        LabError: it was not after `seconds`, or more where the machine is busy; the message has `what`.
    """
    began = asked = time.monotonic()
    while not ready():
        now = time.monotonic()
        if now > began + seconds * slowness():
            raise LabError(f"waited {now - began:.0f} s for {what}")
        time.sleep(max(every, min(3 * (now - asked), LONGEST_PAUSE)))
        asked = time.monotonic()


def wait_for_daemon(name: str, ready: Callable[[], bool], group: Group, log: Path, *, seconds: float) -> None:
    """Wait until a detached daemon is `ready()`; give up at once when it died.

    Raises:
        LabError: with the last lines of its log.
    """
    began = time.monotonic()
    while not ready():
        dead = not group.pids()
        if dead or time.monotonic() > began + seconds * slowness():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL:])
            how = "died while starting" if dead else f"is not ready after {time.monotonic() - began:.0f} s"
            raise LabError(f"{name} {how}; the end of {log}:\n{tail}")
        time.sleep(0.05)


def docker_cli() -> str:
    """The Docker CLI to use: LINKWIRE_DOCKER, or `docker` as PATH has it."""
    return os.environ.get("LINKWIRE_DOCKER", "docker")
