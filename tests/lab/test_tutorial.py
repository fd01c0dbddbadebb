"""docs/tutorial.md, block by block, as somebody pastes it into a shell on a manager."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.lab.deployment import Deployment
from tests.lab.images import PROJECT

PAGE = PROJECT / "docs/tutorial.md"
MADE_BEFORE = ("docker swarm init", "docker build ", "docker linkwire install ")
"""How the blocks begin which the lab has done: a Swarm, the image, Linkwire."""
SECONDS = 400.0


def blocks() -> list[str]:
    """What is to be typed, in the page's order."""
    found = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [block for block in found if not block.startswith(MADE_BEFORE)]


def test_tutorial_works_as_it_is_written(stacks: Deployment, tmp_path: Path) -> None:
    plugins = tmp_path / "docker/cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-linkwire").symlink_to(Path(sys.executable).parent / "docker-linkwire")
    docker_host = f"unix://{stacks.lab.manager.socket}"
    environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker"), "DOCKER_HOST": docker_host}
    one_machine, _, three_machines = "".join(blocks()).partition("docker stack rm hello\n")
    on_one = "    deploy: {placement: {constraints: [node.role == manager]}}\n    image:"
    script = "\n".join(
        (
            # The lab reaches no registry of images but its own; and this part is for a Swarm of one machine.
            one_machine.replace("nginx:alpine", stacks.images.demo).replace("    image:", on_one),
            "sed -i '/node.role == manager/d' hello.yml",
            three_machines.replace("docker linkwire test\n", ""),  # tests/lab/test_connectivity.py
        )
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<html" in done.stdout
    assert "refused, as it should be" in done.stdout
    assert "every link is wired" in done.stdout + done.stderr
