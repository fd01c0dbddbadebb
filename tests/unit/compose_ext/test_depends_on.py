"""The long form of `depends_on`, written as the short one: the file means the same otherwise, line by line."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from compose_ext.document.depends_on import Spot, shortened

BLOCK = """\
services:
  web:
    depends_on:
      db:
        condition: service_healthy
        restart: true   # why
      # a remark
      "c: d": {condition: service_started}

    # another
    image: x
  other:
    depends_on: {db: {condition: service_healthy}, cache: }
    image: "ü"
"""


def spots(text: str) -> list[Spot]:
    """Where the long forms begin."""
    found = []
    root = yaml.compose(text)
    assert root
    services = {key.value: value for key, value in root.value}["services"]
    for _, service in services.value:
        for key, value in service.value:
            if key.value == "depends_on" and isinstance(value, yaml.MappingNode):
                found.append((value.start_mark.line + 1, value.start_mark.column + 1))
    return found


def short(text: str) -> Any:  # noqa: ANN401 - YAML
    meant = yaml.safe_load(text)
    for service in meant["services"].values():
        if isinstance(service.get("depends_on"), dict):
            service["depends_on"] = list(service["depends_on"])
    return meant


@pytest.mark.parametrize(
    "text",
    [
        BLOCK,
        "services: {a: {depends_on: {b: {condition: x}}, image: q}}",
        "services:\n  web:\n    depends_on:\n      db:\n        condition: service_healthy",
        "services:\n  web:\n    depends_on:\n      db: {condition: x}",
        "services:\n  web:\n    depends_on:\n      db:\n  x: {}\n",
        (
            "services:\n  web:\n    depends_on: &d\n      db:\n        condition: x\n      e:\n    image: z\n"
            "  x: {depends_on: *d}\n"
        ),
        "services:\n  web:\n    depends_on: {\n      db: {condition: x},\n      cache: {a: b}\n    }\n    image: y\n",
        "services:\n  web:\n    depends_on:\n      db: &c {condition: x}\n      cache: *c\n    image: y\n",
    ],
)
def test_all_but_the_form_stays(text: str) -> None:
    written = shortened(text, spots(text))
    assert yaml.safe_load(written) == short(text)
    assert written.count("\n") == text.count("\n"), "Docker's errors name lines"


def test_unrequested_waiting_stays_as_it_is() -> None:
    assert shortened(BLOCK, []) == BLOCK


def test_tab_accepted_by_the_reader_is_accepted_here() -> None:
    text = "services:\n  web:\n    image: x\t# a tab\n    depends_on: {db: {condition: service_healthy}}\n"
    written = shortened(text, [(4, 17)])
    assert "[" in written or "- " in written
    assert "condition" not in written
