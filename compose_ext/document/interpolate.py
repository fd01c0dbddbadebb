"""Variables in compose values, replaced exactly as `docker stack deploy` does. No I/O here."""

import re
from collections.abc import Mapping

# docker/cli cli/compose/template/template.go, quirks included: `$V-x` without braces takes a default too.
_NAME = r"[_a-z][_a-z0-9]*(?::?[-?][^}]*)?"
_BRACED_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)([^}]*)")
_FORMS = "${V}, ${V:-default}, ${V-default}, ${V:?message} and ${V?message}"
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
            raise ValueError(_misread(text[match.start() :]))
        return _value(found, environment)

    return _VARIABLE.sub(value, text) if "$" in text else text


def unset(text: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Name the variables in a text that `interpolate` replaces by nothing since they are not set, each once."""
    if "$" not in text:
        return ()
    found = (match["named"] or match["braced"] or "" for match in _VARIABLE.finditer(text))
    names = (name for name in found if name and not set(name) & set("-?"))
    return tuple(dict.fromkeys(name for name in names if name not in environment))


def escape(text: str) -> str:
    """Write a text so that `interpolate`, and Docker, give it back."""
    return text.replace("$", "$$")


def _misread(rest: str) -> str:
    """Say what is wrong with a text that begins with a `$`."""
    name = _BRACED_NAME.match(rest)
    if name is None:
        return "'$' must stand before a variable's name; write '$$' for the character itself"
    variable, more = name.groups()
    if more.startswith((":+", "+")):
        return f"docker stack deploy has no {more[: more.index('+') + 1]!r}; it knows {_FORMS.replace('V', variable)}"
    return f"docker stack deploy knows {_FORMS.replace('V', variable)}; write '$$' for the character itself"


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
