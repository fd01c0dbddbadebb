"""`strict` in the compose language: from the file to the labels, with `all`."""

from __future__ import annotations

import pytest

from mesh.model.labels.link_labels import decode
from tests.unit.compose_ext.test_compose_override import compiled


@pytest.mark.parametrize(
    ("written", "label", "meant"),
    [
        ("all", "all", (True, True)),
        ("All", "all", (True, True)),
        ("true", None, (True, False)),
        ("false", "false", (False, False)),
    ],
)
def test_strict_is_written_as_it_is_meant(written: str, label: str | None, meant: tuple[bool, bool]) -> None:
    text = f"x-wireguard: {{}}\nservices: {{a: {{links: [b], x-wireguard: {{strict: {written}}}}}, b: {{}}}}\n"
    labels = compiled(text)["services"]["a"]["deploy"]["labels"]
    assert labels.get("linkwire.strict") == label
    read, errors = decode(labels)
    assert ((read.strict, read.closed), errors) == (meant, ())
