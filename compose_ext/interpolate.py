"""Replaces variables in compose values exactly as `docker stack deploy` does. No I/O here."""

import re
from collections.abc import Mapping

# docker/cli cli/compose/template/template.go, quirks included: `$V-x` without braces takes a default too.
_NAME = r"[_a-z][_a-z0-9]*(?::?[-?][^}]*)?"
_VARIABLE = re.compile(
    rf"\$(?:(?P<escaped>\$)|(?P<named>{_NAME})|\{{(?P<braced>{_NAME})\}}|(?P<invalid>))", re.IGNORECASE | re.ASCII
)


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """Replace `$V`, `${V}`, `${V:-default}`, `${V-default}`, `${V:?error}`, `${V?error}` and `$$`.

    A variable that is not set, and has neither default nor error, is empty. One difference: Docker forgets an
    error if another variable follows in the same text.

    Raises:
        ValueError: a `$` stands before something else, or a required variable is missing.
    """

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        found = match["named"] or match["braced"]
        if not found:
            raise ValueError("'$' must stand before a variable's name; write '$$' for the character itself")
        return _value(found, environment)

    return _VARIABLE.sub(value, text) if "$" in text else text


def escape(text: str) -> str:
    """Write a text so that `interpolate`, and Docker, give it back."""
    return text.replace("$", "$$")


def _value(found: str, environment: Mapping[str, str]) -> str:
    # The separators are looked for in this order, anywhere in the text, as Docker does.
    for separator, empty_counts in ((":-", False), ("-", True)):
        name, separated, default = found.partition(separator)
        if separated:
            value = environment.get(name)
            return default if value is None or not (value or empty_counts) else value
    for separator, empty_counts in ((":?", False), ("?", True)):
        name, separated, complaint = found.partition(separator)
        if separated:
            value = environment.get(name)
            if value is None or not (value or empty_counts):
                raise ValueError(f"the variable {name} is required: {complaint or 'it is not set'}")
            return value
    return environment.get(found, "")
