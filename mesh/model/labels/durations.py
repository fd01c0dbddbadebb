"""Durations in labels and compose files: `24h`, `1h30m`. Pure."""

import re

MIN_ROTATE = 600
"""Seconds. A session that cannot make a handshake ends after 180 s (WireGuard paper, section 6.2): a key that changes
several times in that while can keep two ends, which never have it in the same moment, from ever agreeing."""
MAX_ROTATE = 3650 * 86400
"""Seconds; ten years."""

_MAX_LENGTH = 128
_DURATION = re.compile(r"(?:[0-9]{1,9}[wdhms])+")
_UNITS = {"w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> int:
    """Read `24h`, `90m`, `1h30m`, `7d`, `2w`, `3600s`.

    Returns:
        Whole seconds, from 1 to MAX_ROTATE.

    Raises:
        ValueError: it is not such a text; the error quotes nothing.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text):
        raise ValueError(f"the unit is missing: write {text}s, {text}m or {text}h")
    if len(text) > _MAX_LENGTH or not _DURATION.fullmatch(text):
        raise ValueError("not a duration: write it as 24h, 90m, 1h30m or 7d")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([wdhms])", text))
    if not 1 <= seconds <= MAX_ROTATE:
        raise ValueError("a duration is at least 1s and at most 3650d")
    return seconds


def parse_rotation(text: str) -> int:
    """Read after how long a link key gets a new secret.

    Returns:
        Whole seconds, from MIN_ROTATE to MAX_ROTATE.

    Raises:
        ValueError: it is no duration, or too short a one.
    """
    seconds = parse_duration(text)
    if seconds < MIN_ROTATE:
        least = format_duration(MIN_ROTATE)
        raise ValueError(f"too often: a session lives for three minutes whatever its key, so write {least} or more")
    return seconds


def format_duration(seconds: int) -> str:
    """Write whole seconds as `parse_duration` reads them: 86400 is `24h`, 90 is `1m30s`."""
    hours, rest = divmod(seconds, 3600)
    parts = ((hours, "h"), (rest // 60, "m"), (rest % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
