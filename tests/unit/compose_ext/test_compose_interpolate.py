"""Variables are replaced as Docker replaces them, which the newest docker program here is asked about."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compose_ext.document.interpolate import escape, interpolate, unset
from tests.unit.compose_ext.compose_files import newest_docker

FORMS = "${SET}, ${SET:-default}, ${SET-default}, ${SET:?message} and ${SET?message}"
ENVIRONMENT = {"SET": "value", "EMPTY": "", "_x1": "low", "DOLLAR": "$SET"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("$SET", "value"),
        ("${SET}", "value"),
        ("a${SET}b$SET.", "avaluebvalue."),
        ("$_x1${_x1}", "lowlow"),
        ("$UNSET|${UNSET}", "|"),
        ("${UNSET:-d}${EMPTY:-d}${SET:-d}", "ddvalue"),
        ("${UNSET-d}${EMPTY-d}${SET-d}", "dvalue"),
        ("${SET:?e}${SET?e}${EMPTY?e}", "valuevalue"),
        ("$$SET $${SET} $$$SET", "$SET ${SET} $value"),
        ("$DOLLAR", "$SET"),
        ("${UNSET:-a:b-c?d}", "a:b-c?d"),
        ("${UNSET-}", ""),
    ],
)
def test_variables(text: str, result: str) -> None:
    assert interpolate(text, ENVIRONMENT) == result


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$", "'$' must stand before a variable's name; write '$$' for the character itself"),
        ("a $ b", "'$' must stand before a variable's name; write '$$' for the character itself"),
        ("$1", "'$' must stand before a variable's name; write '$$' for the character itself"),
        ("${}", "'$' must stand before a variable's name; write '$$' for the character itself"),
        ("${SET", f"docker stack deploy knows {FORMS}; write '$$' for the character itself"),
        ("${SET!}", f"docker stack deploy knows {FORMS}; write '$$' for the character itself"),
        ("${SET:+x}", f"docker stack deploy has no ':+'; it knows {FORMS}"),
        ("a${SET+x}", f"docker stack deploy has no '+'; it knows {FORMS}"),
        ("${UNSET:?say it}", "the variable UNSET is required: say it"),
        ("${EMPTY:?say it}", "the variable EMPTY is required: say it"),
        ("${UNSET?}", "the variable UNSET is required: it is not set"),
    ],
)
def test_what_is_no_variable(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        interpolate(text, ENVIRONMENT)
    assert str(caught.value) == reason


@given(st.text())
def test_escaped_text_comes_back(text: str) -> None:
    assert interpolate(escape(text), ENVIRONMENT) == text


NAMES = ("SET", "EMPTY", "UNSET", "_x1", "DOLLAR", "9")
piece = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["$", "${", "$$", "a"]),
    st.sampled_from(NAMES),
    st.sampled_from(["", ":-", "-", ":?", "?", ":", "!", "--", ":-:?"]),
    st.sampled_from(["", "}", "d}", "d", " e}", "$SET}", "-}"]),
)
template = st.lists(piece, min_size=1, max_size=3).map("".join)


def ours(text: str) -> str | None:
    try:
        return interpolate(text, ENVIRONMENT)
    except ValueError:
        return None


def dockers(docker: str, folder: Path, templates: list[str]) -> list[str] | None:
    """Let Docker replace the variables in a service's `links`; None if it refuses."""
    file = folder / "a.yml"
    # Docker wants the entries of a list to differ.
    numbered = [f"{number}|{text}" for number, text in enumerate(templates)]
    listed = "".join(f"    - {json.dumps(text)}\n" for text in numbered)
    file.write_text(f"services:\n  a:\n    image: x\n    dns_search:\n{listed}")
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    result = subprocess.run(
        [docker, "stack", "config", "-c", str(file)],
        capture_output=True,
        text=True,
        env=environment | ENVIRONMENT,
        check=False,
    )
    if result.returncode:
        return None
    found = yaml.safe_load(result.stdout)["services"]["a"]["dns_search"]
    return [str(text).partition("|")[2] for text in found]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(template, min_size=1, max_size=40))
def test_docker_agrees(tmp_path: Path, templates: list[str]) -> None:
    docker = newest_docker()
    if docker is None:
        pytest.skip("NO DOCKER CLI >= 23 HERE: nobody to compare the replacing of variables with")
    good = [text for text in templates if ours(text) is not None]
    if good:
        assert dockers(docker, tmp_path, good) == [ours(text) for text in good]
    # Of several variables in one text Docker reports only the last one's error, and forgets it if that one is good.
    for text in [text for text in templates if ours(text) is None and text.count("$") == 1][:2]:
        assert dockers(docker, tmp_path, [text]) is None, text


@pytest.mark.parametrize(
    ("text", "names"),
    [("$UNSET/${OTHER}$UNSET", ("UNSET", "OTHER")), ("${UNSET:-x}${UNSET-}$$UNSET$SET$EMPTY", ()), ("plain", ())],
)
def test_variables_that_are_not_set(text: str, names: tuple[str, ...]) -> None:
    assert unset(text, ENVIRONMENT) == names
