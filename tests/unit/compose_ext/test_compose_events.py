"""`docker linkwire events`: times, lines, filters, and an agent that follows, by a docker program that plays one."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from compose_ext.diagnostics import UsageError
from compose_ext.observe.diagnosis.events import written
from compose_ext.pflag import moment

NOW = 1_800_000_000.0
CONTAINER = "c0ffee" + 58 * "0"
AGENT = """#!/bin/sh
# Plays docker, with an agent on it. As docker's, it heeds no signal while its standard input is open.
trap "" TERM INT
case "$1 $2" in
"service ps") echo agenttask ;;
"inspect --type") echo '[{"Status": {"State": "running", "ContainerStatus": {"ContainerID": "CONTAINER"}}}]' ;;
"exec CONTAINER") shift 2; echo "$*" >>"$ASKED"; cat "$LINES" ;;
"exec -i") shift 3; echo "$*" >>"$ASKED"; cat "$LINES"; cat >/dev/null; echo ended >>"$ASKED" ;;
*) echo "docker: $*" >&2; exit 1 ;;
esac
"""


def line(at: float = NOW, kind: str = "link created", **details: str) -> str:
    page = {"v": 1, "time": at, "stream": "decisions", "page": 3, "controller": "m1"}
    return json.dumps({**page, "kind": kind, "details": details}) + "\n"


class Played:
    """A docker with an agent that answers what a test writes."""

    def __init__(self, folder: Path) -> None:
        self.lines, self.asked = folder / "lines", folder / "asked"
        program = folder / "docker"
        program.write_text(AGENT.replace("CONTAINER", CONTAINER))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "LINKWIRE_DOCKER": str(program),
            "LINES": str(self.lines),
            "ASKED": str(self.asked),
            "TZ": "UTC",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "compose_ext", "events", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, error = process.communicate(timeout=30)
        return process.returncode, out, error


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


def test_a_time_is_read() -> None:
    assert moment("90m", NOW, "--since") == NOW - 5400
    assert moment("1796000000", NOW, "--since") == 1796000000
    assert moment("2026-11-28T17:00:00+01:00", NOW, "--since") == datetime(2026, 11, 28, 16, tzinfo=UTC).timestamp()
    local = datetime(2026, 11, 28, 17).astimezone().timestamp()
    assert moment("2026-11-28T17:00", NOW, "--since") == local
    for text in ("", "soon", "90 minutes", "2026-13-01", "9" * 400 + "h"):
        with pytest.raises(UsageError, match=r"--until is a duration \(90m"):
            moment(text, NOW, "--until")


def test_a_line_is_readable_and_printable() -> None:
    event = json.loads(line(consumer="shop_web", reason='a "bad" \x1b[31m label'))
    at, _, rest = written(event).partition("  ")
    assert datetime.fromisoformat(at).timestamp() == NOW
    assert rest == 'link created              consumer=shop_web reason="a \\"bad\\" \\u001b[31m label"'


def test_since_and_until_choose(played: Played) -> None:
    played.lines.write_text(line(NOW - 10, service="a") + line(NOW, service="b") + line(NOW + 10, service="c"))
    code, out, _ = played.run("--since", str(NOW - 1), "--until", str(NOW + 1))
    assert (code, out) == (0, "2027-01-15T08:00:00.000+00:00  link created              service=b\n")
    code, out, _ = played.run("--format=json", "--since", str(NOW))
    assert [json.loads(one)["details"]["service"] for one in out.splitlines()] == ["b", "c"]
    assert played.asked.read_text().splitlines() == ["linkwire-agent events"] * 2


def test_names_and_kinds_choose(played: Played) -> None:
    task = "k3v9x1a7b2c4d5e6f7g8h9i0j"
    played.lines.write_text(
        line(kind="link created", consumer="shop_web", provider="shop_db")
        + line(kind="link key renewed", key="shop_shop")
        + line(kind="task key made", service="workshop_web", task=task, node="n2")
        + line(kind="problem found", reason="service shop_web: links to shop_cache, which does not exist")
    )

    def kinds(*words: str) -> list[str]:
        code, out, error = played.run("--format=json", *words)
        assert (code, error) == (0, "")
        return [json.loads(one)["kind"] for one in out.splitlines()]

    assert kinds("shop") == ["link created", "link key renewed", "problem found"]
    assert kinds("shop_web") == ["link created", "problem found"]
    assert kinds("n2") == kinds(task) == kinds("workshop") == ["task key made"]
    assert kinds("shop_db", "n2") == ["link created", "task key made"]
    assert kinds("--kind", "link") == ["link created", "link key renewed"]
    assert kinds("--kind", "key") == ["link key renewed", "task key made"]
    assert kinds("--kind", "link created", "--kind", "problem found", "shop_db") == ["link created"]
    assert kinds("--kind", "ink") == []


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_damaged_log_is_told(played: Played, form: str) -> None:
    problem = json.dumps({"v": 1, "problem": "audit log, routine: 2 pages are missing: 3-4"}) + "\n"
    played.lines.write_text(problem + line(service="a"))
    code, out, error = played.run("--format", form)
    assert code == 1
    assert "2 pages are missing: 3-4" in out
    assert ("2 pages are missing: 3-4" in error) == (form == "json")
    assert out.count("\n") == 2


def test_bad_words_are_refused(played: Played) -> None:
    for words in (["--since", "soon"], ["-f", "--until", "1h"], ["--format", "table"], ["--kind"]):
        code, _, error = played.run(*words)
        assert code == 2, (words, error)
    assert not played.asked.exists()


@pytest.mark.parametrize(
    "answer", ["{}\n", "no json\n", '{"v": 2, "problem": "x"}\n', '{"v": 1, "kind": "x", "time": 1}\n']
)
def test_another_answer_is_an_error(played: Played, answer: str) -> None:
    played.lines.write_text(answer)
    code, _, error = played.run()
    assert code == 1
    assert "audit log" in error


def test_following_ends_with_the_user(played: Played) -> None:
    """What runs in the container ends as well: its standard input ends with us, whatever ends us."""
    played.lines.write_text(line(service="a"))
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        played.asked.unlink(missing_ok=True)
        process = played.start("-f")
        assert process.stdout is not None
        assert process.stdout.readline().endswith("service=a\n")
        process.send_signal(number)
        assert process.wait(10) == code
        process.communicate()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and played.asked.read_text().splitlines()[-1] != "ended":
            time.sleep(0.05)
        assert played.asked.read_text().splitlines() == ["linkwire-agent events --follow", "ended"]
