"""The `version` of compose files: the same in all files, and one that allows x-* keys. No I/O here."""

import re
from collections.abc import Iterable, Sequence

from compose_ext.document import tree
from compose_ext.document.cursor import Cursor
from compose_ext.language.project import EXTENSION

# Docker CLI 23 and later take "3" and no version for their newest one (docker/cli cli/compose/schema/schema.go).
_NEWEST = "3.13"
_VERSION = re.compile(r"3\.([0-9]|1[0-3])")
# The first minor versions whose schemas allow x-* there (docker/cli cli/compose/schema/data).
_TOP_EXTENSIONS = 4
_SERVICE_EXTENSIONS = 7
# Every docker program knows it, and it has x-* everywhere.
_EVERYWHERE = "3.8"
_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?")


def read_version(roots: Sequence[Cursor], marks: Iterable[Cursor]) -> str | None:
    """Return the files' common version, as Docker has to be given it again; report what Docker would refuse.

    Args:
        roots: all files.
        marks: every `x-wireguard` in them.
    """
    first = roots[0].get("version")
    for root in roots:
        version = root.get("version")
        text = _text(version)
        if version and not _is_text(version):
            continue
        if text != _text(first):
            here, there = (f"version {_text(each)!r}" if each else "no version" for each in (version, first))
            message = f"Docker wants the same version in all files: {here} here, {there} in {roots[0].file}"
            (version or root).error(message)
        elif version and not _VERSION.fullmatch(text):
            version.error(f'docker stack deploy knows no version {text!r}: write "3.8"')
    minor = _minor(first)
    for mark in marks:
        if minor < (_TOP_EXTENSIONS if mark.service is None else _SERVICE_EXTENSIONS):
            where = "at the top" if mark.service is None else "in a service"
            message = (
                f'version "3.{minor}" has no x-* keys {where}: write version: "3.{_SERVICE_EXTENSIONS}" or later'
            )
            mark.error(message, mark.key_place)
    if first and isinstance(first.tree, tree.Scalar) and first.tree.text == "3":
        first.warn(f'Docker CLI 20.10 reads this as "3.0" and refuses {EXTENSION}: "3.8" goes everywhere')
    return first.tree.text if first and isinstance(first.tree, tree.Scalar) else None


def _is_text(version: Cursor) -> bool:
    """Whether a version is the text that every Docker wants; report it if not."""
    value = version.tree
    if not isinstance(value, tree.Scalar):
        version.error(f'must be a text, not {tree.kind(value)}: write version: "3.8"')
    elif value.is_null:
        version.error('docker stack deploy takes no empty version: write "3.8"')
    elif value.plain and _NUMBER.fullmatch(value.text):
        known = value.text if _VERSION.fullmatch(value.text) else _EVERYWHERE
        version.error(f'YAML reads a number here, and Docker wants a text: write version: "{known}"')
    else:
        return True
    return False


def _minor(version: Cursor | None) -> int:
    match = _VERSION.fullmatch(_text(version))
    return int(match[1]) if match else _SERVICE_EXTENSIONS


def _text(version: Cursor | None) -> str:
    if version is None or not isinstance(version.tree, tree.Scalar) or version.tree.text in ("", "3"):
        return _NEWEST
    return version.tree.text
