"""The roles that operations.md has an operator make in an etcd of their own are those that the code needs."""

from __future__ import annotations

import re
from pathlib import Path

from controller.etcd.roles import WRITE, grants
from mesh.identity.etcd_users import AGENT, CONTROLLER
from mesh.model import keyspace

PAGE = Path(__file__).parents[2] / "docs/operations.md"


def test_the_recipe_grants_what_the_code_writes() -> None:
    text = PAGE.read_text()
    found = re.search(r"for part in ([a-z ]+); do", text)
    assert found is not None
    granted = {f"{keyspace.ROOT}{part}/" for part in found.group(1).split()}
    assert granted == {grant.first.decode() for grant in grants()[AGENT] if grant.kind == WRITE}
    (everything,) = grants()[CONTROLLER]
    assert f"readwrite {everything.first.decode()}" in text


def test_every_list_names_each_nodes_own_keys() -> None:
    parts = {grant.first.decode().removeprefix(keyspace.ROOT) for grant in grants()[AGENT] if grant.kind == WRITE}
    listed = [line for line in PAGE.read_text().splitlines() if "`recalled/ID/`" in line or "`nodes/ID`" in line]
    assert listed
    joined = " ".join(listed)
    assert all(f"`{part}ID" in joined for part in parts)
