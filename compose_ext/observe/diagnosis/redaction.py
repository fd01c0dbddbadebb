"""Removal of everything that could be a secret from text that leaves the house. Pure.

A second line of defence: what is gathered has no secrets by its choice. A key, public or not, becomes a short
fingerprint, by which two places can still be compared.
"""

import hashlib
import re
from dataclasses import dataclass

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL)
_SWARM = re.compile(r"SWM(?:TKN|KEY)-1-[A-Za-z0-9+/=-]+")
_USERINFO = re.compile(r"(?<=://)[^/@\s\"']+@")
_BEARER = re.compile(r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<before>[A-Za-z0-9_.-]*(?:passw(?:or)?d|passphrase|passwd|secret|token|api[_-]?key|private[_-]?key|preshared"
    r"[_-]?key|credential|authorization|seed)[A-Za-z0-9_.-]*\\?[\"']?\s*[=:]\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|\\\"(?:\\\\\\.|[^\"\\]|\\[^\"])*\\\"|'[^']*'|[^\s,;}\"'\]]+)",
    re.IGNORECASE,
)
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{40,}|[0-9A-F]{40,})(?![0-9A-Za-z])")
"""A container's id or a fingerprint; but a secret may be written in the same way."""
_DIGEST = re.compile(r"(?:sha256|sha512):$")
_LONG = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{40,}={0,2}")
"""Base64 in both alphabets; a path has no capital letters, mostly."""
_BOTH = re.compile(r"[a-z].*[A-Z]|[A-Z].*[a-z]")
_HARMLESS = frozenset({"null", "none", "true", "false", "", "0"})
GONE = "(removed)"


@dataclass(slots=True)
class Redactor:
    """Removes secrets from texts, and counts them."""

    removed: int = 0

    def __call__(self, text: str) -> str:
        """Return a text without anything that could be a secret."""
        for pattern, put in (
            (_PEM, self._gone),
            (_SWARM, self._gone),
            (_USERINFO, self._user),
            (_BEARER, self._bearer),
            (_NAMED, self._named),
            (_HEX, self._hex),
            (_LONG, self._long),
        ):
            text = pattern.sub(put, text)
        return text

    def _gone(self, _found: re.Match[str]) -> str:
        self.removed += 1
        return GONE

    def _user(self, _found: re.Match[str]) -> str:
        self.removed += 1
        return f"{GONE}@"

    def _bearer(self, found: re.Match[str]) -> str:
        self.removed += 1
        return f"{found[1]}{GONE}"

    def _named(self, found: re.Match[str]) -> str:
        value = found["value"]
        bare = value.strip("\\\"'")
        if bare.lower() in _HARMLESS or bare.startswith(("(removed", "(key ", "{", "[")) or _is_name(bare):
            return found[0]
        self.removed += 1
        quote = value[: len(value) - len(value.lstrip("\\\"'"))]
        return f"{found['before']}{quote}{GONE}{quote}"

    def _hex(self, found: re.Match[str]) -> str:
        is_digest = _DIGEST.search(found.string[max(0, found.start() - 7) : found.start()])
        return found[0] if is_digest else self._fingerprint(found[0])

    def _long(self, found: re.Match[str]) -> str:
        is_key = found[0].endswith("=") or _BOTH.search(found[0])
        return self._fingerprint(found[0]) if is_key else found[0]

    def _fingerprint(self, text: str) -> str:
        self.removed += 1
        return f"(key {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _is_name(text: str) -> bool:
    """Tell whether a value is the name of a Docker secret of Linkwire's, which says nothing of its content."""
    return re.fullmatch(r"linkwire_[a-z_]{1,40}(?:_[0-9]{1,6})?", text) is not None
