"""Logs of processes under test: errors without a name, secrets, and what is no event at all."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable


def forms(secrets: Iterable[bytes]) -> frozenset[str]:
    """Return secrets in the forms in which somebody may write them."""
    return frozenset(form for secret in secrets for form in (secret.hex(), b64encode(secret).decode()))


def faults(log: str, secrets: Iterable[str]) -> list[str]:
    """Name what is wrong with a log."""
    wrong = ["a secret is in the log" for secret in secrets if secret in log]
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            wrong.append(f"no event: {line[:300]}")
            continue
        if "exception" in entry:
            wrong.append(f"an error without a name: {entry['event']}: {entry['exception'][-1500:]}")
    return wrong


def warns(log: str) -> bool:
    """Tell whether a log says that something was wrong."""
    return any(f'"level": "{level}"' in log for level in ("warning", "error"))
