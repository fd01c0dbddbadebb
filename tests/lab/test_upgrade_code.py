"""`docker linkwire upgrade` to other code: from an earlier commit's image and plugin to these, under requests."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.lab import images
from tests.lab.deployment import Deployment
from tests.lab.fixtures import linked_nodes
from tests.lab.images import PROJECT
from tests.lab.layout import LabError
from tests.lab.programs import Calls

pytestmark = pytest.mark.skipif(
    os.environ.get("LINKWIRE_UPGRADE_LONG") != "1", reason="LINKWIRE_UPGRADE_LONG=1: some minutes more"
)
NODES = 2
BACK = 40
"""Commits of the product's code between the two, unless LINKWIRE_UPGRADE_FROM names one."""
OLD = "0.0.9"
"""Version that the earlier code is given."""
PLUGIN = """\
#!/bin/sh
PYTHONPATH={tree} exec {python} -c 'import sys; from compose_ext.plugin import main; sys.exit(main())' "$@"
"""


def git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(PROJECT), *words], check=True, capture_output=True).stdout


def earlier() -> str:
    """The commit to upgrade from.

    Not one without the holder of wireguard-go, whose upgrade loses some requests: what runs there is replaced too.
    """
    if named := os.environ.get("LINKWIRE_UPGRADE_FROM"):
        return named
    code = ("mesh", "controller", "agent")
    holder = git("rev-list", "HEAD", "--", "agent/holder").decode().split()[-1]
    since = int(git("rev-list", "--count", f"{holder}..HEAD", "--", *code))
    if since < 1:
        raise LabError(
            "the history here is too short: git fetch --unshallow, or name a commit in LINKWIRE_UPGRADE_FROM"
        )
    skipped = min(BACK, since - 1)
    return git("rev-list", "--max-count=1", f"--skip={skipped}", "HEAD", "--", *code).decode().strip()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The earlier code, with a version of its own."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", earlier()))) as tar:
        tar.extractall(folder, filter="data")
    project = folder / "pyproject.toml"
    project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{OLD}"', project.read_text(), count=1))
    return folder


@pytest.fixture
def old(tree: Path, tmp_path: Path) -> Iterator[Deployment]:
    """The earlier Linkwire on two nodes, by its own plugin, with a link from each of them that carries."""
    plugin = tmp_path / "docker-linkwire"
    plugin.write_text(PLUGIN.format(tree=shlex.quote(str(tree)), python=shlex.quote(sys.executable)))
    plugin.chmod(0o755)

    def image(deployment: Deployment) -> str:
        deployment.plugin = plugin
        return images.build_image(deployment.lab, print, images.context(images.wheels(), tree), "earlier")

    with linked_nodes("c", image) as deployment:
        yield deployment


def versions(deployment: Deployment) -> set[str]:
    """What each agent says that it is."""
    agent = deployment.agent(deployment.lab.manager)
    assert agent
    asked = deployment.lab.manager.docker("exec", agent, "linkwire-ask", "links", "{}")
    told: dict[str, Any] = json.loads(asked.stdout)["control"]["agents"]
    assert len(told) == NODES
    return {str(each["version"]) for each in told.values()}


def places(deployment: Deployment) -> list[Any]:
    """Addresses and epochs of the link, and the link's tasks."""
    links = deployment.ps("up")["links"]
    return [
        [
            link["vip"],
            link["epoch"],
            sorted(f"{pair['consumer_task']} {pair['provider_task']}" for pair in link["pairs"]),
        ]
        for link in links
    ]


def test_other_code_comes_without_lost_requests(old: Deployment, figure: Callable[[str], None]) -> None:
    before, was = places(old), versions(old)
    assert was == {OLD}
    old.plugin = Deployment.plugin
    clients = old.tasks("up_client")
    assert len(clients) == NODES
    with ExitStack() as entered:
        calls = [entered.enter_context(Calls(client, "web", "--threads", "1")) for client in clients]
        done = old.try_linkwire("upgrade", "--image", old.images.linkwire, "--timeout", "180", seconds=900)
    for each in calls:
        errors = {call.error for call in each.failed()}
        figure(f"from {earlier()[:12]}: {len(each.failed())} of {len(each.made)} requests lost {errors or ''}")
    assert done.returncode == 0, done.stdout + done.stderr
    now = versions(old)
    assert (len(now), now & was) == (1, set())
    assert places(old) == before
    assert [len(each.failed()) for each in calls] == [0] * NODES
    assert all(len(each.made) > 100 for each in calls)
