"""Files of `--env-file`, read as `docker compose` does: variables for `$V` in compose files.

Our own reader: every mistake is reported with its line, and the plugin starts without another library.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from compose_ext.diagnostics import Place, Problem, Report
from compose_ext.document.interpolate import interpolate

USUAL = ".env"
"""The file that `docker compose` reads without being asked, and docker stack deploy does not."""
MAX_BYTES = 1024 * 1024

_ASSIGNMENT = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(?P<value>.*)", re.DOTALL)
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)\s*(?:#.*)?""", re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s+)#.*")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read_all(paths: Sequence[str], environment: Mapping[str, str], report: Report) -> dict[str, str]:
    """Return the environment with what the files add: later files win, and the environment itself over all.

    Args:
        paths: of `--env-file`, in their order.
        environment: the variables of the process.
        report: takes what is wrong, with its line.
    """
    added: dict[str, str] = {}
    for path in paths:
        report.files.append(path)
        try:
            data = Path(path).read_bytes()
            text = data.decode("utf-8-sig")
        except OSError as error:
            report.add(Problem(f"this --env-file cannot be read ({error.strerror})", file=path))
            continue
        except UnicodeDecodeError:
            report.add(Problem("this --env-file is not UTF-8", file=path))
            continue
        if len(data) > MAX_BYTES:
            report.add(Problem("this --env-file is larger than 1 MiB", file=path))
            continue
        _read(path, text, environment, added, report)
    return {**added, **environment}


def _read(path: str, text: str, environment: Mapping[str, str], added: dict[str, str], report: Report) -> None:
    number = 0
    lines = text.splitlines()
    while number < len(lines):
        line, place = lines[number].strip(), Place(path, number + 1, 1)
        number += 1
        if not line or line.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if not match:
            report.add(Problem(f"{line.partition('=')[0].strip()!r}: write it as NAME=value", place=place))
            continue
        value = match["value"]
        if value[:1] in ('"', "'"):
            # A quoted value may go over several lines.
            while not _QUOTED.fullmatch(value) and number < len(lines) and not _closed(value):
                value, number = f"{value}\n{lines[number]}", number + 1
        try:
            added[match["name"]] = _value(value, {**added, **environment})
        except ValueError as error:
            report.add(Problem(f"{match['name']}: {error}", place=place))


def _closed(value: str) -> bool:
    """Whether a value that begins with a quote ends with one somewhere."""
    return bool(_QUOTED.match(value))


def _value(text: str, variables: Mapping[str, str]) -> str:
    quoted = _QUOTED.fullmatch(text)
    if quoted and quoted["quote"] == "'":
        return quoted["text"]
    if quoted:
        unescaped = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0][-1]), quoted["text"])
        return interpolate(unescaped, variables)
    if text[:1] in ('"', "'"):
        raise ValueError("the quote at its begin is not closed, or something stands behind it")
    return interpolate(_COMMENT.sub("", text, count=1).rstrip(), variables)


def hint(environment_files: Sequence[str]) -> str:
    """Return what to say of a variable that is not set, if a file that nobody asked for may have it."""
    if environment_files or not os.path.isfile(USUAL):  # noqa: PTH113 - as the user's shell sees it
        return ""
    return f" ({USUAL} here is not read, as docker stack deploy does not: --env-file {USUAL} does)"
